"""From what this machine's meters say to the inputs of Δv: the mapping `ambient.node/1`.

- P is the machine's power in watts.
- w is how far the run queue per core is from its target, whichever way.
- v is how many sessions were completed within the last hour, relative to the nominal number. It is cut at 10:
  the formula grows with it without end, and a count beyond says nothing more.
- M is the memory in use on the machine, in GiB.

A session is given a part of P and has the machine's w, v and M, so that sessions add up to no more than the
machine.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from ambientd.core.delta_v import Sample
from ambientd.core.power import Input, Metered, choose_power
from ambientd.wire.enums import MetricConfidence

MAPPING = "ambient.node/1"
UNIT = "J/GiB"
"""What Δv is a number of: w, v and the parameters have no unit."""

VELOCITY_MAX = 10.0
HIGH, MEDIUM, LOW = MetricConfidence.HIGH, MetricConfidence.MEDIUM, MetricConfidence.LOW
_ORDER = (HIGH, MEDIUM, LOW, MetricConfidence.UNKNOWN)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the meters said at one moment. None is what cannot be read.

    `seconds` since the reading before, and over it: `busy` core-seconds of all cores, `sessions` core-seconds
    by session, `asleep` seconds of suspension. `queue` counts processes that run or wait, averaged over a
    minute; `memory` is in GiB.
    """

    seconds: float | None = None
    asleep: float = 0.0
    power: tuple[Metered, ...] = ()
    busy: float | None = None
    cores: int | None = None
    queue: float | None = None
    memory: float | None = None
    sessions: Mapping[str, float] = {}

    @property
    def busy_cores(self) -> float | None:
        """How many cores were busy, on average."""
        return self.busy / self.seconds if self.busy is not None and self.seconds else None


class Yardstick(msgspec.Struct, frozen=True, kw_only=True):
    """What this node is measured by; see the settings of the same names."""

    target_load: float = 0.7
    nominal_rate: float = 6.0
    idle_power: float = 10.0
    core_power: float = 5.0


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """P in W, w and v without a unit, M in GiB."""

    power: Input
    load: Input
    velocity: Input
    inertia: Input

    @property
    def confidence(self) -> MetricConfidence:
        """That of the weakest."""
        return weakest(one.confidence for one in (self.power, self.load, self.velocity, self.inertia))

    def sample(self, dt: float, share: float = 1.0) -> Sample:
        """An interval of `dt` seconds with a share of the power."""
        return Sample(self.power.value * share, self.load.value, self.velocity.value, self.inertia.value, dt)


def weakest(found: Iterable[MetricConfidence]) -> MetricConfidence:
    """The lowest of some confidences."""
    return max(found, key=_ORDER.index)


def build_inputs(reading: Reading, completed: int | None, by: Yardstick) -> Inputs:
    """The inputs of one interval. `completed` sessions within the last hour, None where nobody knows."""
    return Inputs(
        power=choose_power(
            reading.power,
            busy_cores=reading.busy_cores,
            idle_power=by.idle_power,
            core_power=by.core_power,
        ),
        load=_load(reading, by.target_load),
        velocity=_velocity(completed, by.nominal_rate),
        inertia=_inertia(reading.memory),
    )


def _load(reading: Reading, target: float) -> Input:
    if reading.queue is not None and reading.cores:
        return Input(value=abs(reading.queue / reading.cores - target), source="loadavg", confidence=HIGH)
    busy = reading.busy_cores
    if busy is not None and reading.cores:
        reason = "the run queue cannot be read"
        value = abs(busy / reading.cores - target)
        return Input(value=value, source="cpu-time", confidence=MEDIUM, reason=reason)
    return Input(value=target, source="none", confidence=LOW, reason="no load can be read; taken for none")


def _velocity(completed: int | None, nominal: float) -> Input:
    if completed is None:
        return Input(value=0.0, source="none", confidence=LOW, reason="the ledger cannot be read")
    found = completed / nominal
    if found > VELOCITY_MAX:
        reason = f"{completed} in an hour is beyond {VELOCITY_MAX:g} times the nominal rate"
        return Input(value=VELOCITY_MAX, source="ledger", confidence=LOW, reason=reason)
    return Input(value=found, source="ledger", confidence=HIGH)


def _inertia(memory: float | None) -> Input:
    if memory is None:
        return Input(value=1.0, source="none", confidence=LOW, reason="the memory in use cannot be read")
    return Input(value=memory, source="meminfo", confidence=HIGH)


# --- sessions


class Present(msgspec.Struct, frozen=True):
    """A session that was there for `seconds` of an interval; `own` when this node runs its processes."""

    session_id: str
    seconds: float
    own: bool = True


class Share(msgspec.Struct, frozen=True):
    """Which part of the power is a session's, from 0 to 1, and how that is known."""

    session_id: str
    part: float
    source: str
    confidence: MetricConfidence


def share_power(present: Collection[Present], reading: Reading, dt: float) -> list[Share]:
    """Parts of the power by processor time; what is left is shared alike by the sessions whose processes are
    not known, each for as long as it was there. The parts come to 1 at most."""
    known = {
        one.session_id: reading.sessions[one.session_id]
        for one in present
        if one.session_id in reading.sessions
    }
    used = sum(known.values())
    whole = max(reading.busy or 0.0, used)
    shares = [
        Share(name, seconds / whole if whole > 0 else 0.0, "cpu-time", MEDIUM)
        for name, seconds in known.items()
    ]
    unknown = [one for one in present if one.session_id not in known]
    left = max(0.0, 1.0 - sum(share.part for share in shares))
    for one in unknown:
        there = min(1.0, one.seconds / dt) if dt > 0 else 0.0
        shares.append(Share(one.session_id, left / len(unknown) * there, "equal", LOW))
    return shares
