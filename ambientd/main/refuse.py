"""A start that comes to nothing: why, for everybody who may ask.

The reasons go to standard error, into the status line of the unit, and to the clients that wait at the
socket. A client that is left in its queue would have systemd start the daemon again at once, and so on.
"""

from collections.abc import Sequence

import msgspec

from ambientd.host.clock import SystemClock
from ambientd.host.notify import Notifier, PassedSocket
from ambientd.main.config_print import complain
from ambientd.net.http_answer import head_of, http_date
from ambientd.net.turn_away import turn_away
from ambientd.net.unix_socket import ListenError, adopt_unix_listener
from ambientd.ports.http import Response
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import ErrorBody, ErrorDetail, ErrorEnvelope

REQUEST_ID = "start"
DETAILS_MAX = 64


def refuse(
    sentence: str, problems: Sequence[str], *, notifier: Notifier, passed: Sequence[PassedSocket]
) -> None:
    """Tells `sentence` and the problems behind it, or only the problems on standard error if there are any.

    Blocks for some seconds at most.
    """
    for line in problems or (sentence,):
        complain(f"Error: {line}")
    notifier.status(" ".join((sentence, *problems)))
    clock = SystemClock()
    answer = _answer(sentence, problems, http_date(clock.now()))
    for item in passed:
        try:
            listener = adopt_unix_listener(item.fd)
        except ListenError:
            continue
        turn_away(listener.sock, answer, clock.monotonic)


def _answer(sentence: str, problems: Sequence[str], date: str) -> bytes:
    details = [ErrorDetail("configuration", "invalid", text) for text in problems[:DETAILS_MAX]]
    row = ERRORS["NOT_READY"]
    envelope = ErrorEnvelope(ErrorBody(row.code, sentence, details, REQUEST_ID))
    response = Response(row.status, msgspec.json.encode(envelope))
    line = b"Date: " + date.encode("ascii") + b"\r\n"
    return head_of(response, request_id=REQUEST_ID, date=line, close=True) + response.body
