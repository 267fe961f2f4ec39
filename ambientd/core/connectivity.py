"""Which of its links a node has, and what each state of them allows.

The machine folds rounds of probes into one of three states; before the first one it is `Unknown`, which
allows what needs no link.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum

import msgspec

from ambientd.wire.enums import Connectivity


class Action(Enum):
    """What somebody may want to do, as far as the links decide about it."""

    EGRESS = "let a session reach the internet"
    ACTIVATE_LEASE = "activate a session lease"
    METER = "meter a session's traffic"
    WRITE_POLICIES = "change or remove policies"
    ADD_POLICIES = "add policies that peers pass on"
    RECEIVE_SYNC = "receive policies from peers"
    SEND_SYNC = "send policies to peers"
    RECONCILE = "reconcile with the control plane"


_LOCAL = frozenset({Action.ADD_POLICIES, Action.RECEIVE_SYNC})
_CACHED = _LOCAL | {Action.EGRESS, Action.ACTIVATE_LEASE, Action.METER, Action.SEND_SYNC}

ALLOWED: Mapping[Connectivity, frozenset[Action]] = {
    # Nothing has been probed yet: what needs a link waits for the first answer.
    Connectivity.UNKNOWN: _LOCAL,
    Connectivity.ONLINE: _CACHED | {Action.WRITE_POLICIES, Action.RECONCILE},
    Connectivity.OFFLINE: _CACHED,
    # Peers may still be near and know more than we do; what we hold may be old, so we do not pass it on.
    Connectivity.NO_UPSTREAM: _LOCAL,
}
"""The one table of what each state allows (seed "Node state"; rulings 16 and 25); everyone asks `may`."""


def may(state: Connectivity, action: Action) -> bool:
    """Whether a state allows an action."""
    return action in ALLOWED[state]


class Link(msgspec.Struct, frozen=True):
    """An interface that is up, has a carrier and an address; loopback is none.

    `routed`: a default route leads out of it, in a family of which it has an address that is good beyond
    the link.
    """

    name: str
    routed: bool = False


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """All usable links. `none` says why there are none, `error` why nobody knows."""

    usable: tuple[Link, ...] = ()
    none: str = ""
    error: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What one question to the outside came to; `reason` is a sentence's part for people."""

    ok: bool
    reason: str = ""
    latency_ms: int | None = None


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One round: the links, and what was asked beyond them.

    `targets` are empty where none were asked, `control` is None where no control plane is configured.
    `order` is why neither was asked although links are there: the operator's word.
    """

    links: Links
    targets: tuple[Answer, ...] = ()
    control: Answer | None = None
    order: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What one round alone says."""

    state: Connectivity
    reason: str


NOT_PROBED = "not probed yet"
NO_CONTROL_PLANE = "no control plane is configured"
ANSWERS = "the control plane answers"
NO_ROUTE = "no default route"


def judge(probe: Probe) -> Verdict:
    """What a round says: without a usable link there is no upstream, whatever answers (R1.48)."""
    links, control = probe.links, probe.control
    if not links.usable and not links.error:
        return Verdict(Connectivity.NO_UPSTREAM, links.none)
    if control is not None and control.ok:
        return Verdict(Connectivity.ONLINE, ANSWERS)
    # Targets that were asked are the better witnesses: a default route may lead to a dead modem.
    if probe.targets:
        reached = any(answer.ok for answer in probe.targets)
        missing = f"no target answers ({probe.targets[0].reason})"
    else:
        reached, missing = any(link.routed for link in links.usable), links.error or NO_ROUTE
    if not reached:
        return Verdict(Connectivity.NO_UPSTREAM, missing)
    return Verdict(Connectivity.OFFLINE, probe.order or (control.reason if control else NO_CONTROL_PLANE))


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node stands. `entered` is the monotonic time at which it came to be so; `misses` counts
    rounds in a row that spoke for less."""

    name: Connectivity = Connectivity.UNKNOWN
    reason: str = NOT_PROBED
    entered: float = 0.0
    misses: int = 0


class Changed(msgspec.Struct, frozen=True):
    """The state has changed: one audit record, one line in the log (R1.53)."""

    before: Connectivity
    after: Connectivity
    reason: str


_RANK = {Connectivity.NO_UPSTREAM: 0, Connectivity.OFFLINE: 1, Connectivity.ONLINE: 2}


def step(
    state: State, probe: Probe, now: float, *, misses: int, hold: float
) -> tuple[State, tuple[Changed, ...]]:
    """Folds one round into the state; at most one change.

    More needs one good round, less `misses` rounds in a row, so that a lost packet cuts nobody off; and
    every state is kept for `hold` seconds at least, so that a flapping link does not flap the node (R1.56).
    What a round said during that time is not kept for later: the round that comes after it decides.
    An operator's order to stay offline is followed at once.
    """
    verdict = judge(probe)
    if state.name is Connectivity.UNKNOWN:
        return _enter(state, verdict, now)
    if verdict.state is state.name:
        return msgspec.structs.replace(state, reason=verdict.reason, misses=0), ()
    less = _RANK[verdict.state] < _RANK[state.name]
    state = msgspec.structs.replace(state, misses=state.misses + 1 if less else 0)
    held = now - state.entered < hold
    if (less and probe.order) or (not held and (not less or state.misses >= misses)):
        return _enter(state, verdict, now)
    return state, ()


def _enter(state: State, verdict: Verdict, now: float) -> tuple[State, tuple[Changed, ...]]:
    entered = State(name=verdict.state, reason=verdict.reason, entered=now)
    return entered, (Changed(state.name, verdict.state, verdict.reason),)


# A round that disagrees with the state is followed by the next one this much sooner,
SOONER = 10.0
# but never at once: what fails within microseconds would keep a core busy.
SOONEST_SEC = 1.0


def next_round(state: State, probe: Probe, now: float, *, interval: float, hold: float) -> float:
    """Seconds until the next round: `interval`, or sooner while the last one disagrees with the state."""
    if judge(probe).state is state.name:
        return interval
    sooner = max(SOONEST_SEC, interval / SOONER)
    return min(interval, max(sooner, state.entered + hold - now))


# How far the wall clock may be off from what has passed since, before it counts as having been set.
_SLIP = timedelta(seconds=2)


def since(at: datetime, passed: float, now: datetime) -> datetime:
    """When something began that was noted as `at`, `passed` seconds ago by a clock that nobody sets.

    It is `at` unless the wall clock was set meanwhile; then it is told in the time of the clock as it is
    now, so that nobody sees a duration that is negative or of years.
    """
    told = now - timedelta(seconds=passed)
    return at if abs(told - at) <= _SLIP else told
