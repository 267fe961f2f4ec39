"""What retention removes: cut-off instants, and the plan that names them (specification 9.2.5).

A plan is nothing but its cut-off instants, and its id is a hash over them. So a plan needs no place to be
kept in: whoever has the id and the settings finds the instants again, and a plan whose settings have
changed since is not found.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from ambientd.core.timefmt import rfc3339_ms

PLAN_MAX_AGE_SEC = 3600
_DOMAIN = "ambient-retention-v1"
_ID_DIGITS = 12


class CutOff(msgspec.Struct, frozen=True):
    """Of one place, what is older than `before` goes; `keep` in seconds."""

    name: str
    keep: float
    before: datetime


class Plan(msgspec.Struct, frozen=True):
    """What a run of retention removes."""

    plan_id: str
    cutoffs: tuple[CutOff, ...]

    def of(self, name: str) -> CutOff:
        """The cut-off of a place; raises KeyError for one that the plan does not have."""
        for cutoff in self.cutoffs:
            if cutoff.name == name:
                return cutoff
        raise KeyError(name)


def build_plan(keeps: Mapping[str, float], now: datetime) -> Plan:
    """The plan of this second. `keeps` says of each place how many seconds are kept."""
    second = now.replace(microsecond=0)
    cutoffs = tuple(CutOff(name, keep, second - timedelta(seconds=keep)) for name, keep in keeps.items())
    return Plan(_id(keeps, int(second.timestamp())), cutoffs)


def find_plan(plan_id: str, keeps: Mapping[str, float], now: datetime) -> Plan | None:
    """The plan that was made with these settings within the last hour, None when there is no such plan."""
    newest = int(now.timestamp())
    for second in range(newest, newest - PLAN_MAX_AGE_SEC - 1, -1):
        if _id(keeps, second) == plan_id:
            return build_plan(keeps, now.replace(microsecond=0) - timedelta(seconds=newest - second))
    return None


def _id(keeps: Mapping[str, float], second: int) -> str:
    instants = "\n".join(f"{name} {second * 1000 - round(keep * 1000)}" for name, keep in keeps.items())
    return hashlib.sha256(f"{_DOMAIN}\n{instants}".encode()).hexdigest()[:_ID_DIGITS]


def facts(plan: Plan) -> dict[str, str]:
    """The instants as the audit names them."""
    return {cutoff.name: rfc3339_ms(cutoff.before) for cutoff in plan.cutoffs}
