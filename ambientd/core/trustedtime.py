"""Time that an expiry can be held against: it never goes back, whatever the wall clock does.

Two clocks are folded into one mark. The boot clock (it counts suspend too) says how much time has passed
since the mark; the wall clock says more only where nothing speaks against it. What the wall clock claims
beyond that is used for refusing, never for allowing, and never enters the mark.
"""

import msgspec

SECOND_MS = 1_000
DAY_MS = 86_400 * SECOND_MS
# Clocks are stepped by as much in ordinary life; less is not worth a word.
SLACK_MS = 60 * SECOND_MS
# How far the wall clock may run ahead of the boot clock without a synchronised kernel.
STEP_MAX_MS = DAY_MS
# After a start of the machine nothing but the wall clock tells how long it was off: a season is believed.
OFF_MAX_MS = 90 * DAY_MS
CLOCK_IN_DOUBT = "clock.in_doubt"  # the problem's id in status, where doctor looks for it
_WORDS = ((DAY_MS, "d"), (3_600 * SECOND_MS, "h"), (60 * SECOND_MS, "m"), (SECOND_MS, "s"))


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Both clocks at one moment, in ms; `boot_ms` counts since the start of the machine that has `boot_id`.

    `synchronised`: the kernel, or who sets its clock, says that the wall clock is right.
    """

    wall_ms: int
    boot_ms: int
    boot_id: str
    synchronised: bool = False


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the time. `floor_ms` was certainly reached when the boot clock said `boot_ms`.

    `confirmed`: the wall clock fitted during this boot, so the floor is about right and not only a lower
    bound. `ahead_ms`: how far beyond the floor a wall clock has been that nothing refutes.
    """

    floor_ms: int
    boot_ms: int
    boot_id: str
    confirmed: bool = False
    ahead_ms: int = 0


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """The time of one moment. It is not before `earliest_ms`, and not after `latest_ms` (None: unknown).

    `now_ms` is the later of wall clock and mark; `doubt` says why the wall clock is not believed. `boot_ms`
    and `boot_id` are the boot clock's, for durations.
    """

    earliest_ms: int
    latest_ms: int | None
    now_ms: int
    boot_ms: int
    boot_id: str
    doubt: str | None = None


def fold(mark: Mark | None, reading: Reading, *, released_ms: int) -> Mark:
    """The mark after one more reading; its floor is never lower than before.

    Without any mark the first wall clock past `released_ms`, the day this version was made, is believed.
    """
    if mark is None:
        mark = Mark(floor_ms=released_ms, boot_ms=reading.boot_ms, boot_id=reading.boot_id)
        reach = _endless(reading)
    else:
        mark = _advanced(mark, reading, released_ms)
        reach = STEP_MAX_MS if mark.confirmed else OFF_MAX_MS
    gap = reading.wall_ms - mark.floor_ms
    if reading.wall_ms < released_ms:
        return mark
    if reading.synchronised:
        return _at(mark, mark.floor_ms + max(gap, 0), ahead_ms=0)
    if -SLACK_MS <= gap <= reach:
        return _at(mark, mark.floor_ms + max(gap, 0), ahead_ms=max(0, mark.ahead_ms - max(gap, 0)))
    if gap > reach and not mark.confirmed:
        # The machine was off, so this may be the truth: it is remembered for refusing.
        return msgspec.structs.replace(mark, ahead_ms=max(mark.ahead_ms, gap))
    return mark


def judge(mark: Mark, reading: Reading, *, released_ms: int) -> Trusted:
    """What the time is, by a mark that this reading was folded into."""
    behind = mark.floor_ms - reading.wall_ms
    later = max(mark.floor_ms + mark.ahead_ms, reading.wall_ms)
    return Trusted(
        earliest_ms=mark.floor_ms,
        latest_ms=later if mark.confirmed else None,
        now_ms=later,
        boot_ms=reading.boot_ms,
        boot_id=reading.boot_id,
        doubt=_doubt(mark, reading, behind, released_ms),
    )


def accept(reading: Reading, *, released_ms: int) -> Mark | None:
    """The mark when an operator answers for the wall clock; None when it cannot be right.

    The only way for a mark to go back.
    """
    if reading.wall_ms < released_ms:
        return None
    return Mark(floor_ms=reading.wall_ms, boot_ms=reading.boot_ms, boot_id=reading.boot_id, confirmed=True)


def _endless(reading: Reading) -> int:
    return max(0, reading.wall_ms)


def _advanced(mark: Mark, reading: Reading, released_ms: int) -> Mark:
    """By what the boot clock says; after another start of the machine it says nothing."""
    same = mark.boot_id == reading.boot_id and reading.boot_ms >= mark.boot_ms
    floor = mark.floor_ms + (reading.boot_ms - mark.boot_ms if same else 0)
    return Mark(
        floor_ms=max(floor, released_ms),
        boot_ms=reading.boot_ms,
        boot_id=reading.boot_id,
        confirmed=mark.confirmed and same,
        ahead_ms=mark.ahead_ms,
    )


def _at(mark: Mark, floor_ms: int, *, ahead_ms: int) -> Mark:
    return msgspec.structs.replace(mark, floor_ms=floor_ms, confirmed=True, ahead_ms=ahead_ms)


def _doubt(mark: Mark, reading: Reading, behind: int, released_ms: int) -> str | None:
    if reading.wall_ms < released_ms:
        return "the wall clock is before the day this version was made: it was never set"
    if behind > SLACK_MS:
        return f"the wall clock is {_span(behind)} behind what this node has seen"
    if -behind > SLACK_MS:
        return f"the wall clock is {_span(-behind)} ahead of where it should be, and nothing confirms it"
    if mark.ahead_ms:
        return f"the wall clock was {_span(mark.ahead_ms)} later before it was set, and nothing refutes it"
    return None


def _span(ms: int) -> str:
    for unit, name in _WORDS:
        if ms >= unit:
            return f"{ms // unit} {name}"
    return "less than a second"
