"""Which queued sessions start now: first come, first served, within each agent's and the node's bound."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from ambientd.core.breaker import Breaker, retry_at


class Waiting(msgspec.Struct, frozen=True):
    """A queued session, as the queue sees it."""

    session_id: str
    agent_id: str


class Choice(msgspec.Struct, frozen=True):
    """Sessions to start, and when to look again although nothing happened (monotonic seconds)."""

    start: tuple[str, ...]
    look_again_at: float | None


def choose(
    waiting: Iterable[Waiting],
    running: Mapping[str, int],
    *,
    limits: Mapping[str, int],
    total: int,
    breakers: Mapping[str, Breaker],
    now: float,
) -> Choice:
    """Picks in the order given. `running` counts live sessions per agent, `limits` is per agent.

    An agent without a limit is unknown: it is picked, so that its session can be closed with that reason.
    While a breaker is open nothing of that agent starts; when its time has come exactly one trial does.
    """
    count = Counter(running)
    free = total - sum(running.values())
    chosen: list[str] = []
    again: list[float] = []
    for session in waiting:
        if free <= 0:
            break
        agent = session.agent_id
        limit = limits.get(agent)
        due = retry_at(breakers.get(agent, Breaker()))
        if due is not None and limit is not None:
            if now < due:
                again.append(due)
                continue
            limit = min(limit, 1)
        if limit is not None and count[agent] >= limit:
            continue
        count[agent] += 1
        free -= 1
        chosen.append(session.session_id)
    return Choice(tuple(chosen), min(again, default=None))
