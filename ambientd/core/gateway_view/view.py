"""The view of one gateway: agents and the sessions that matter, folded from lists and events.

Mutable, because one instance is fed for as long as the node lives; nothing in it waits or asks a clock. What
is kept is bounded: active sessions, those that ended within the window, and the newest of every agent.
`now_ms` is this machine's clock; comparisons with a row's times allow for the gateway's own clock.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ambientd.core.gateway_view.kills import KillLog
from ambientd.core.gateway_view.rows import (
    AgentEntry,
    Health,
    SessionRow,
    error_of,
    parse_health,
    parse_row,
    text_of,
    whole_of,
)
from ambientd.core.gateway_view.status import (
    DONE_WORDS,
    FAILED_WORDS,
    RUNNING_WORDS,
    SETTLING_MS,
    WINDOW_MS,
    AgentVerdict,
    is_active,
    is_settled,
    judge_agent,
)

# Twice what a large gateway has under way; one that invents sessions pushes out those known longest.
SESSIONS_MAX = 10_000
# Ended sessions of one agent beyond this speak for nobody: the newest ones decide.
ENDED_PER_AGENT = 50
# A list that contradicts a newer event is believed when the event is this old: then it was not a lag.
LAG_MS = 30_000
ACTIVE_LAG_MS = 6_000
TOKENS_LAG_MS = 12_000
NAMED_RUNS_MAX = 500
UNSETTLED_MAX = 100
DIRTY_MAX = 2_000
BACKLOG_MAX = 500
FAILED_KEPT = 200
VERDICT_MS = 60_000  # clocks are set now and then: nothing is believed for ever
# Events that repeat an old row around something else, such as a message.
_ECHOES = frozenset({"message"})


class Heard(NamedTuple):
    """What an event did. `again`: something changed that it does not name; list again."""

    changed: bool = False
    again: bool = False


NOTHING = Heard()


class GatewayView:
    """Fed by the service, read by status and by the control flows."""

    def __init__(self, *, window_ms: int = WINDOW_MS) -> None:
        """`window_ms`: how long an ended session speaks for its agent."""
        self.window_ms = window_ms
        self.kills = KillLog()
        self.health = Health(None, False, None)
        self.last_heartbeat_ms: int | None = None
        self._agents: dict[str, AgentEntry] | None = None
        self._sessions: dict[str, SessionRow] = {}
        self._keys: dict[str, dict[str, None]] = {}  # session id -> keys, nearly always one
        self._heard_ms: dict[str, int] = {}
        self._by_agent: dict[str, dict[str, None]] = {}
        self._verdicts: dict[str, tuple[int, int, AgentVerdict]] = {}
        self._runs: dict[str, str] = {}  # session key -> run under way, as events named it
        self._errors: dict[str, str] = {}  # run -> its error, as events told it
        self._unsettled: dict[str, None] = {}
        self._dirty: dict[str, SessionRow] = {}
        self._backlog: list[SessionRow] = []
        self.backlog_since_ms: int | None = None
        """Ended sessions that are listed with news after this are kept for the ledger, not for the view."""
        self._skew_ms = 0

    # --- reading

    @property
    def agents(self) -> list[AgentEntry]:
        """The gateway's list; the agents of its sessions while there was none."""
        if self._agents is not None:
            return list(self._agents.values())
        return [AgentEntry(id=name, name=name) for name in sorted(self._by_agent) if name]

    def agent(self, agent_id: str) -> AgentEntry | None:
        """One agent by its whole id."""
        if self._agents is not None:
            return self._agents.get(agent_id)
        return AgentEntry(id=agent_id, name=agent_id) if agent_id and agent_id in self._by_agent else None

    def __len__(self) -> int:
        """How many sessions are kept."""
        return len(self._sessions)

    def by_key(self, key: str) -> SessionRow | None:
        """A session by its key."""
        return self._sessions.get(key)

    def by_id(self, session_id: str) -> SessionRow | None:
        """A session by its whole id; the newest, should two keys bear it."""
        rows = [self._sessions[key] for key in self._keys.get(session_id, ())]
        return max(rows, key=lambda row: row.activity_ms, default=None)

    def find(self, fragment: str) -> list[SessionRow]:
        """Sessions whose id equals, starts with or ends with a text, the newest first."""
        if not fragment:
            return []
        found = [
            row
            for row in self._sessions.values()
            if row.session_id.startswith(fragment) or row.session_id.endswith(fragment)
        ]
        exact = [row for row in found if row.session_id == fragment]
        return sorted(exact or found, key=lambda row: row.activity_ms, reverse=True)

    def sessions_of(self, agent_id: str) -> list[SessionRow]:
        """Everything kept of an agent's sessions."""
        return [self._sessions[key] for key in self._by_agent.get(agent_id, ())]

    def gateway_ms(self, now_ms: int) -> int:
        """This instant on the gateway's clock."""
        return now_ms + self._skew_ms

    def verdict(self, agent_id: str, now_ms: int) -> AgentVerdict:
        """What an agent is now; computed anew only when one of its sessions changed or time may tell."""
        kept = self._verdicts.get(agent_id)
        if kept is not None and kept[0] <= now_ms < kept[1]:
            return kept[2]
        at = self.gateway_ms(now_ms)
        found = judge_agent(self.sessions_of(agent_id), at, self.kills, self.window_ms)
        lasts = VERDICT_MS if found.until_ms is None else min(VERDICT_MS, max(1, found.until_ms - at))
        self._verdicts[agent_id] = (now_ms, now_ms + lasts, found)
        return found

    # --- folding

    def set_agents(self, agents: Iterable[AgentEntry]) -> bool:
        """The gateway's list of agents as it is now."""
        new = {entry.id: entry for entry in agents}
        changed = new != self._agents
        self._agents = new
        return changed

    def set_model(self, agent_id: str, model: str) -> None:
        """An agent's own model as this node has just set it; older gateways tell nobody."""
        entry = (self._agents or {}).get(agent_id)
        if entry is not None and self._agents is not None:
            self._agents[agent_id] = msgspec.structs.replace(entry, model=model)

    def set_health(self, payload: object) -> bool:
        """The answer or event `health`."""
        before, self.health = self.health, parse_health(payload)
        return before != self.health

    def set_heartbeat(self, payload: object) -> None:
        """The agents' own heartbeat, which says nothing about the gateway (ruling 23)."""
        if isinstance(payload, Mapping):
            self.last_heartbeat_ms = whole_of(payload.get("ts"))

    def note_clock(self, gateway_ms: int | None, now_ms: int) -> None:
        """The gateway's clock as an answer told it; a difference that is only the way here is none."""
        if gateway_ms is not None:
            skew = gateway_ms - now_ms
            self._skew_ms = skew if abs(skew) > 2_000 else 0

    def add_kill(self, session_id: str, run_id: str | None, at_ms: int) -> None:
        """A run was killed; `at_ms` on the gateway's clock."""
        self.kills.add(session_id, run_id, at_ms)
        self._verdicts.clear()

    def drop_kill(self, session_id: str, run_id: str | None) -> None:
        """A kill that was not carried out after all."""
        self.kills.drop(session_id, run_id)
        self._verdicts.clear()

    def put(self, row: SessionRow, now_ms: int, *, listed: bool) -> bool:
        """A row as it was listed or as an event told it; whether anything is different now."""
        old = self._sessions.get(row.key)
        if old is not None and old.session_id == row.session_id and self._is_late(old, row, now_ms):
            return False
        self._heard_ms[row.key] = now_ms
        settled = is_settled(row) and not self._lacks_tokens(row, now_ms)
        row = self._completed(self._without_lag(row, old, now_ms), old, listed=listed)
        if row == old:
            if not settled and self.gateway_ms(now_ms) - row.updated_ms <= SETTLING_MS:
                self._note_unsettled(row.key)
            return False
        if old is None and len(self._sessions) >= SESSIONS_MAX:
            self.forget(next(iter(self._sessions)))
        elif old is not None:
            self._unfile(old)
        self._sessions[row.key] = row
        self._keys.setdefault(row.session_id, {})[row.key] = None
        self._by_agent.setdefault(row.agent_id, {})[row.key] = None
        self._verdicts.pop(row.agent_id, None)
        self._note(row, old, settled=settled)
        return True

    def _unfile(self, row: SessionRow) -> None:
        """Takes a row out of what is found by its agent and by its id."""
        for table, name in ((self._by_agent, row.agent_id), (self._keys, row.session_id)):
            keys = table.get(name, {})
            keys.pop(row.key, None)
            if not keys:
                table.pop(name, None)
        self._verdicts.pop(row.agent_id, None)

    def put_listed(self, row: SessionRow, now_ms: int) -> bool:
        """A row of a list. One that ended long ago is only kept when its agent has none that is newer."""
        if not is_active(row) and self.gateway_ms(now_ms) - row.activity_ms > self.window_ms:
            since = self.backlog_since_ms
            if since is not None and row.updated_ms > since and len(self._backlog) < BACKLOG_MAX:
                self._backlog.append(row)
            if row.key not in self._sessions and self._has_newer(row):
                return False
        return self.put(row, now_ms, listed=True)

    def _lacks_tokens(self, row: SessionRow, now_ms: int) -> bool:
        """Older gateways put a run's tokens into its row some seconds after they told its end."""
        ended = row.ended_ms if row.status in DONE_WORDS and row.output_tokens is None else None
        return ended is not None and self.gateway_ms(now_ms) - ended <= TOKENS_LAG_MS

    def put_described(self, row: SessionRow, now_ms: int) -> bool:
        """A row that was asked for alone. Real gateways leave out there whether a run is active."""
        if row.active is None:
            old = self._sessions.get(row.key)
            known = None if old is None or old.session_id != row.session_id else old.active
            row = msgspec.structs.replace(row, active=known if row.status in RUNNING_WORDS else False)
        return self.put(row, now_ms, listed=True)

    def _has_newer(self, row: SessionRow) -> bool:
        keys = self._by_agent.get(row.agent_id, ())
        return any(self._sessions[key].activity_ms >= row.activity_ms for key in keys)

    def _is_late(self, old: SessionRow, row: SessionRow, now_ms: int) -> bool:
        """Lists and events overtake each other: what is older than what is known says nothing for a while."""
        return row.updated_ms < old.updated_ms and now_ms - self._heard_ms.get(row.key, 0) < LAG_MS

    def _completed(self, row: SessionRow, old: SessionRow | None, *, listed: bool) -> SessionRow:
        """The row with what only events tell, or what an event leaves out."""
        wish: dict[str, Any] = {}
        if row.run_id is not None and is_active(row):
            self._name_run(row.key, row.run_id)
        same = old is not None and old.session_id == row.session_id
        if row.run_id is None:
            begins = is_active(row) and not (old is not None and is_active(old))
            last = old.run_id if old is not None and same and not begins else None
            named = self._runs.get(row.key) or last
            if named is not None:
                wish["run_id"] = named
        run_id = wish.get("run_id", row.run_id)
        if row.error is None and row.status in FAILED_WORDS and run_id in self._errors:
            wish["error"] = self._errors[run_id]
        if old is not None and same and not listed:
            names = ("title", "parent_key", "interaction_ms", "created_ms", "model", "started_ms")
            kept = {name: getattr(old, name) for name in names if getattr(row, name) is None}
            wish |= {name: value for name, value in kept.items() if value is not None}
            wish["activity_ms"] = max(row.activity_ms, old.activity_ms)
        return msgspec.structs.replace(row, **wish) if wish else row

    def _without_lag(self, row: SessionRow, old: SessionRow | None, now_ms: int) -> SessionRow:
        """Older gateways list a run as active for some seconds after they told that it has ended."""
        ended = old is not None and not is_active(old) and row.ended_ms == old.ended_ms and row.active
        if not ended or row.status in RUNNING_WORDS or row.ended_ms is None:
            return row
        lags = self.gateway_ms(now_ms) - row.ended_ms < ACTIVE_LAG_MS
        return msgspec.structs.replace(row, active=False) if lags else row

    def _note(self, row: SessionRow, old: SessionRow | None, *, settled: bool) -> None:
        if not is_active(row):
            self._runs.pop(row.key, None)
        if settled:
            self._unsettled.pop(row.key, None)
        else:
            self._note_unsettled(row.key)
        if old is None or _marks(old) != _marks(row):
            self._dirty.pop(row.key, None)
            self._dirty[row.key] = row
            if len(self._dirty) > DIRTY_MAX:
                del self._dirty[next(iter(self._dirty))]

    def _note_unsettled(self, key: str) -> None:
        if len(self._unsettled) < UNSETTLED_MAX:
            self._unsettled[key] = None

    def forget_runs(self) -> None:
        """After a restart of the gateway: what runs now under which name is to be heard anew.

        Its lists are believed though they may be older than its last events: not all of it was written down.
        """
        self._runs.clear()
        self._heard_ms.clear()
        for key, row in self._sessions.items():
            if row.run_id is not None and is_active(row):
                self._sessions[key] = msgspec.structs.replace(row, run_id=None)

    def forget(self, key: str) -> bool:
        """A session that the gateway does not have any more."""
        row = self._sessions.pop(key, None)
        self._heard_ms.pop(key, None)
        self._runs.pop(key, None)
        self._unsettled.pop(key, None)
        if row is None:
            return False
        self._unfile(row)
        return True

    def hear(self, name: str, payload: object, now_ms: int) -> Heard:
        """One event of the gateway."""
        if name == "sessions.changed":
            return self._hear_change(payload, now_ms)
        if name == "health":
            return Heard(changed=self.set_health(payload))
        if name == "heartbeat":
            self.set_heartbeat(payload)
        elif name in ("agent", "chat"):
            self._hear_run(payload)
        elif name == "config.changed":
            return Heard(again=True)
        return NOTHING

    def _hear_change(self, payload: object, now_ms: int) -> Heard:
        if not isinstance(payload, Mapping) or text_of(payload.get("sessionKey")) is None:
            return Heard(again=True)
        key, phase, run_id = (
            payload["sessionKey"],
            text_of(payload.get("phase")),
            text_of(payload.get("runId")),
        )
        if payload.get("reason") in ("delete", "deleted", "reset"):
            return Heard(changed=self.forget(key), again=True)
        if run_id is not None and phase == "start":
            self._name_run(key, run_id)
        inner = payload.get("session")
        # The row stands in `session`, and in most versions once more around it.
        row = parse_row({**inner, **payload} if isinstance(inner, Mapping) else payload, run_id)
        if row is None:
            return Heard(again=True)
        known = self._sessions.get(key)
        if known is not None and (phase in _ECHOES or not (row.status or row.active is not None)):
            return NOTHING
        if row.updated_ms == 0 and known is not None:
            return NOTHING  # a detail of a run, without the row's own time: the next one has it
        return Heard(changed=self.put(row, now_ms, listed=False))

    def _hear_run(self, payload: object) -> None:
        """Older gateways tell a run's error in these alone. Nothing else of them is looked at."""
        if not isinstance(payload, Mapping):
            return
        key, run_id, data = payload.get("sessionKey"), text_of(payload.get("runId")), payload.get("data")
        if run_id is None:
            return
        words = error_of(payload.get("errorMessage")) if payload.get("state") == "error" else None
        if payload.get("stream") == "lifecycle" and isinstance(data, Mapping):
            if data.get("phase") == "start" and isinstance(key, str):
                self._name_run(key, run_id)
            if data.get("phase") == "error" and data.get("aborted") is not True:
                words = error_of(data.get("error"))
        if words is not None and run_id not in self._errors:
            _bounded(self._errors, run_id, words)

    def _name_run(self, key: str, run_id: str) -> None:
        _bounded(self._runs, key[:512], run_id)

    # --- keeping it small, and what others still have to look at

    @property
    def has_unsettled(self) -> bool:
        """Whether a session's newest row contradicts itself."""
        return bool(self._unsettled)

    def take_unsettled(self, limit: int) -> list[str]:
        """Keys of sessions whose rows contradict themselves; they are back when the next row does too."""
        found = list(self._unsettled)[:limit]
        for key in found:
            self._unsettled.pop(key)
        return found

    @property
    def has_dirty(self) -> bool:
        """Whether there is something for `take_dirty`."""
        return bool(self._dirty or self._backlog)

    def take_dirty(self, limit: int) -> list[SessionRow]:
        """Sessions of which a run began, went on or ended since they were taken the last time."""
        late, self._backlog = self._backlog[:limit], self._backlog[limit:]
        keys = list(self._dirty)[: limit - len(late)]
        return late + [self._dirty.pop(key) for key in keys]

    def active_keys_before(self, updated_ms: int, limit: int) -> list[str]:
        """Active sessions that the newest pages of a list need not have shown."""
        found = [row.key for row in self._sessions.values() if is_active(row) and row.updated_ms < updated_ms]
        return found[:limit]

    def prune(self, agent_id: str, now_ms: int) -> int:
        """Forgets what speaks for nobody any more among an agent's sessions; returns how many went."""
        at = self.gateway_ms(now_ms)
        rows = sorted(self.sessions_of(agent_id), key=_newest_first)
        ended = [row for row in rows if not is_active(row)]
        recent = [row for row in ended if at - row.activity_ms <= self.window_ms]
        failed = [row for row in recent if row.error is not None or row.status in FAILED_WORDS]
        kept = {row.key for row in (*recent[:ENDED_PER_AGENT], *failed[:FAILED_KEPT], *rows[:1])}
        gone = [row.key for row in ended if row.key not in kept]
        for key in gone:
            self.forget(key)
        return len(gone)

    @property
    def agent_ids(self) -> list[str]:
        """Agents of which sessions are kept."""
        return list(self._by_agent)

    def forget_others(self, seen: Iterable[str]) -> bool:
        """After a list of everything: sessions that were not in it are gone."""
        gone = self._sessions.keys() - set(seen)
        for key in gone:
            self.forget(key)
        return bool(gone)


def _newest_first(row: SessionRow) -> tuple[int, str]:
    return -row.activity_ms, row.key


def _marks(row: SessionRow) -> tuple[object, ...]:
    """What the ledger would write differently."""
    return (row.session_id, row.status, row.active, row.run_id, row.ended_ms, row.error, row.output_tokens)


def _bounded(table: dict[str, str], key: str, value: str) -> None:
    table.pop(key, None)
    table[key] = value
    while len(table) > NAMED_RUNS_MAX:
        del table[next(iter(table))]
