"""What the node does about its outbox: which stream next, what an answer means, when to try again, and which
reports go when there is no room. Pure.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from ambientd.core.outboxrecords import Contact, ReportMark
from ambientd.core.trustedtime import Trusted
from ambientd.wire.outbox_enums import OutboxStream

# The order in which streams are emptied after the node was away: what came of work, then what was done and
# by whom, then the rest; old reports, which only draw curves, last.
ORDER = (
    OutboxStream.RESULTS,
    OutboxStream.AUDIT,
    OutboxStream.LEDGER,
    OutboxStream.DELTA_V,
    OutboxStream.REPORTS,
)

FIRST_PAUSE_SEC = 2.0
LONGEST_PAUSE_SEC = 300.0
# A Retry-After beyond this is taken for a mistake: a day without a word would look like a dead node.
RETRY_AFTER_MAX_SEC = 3_600.0
# After a credential was refused: an operator has to act, or the control plane comes to itself.
REFUSED_PAUSE_SEC = 3_600.0

# Reports that say something new are kept longer than those that draw a curve.
ORDINARY, CHANGE = 1, 5
# The first half of what there is room for is the beginning of an outage, and stays. Behind it the second half
# is thinned out evenly, but for its newest reports.
HEAD_SHARE = 0.5
NEWEST_KEPT = 10
# So much goes at once, so that it is not looked for at every report.
THIN_SHARE = 1 / 16

# No number that a control plane names is higher: it would leave none to go on with, here or in the database.
NUMBER_MAX = 10**17


class Meaning(Enum):
    """What an answer of the control plane comes to."""

    DONE = "taken"
    AGAIN = "not now"
    REFUSED = "never as it is"
    TOO_LARGE = "too much at once"
    BEHIND = "the numbers do not fit"
    REPLAYED = "the request's number was used"
    GONE = "the credential counts no longer"
    UNKNOWN = "there is no such thing"


class Reply(NamedTuple):
    """An answer: status, the error's code and its details by field (`expected`), and how long to wait."""

    status: int
    code: str = ""
    message: str = ""
    details: Mapping[str, str] = {}
    retry_after: float | None = None


_BY_CODE = {
    "REPLAYED": Meaning.REPLAYED,
    "NOT_AUTHENTICATED": Meaning.GONE,
    "PAYLOAD_TOO_LARGE": Meaning.TOO_LARGE,
}
_BY_STATUS = {
    400: Meaning.REFUSED,
    401: Meaning.GONE,
    404: Meaning.UNKNOWN,
    409: Meaning.BEHIND,
    413: Meaning.TOO_LARGE,
    422: Meaning.REFUSED,
}


def meaning_of(reply: Reply) -> Meaning:
    """A redirect is never followed: whoever answers there has no right to the token."""
    if 200 <= reply.status < 300:
        return Meaning.DONE
    return _BY_CODE.get(reply.code) or _BY_STATUS.get(reply.status, Meaning.AGAIN)


def pause_after(failures: int, share: float, retry_after: float | None = None) -> float:
    """Seconds to wait after so many failures in a row: anything up to a bound that doubles (full jitter), and
    never less than the control plane asked for. `share` is random, in [0, 1)."""
    bound = min(LONGEST_PAUSE_SEC, FIRST_PAUSE_SEC * 2.0 ** min(max(failures, 1) - 1, 16))
    pause = bound * share
    if retry_after is None or retry_after <= 0:
        return pause
    # Everybody was told the same time: what comes on top keeps them apart.
    return min(retry_after, RETRY_AFTER_MAX_SEC) + min(pause, FIRST_PAUSE_SEC * 2)


def next_stream(waiting: Mapping[OutboxStream, int], held_up: frozenset[OutboxStream]) -> OutboxStream | None:
    """The stream to send of next; None when nothing waits that could be sent."""
    return next((one for one in ORDER if waiting.get(one, 0) > 0 and one not in held_up), None)


def is_number(*values: int) -> bool:
    """Whether these can be places in streams, revisions, or numbers of requests."""
    return all(0 <= value <= NUMBER_MAX for value in values)


def confirmed(sent: Sequence[int], acked: int, given: int) -> int | None:
    """How far numbers that were just sent are durable by an answer that names the last one.

    It may name a later one that was sent before, whose answer was lost; that proves nothing beyond what was
    sent now. None when it names one that was never given, which proves nothing at all.
    """
    if not sent or acked > max(given, sent[-1]):
        return None
    return min(acked, sent[-1])


def beat_due(last: float, interval: float, share: float) -> float:
    """When the next report is due after one at `last`: the interval, a tenth more or less."""
    return last + interval * (0.9 + 0.2 * share)


# --- reports that find no room


def too_many(marks: Sequence[ReportMark], *, bytes_max: int) -> list[int]:
    """Which reports go so that the rest fits, by number; none while all fit.

    `marks` are all that wait, oldest first. The first half of the room is never touched: the beginning of an
    outage says most about it. Of the others ordinary ones go first, and of equals those whose neighbours
    are nearest, so that what is left is spread evenly over the time.
    """
    total = sum(mark.bytes for mark in marks)
    if total <= bytes_max:
        return []
    goal = int(bytes_max * (1 - THIN_SHARE))
    head, room = 0, bytes_max * HEAD_SHARE
    while head < len(marks) and marks[head].bytes <= room:
        room -= marks[head].bytes
        head += 1
    newest = max(1, min(NEWEST_KEPT, len(marks) - head - 1))
    middle = list(marks[head : len(marks) - newest])
    gone: list[int] = []
    before = marks[head - 1] if head else None
    while total > goal and middle:
        chosen = _thinnest(middle, before, total - goal)
        total -= sum(mark.bytes for mark in chosen)
        gone += [mark.seq for mark in chosen]
        numbers = set(gone)
        middle = [mark for mark in middle if mark.seq not in numbers]
    if total > bytes_max:  # nothing but the head and the newest is left, and these are too large
        gone += _oldest_behind(marks[len(marks) - newest :], total - bytes_max)
    return sorted(gone)


def _thinnest(middle: Sequence[ReportMark], before: ReportMark | None, excess: int) -> list[ReportMark]:
    """Marks that are not neighbours, the least telling first, until their bytes are enough."""
    lowest = min(mark.priority for mark in middle)
    gaps = []
    for place, mark in enumerate(middle):
        earlier = middle[place - 1] if place else before
        gap = mark.at_ms - earlier.at_ms if earlier is not None else 0
        if mark.priority == lowest:
            gaps.append((gap, mark.seq, place))
    taken: dict[int, ReportMark] = {}
    for _, _, place in sorted(gaps):
        if excess <= 0:
            break
        if place - 1 in taken or place + 1 in taken:
            continue
        taken[place] = middle[place]
        excess -= middle[place].bytes
    return list(taken.values())


def _oldest_behind(newest: Sequence[ReportMark], excess: int) -> list[int]:
    gone = []
    for mark in newest[:-1]:
        if excess <= 0:
            break
        gone.append(mark.seq)
        excess -= mark.bytes
    return gone


# --- time without the control plane


def away_ms(contact: Contact | None, now: Trusted) -> int:
    """How long ago the control plane last answered, at the most; 0 when it never has.

    Within one boot of the machine the boot clock says it. Over a start of the machine only the wall clock
    can, and the later of what it may be counts: work that must not run twice is rather ended too early.
    """
    if contact is None:
        return 0
    if contact.boot_id == now.boot_id:
        return max(0, now.boot_ms - contact.boot_ms)
    return max(0, now.now_ms - contact.at_ms)
