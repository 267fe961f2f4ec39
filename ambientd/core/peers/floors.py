"""How far each sender has counted, so that nothing that was taken once is taken again.

A sender counts its snapshots on a *line*: a random name and a number that only grows. It starts a new line
when its counter is lost or long; a new key is a new sender and so has lines of its own.
"""

from collections.abc import Mapping

import msgspec

# How far a sender may jump ahead of what was seen; a jump to 2**63 would shut out the sender for ever.
JUMP_MAX = 2**20
# A line ends where its last number could no longer be reached by somebody who never saw it.
LINE_LENGTH = JUMP_MAX
# A sender that loses its counter at every start has a new line each time; older lines go (see `raised`).
LINES_KEPT = 8


class LineFloor(msgspec.Struct, frozen=True):
    """The highest number taken of one line, and when that snapshot was issued (ms since the epoch)."""

    line: str
    sequence: int
    issued_at: int


class SignerFloor(msgspec.Struct, frozen=True):
    """What is remembered of one sender. `since` (ms since the epoch): lines of snapshots issued before it
    may have been forgotten. `lines` has the last one used at its end."""

    version: int = 0
    since: int = 0
    lines: tuple[LineFloor, ...] = ()

    def line(self, name: str) -> LineFloor | None:
        """What is remembered of a line; None when it is not known."""
        return next((line for line in self.lines if line.line == name), None)

    def raised(self, *, version: int, line: str, sequence: int, issued_at: int) -> "SignerFloor":
        """The floor after a snapshot was taken.

        When a line has to go, `since` moves up to its last snapshot, so that what was sent on it is not
        taken for new.
        """
        seen = LineFloor(line, sequence, issued_at)
        others = tuple(known for known in self.lines if known.line != line)
        return _bounded(max(self.version, version), self.since, (*others, seen))


class Floors(msgspec.Struct, frozen=True):
    """What a node remembers of all senders, by public key. `since` (ms since the epoch) is when it began to
    remember: the time its store was made, so that a lost store cannot be used for replays."""

    since: int
    signers: Mapping[bytes, SignerFloor] = {}

    def of(self, signer: bytes) -> SignerFloor:
        """What is remembered of a sender; never None."""
        return self.signers.get(signer) or SignerFloor()


def merged(one: SignerFloor, other: SignerFloor) -> SignerFloor:
    """The higher of two floors of one sender in every respect, for floors raised on two ways at once."""
    lines = {line.line: line for line in one.lines}
    for line in other.lines:
        known = lines.get(line.line, line)
        lines[line.line] = LineFloor(
            line.line, max(known.sequence, line.sequence), max(known.issued_at, line.issued_at)
        )
    by_age = sorted(lines.values(), key=lambda line: line.issued_at)
    return _bounded(max(one.version, other.version), max(one.since, other.since), tuple(by_age))


def _bounded(version: int, since: int, lines: tuple[LineFloor, ...]) -> SignerFloor:
    gone = (line.issued_at for line in lines[:-LINES_KEPT])
    return SignerFloor(version, max(since, *gone, 0), lines[-LINES_KEPT:])


class SendLine(msgspec.Struct, frozen=True):
    """The line that this node counts on; `next` is the number of its next snapshot.

    Keep it so that no number is given twice, also over a crash: write down `next` plus a stride before any
    of that stride is used, and continue behind it after a start. Without a record: `fresh`.
    """

    line: str
    next: int = 1

    def take(self, spare: str) -> "tuple[SendLine, int]":
        """The line to go on with, and the number that was taken on it: `spare` is the name of the line that
        is begun when this one is at its end (`line_name` of 8 random bytes)."""
        if self.next > LINE_LENGTH:
            return SendLine(spare, 2), 1
        return SendLine(self.line, self.next + 1), self.next


def line_name(random: bytes) -> str:
    """The name of a new line, from 8 random bytes."""
    return random.hex()
