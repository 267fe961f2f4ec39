"""When to try the gateway again: 1 s, doubled up to 30 s, unless a refusal says otherwise."""

import msgspec

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
# Only a link that stood this long forgives what was before it: one that flaps every second must not be
# met with an attempt every second.
GOOD_LINK = 30.0
# A gateway says itself when to come back; far longer than its own lock-out would be a mistake.
LONGEST_TOLD = 3600.0
# While it starts it is asked at its own pace, this often; then it is only one more that does not answer.
PATIENT_ATTEMPTS = 30
_STARTING_PAUSE = 2.0


class Pace(msgspec.Struct, frozen=True):
    """`attempt` counts since the link last stood for GOOD_LINK; `starting` the answers "I am starting"."""

    attempt: int = 0
    starting: int = 0


def began(pace: Pace) -> Pace:
    """An attempt begins."""
    return msgspec.structs.replace(pace, attempt=pace.attempt + 1)


def lasted(pace: Pace, seconds: float) -> Pace:
    """A link stood for so long before it ended."""
    return Pace() if seconds >= GOOD_LINK else msgspec.structs.replace(pace, starting=0)


def pause(pace: Pace, jitter: float) -> float:
    """Seconds until the next attempt: between half and all of the doubled pause. `jitter` is in [0, 1)."""
    doubled = FIRST_PAUSE * 2.0 ** min(max(pace.attempt - 1, 0), 10)
    return float(min(doubled, LONGEST_PAUSE) * (0.5 + jitter / 2))


def starting_pause(pace: Pace, told: float | None, jitter: float) -> tuple[Pace, float]:
    """The pause while the gateway starts: what it told within 0.5 s to 2 s, for a while."""
    pace = msgspec.structs.replace(pace, starting=pace.starting + 1)
    if pace.starting > PATIENT_ATTEMPTS:
        return pace, pause(pace, jitter)
    own = min(_STARTING_PAUSE, 0.5 * 2.0 ** (pace.starting - 1))
    return pace, float(min(max(told or 0.0, own), _STARTING_PAUSE) * (1 + jitter / 4))


def slow_pause(seconds: float, jitter: float) -> float:
    """At least `seconds`: many nodes must not come back in the same instant."""
    return float(seconds * (1 + jitter / 10))
