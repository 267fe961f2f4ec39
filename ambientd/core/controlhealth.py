"""Whether what answers at the control plane's address is one: its health document, and nothing else.

A captive portal answers everything, with a page or a redirect, and may even do so with status 200.
"""

import msgspec

from ambientd.core.connectivity import Answer
from ambientd.core.text import cut, printable

HEALTH_PATH = "/api/v1/health"
HEALTHY = "healthy"
BODY_MAX = 64 * 1024  # the document has three short fields; a portal's page is not read to its end
PORTAL = "a captive portal?"
_NETWORK_LOGIN = 511  # RFC 6585: the network itself asks for a log-in
_WORD_MAX = 40


class _Health(msgspec.Struct):
    status: str


def judge_health(status: int, content_type: str, body: bytes) -> Answer:
    """The verdict over one answer; nothing that a stranger sent gets further than 40 printable characters."""
    if 300 <= status < 400:
        return Answer(False, f"the address redirects elsewhere ({PORTAL})")
    if status == _NETWORK_LOGIN:
        return Answer(False, "the network asks for a log-in (a captive portal)")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        if status == 200:
            return Answer(False, f"the address answers, but not as a control plane ({PORTAL})")
        return Answer(False, f"the address answers HTTP {status}")
    try:
        found = msgspec.json.decode(body, type=_Health)
    except msgspec.DecodeError:
        return Answer(False, f"the address answers HTTP {status}, but not as a control plane")
    if status == 200 and found.status == HEALTHY:
        return Answer(True)
    word = cut(printable(found.status), _WORD_MAX)
    return Answer(False, f"the control plane says that it is {word} (HTTP {status})")
