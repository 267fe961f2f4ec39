"""What the fake gateway knows: agents, models, sessions, runs and the audit list. No I/O, no waiting."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
FAILED_TEXT = "LLM request failed: provider rejected the request schema or tool payload."
TIMED_OUT_TEXT = "Request timed out before a response was generated."
MODELS = ("mock/mock-fast", "mock/mock-slow", "mock/mock-400", "mock/mock-tool", "other/big-1")


@dataclass
class Agent:
    """One agent of the configuration."""

    id: str
    name: str | None = None
    model: str = "mock/mock-fast"


@dataclass
class Session:
    """One session; `status` None is a session that never ran (or not yet, on protocol 3)."""

    key: str
    session_id: str
    agent_id: str
    model: str
    created_at: int
    updated_at: int
    label: str | None = None
    display_name: str | None = None
    status: str | None = None
    active: bool = False
    run_id: str | None = None
    last_run_id: str | None = None
    error: str | None = None
    aborted: bool = False
    active_model: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    last_interaction_at: int | None = None
    tokens: tuple[int, int, int] | None = None  # input, output, context
    cost_usd: float | None = None
    parent_key: str | None = None
    created_via: str = "operator"
    subagent_active: bool = False
    extra: Json = field(default_factory=dict)  # laid over the row as it is


@dataclass(frozen=True)
class Change:
    """What listeners are told. `session` is None where the event names none."""

    event: str
    session: Session | None = None
    reason: str | None = None
    phase: str | None = None
    run_id: str | None = None
    data: Json = field(default_factory=dict)


class World:
    """State and the verbs that move it; each verb tells `tell` what changed, as a gateway's events do."""

    def __init__(
        self,
        *,
        now_ms: Callable[[], int],
        tell: Callable[[Change], None],
        agents: Sequence[str | Agent] = ("main", "tony"),
        models: Sequence[str] = MODELS,
    ) -> None:
        self.now_ms = now_ms
        self._tell = tell
        self._ids = 0
        self.agents = {a.id: a for a in (Agent(a) if isinstance(a, str) else a for a in agents)}
        self.models = list(models)
        self.sessions: dict[str, Session] = {}
        self.by_id: dict[str, str] = {}
        self.audit: list[Json] = []
        self.idempotent: dict[str, Json] = {}

    def fresh_id(self) -> str:
        """An id that looks like the real ones and is the same in every run of a test."""
        self._ids += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"fake-{self._ids}"))

    def default_agent(self) -> str | None:
        """The agent that is meant when none is named."""
        return next(iter(self.agents), None)

    def session(self, name: str) -> Session:
        """By key or by session id; KeyError when unknown."""
        return self.sessions[name if name in self.sessions else self.by_id[name]]

    def create_session(
        self,
        agent_id: str,
        *,
        message: str | None = None,
        model: str | None = None,
        label: str | None = None,
        key: str | None = None,
        silent: bool = False,
        **fields: Any,
    ) -> Session:
        """A session, with a run when there is a message. `fields` overwrite the session's own."""
        now = self.now_ms()
        session = Session(
            key=key or f"agent:{agent_id}:dashboard:{self.fresh_id()}",
            session_id=self.fresh_id(),
            agent_id=agent_id,
            model=model or self.agents[agent_id].model,
            created_at=now,
            updated_at=now,
            label=label,
        )
        for name, value in fields.items():
            setattr(session, name, value)
        self.sessions[session.key] = session
        self.by_id[session.session_id] = session.key
        if not silent:
            self._tell(Change("sessions.changed", session, reason="create"))
        if message:
            self.start_run(session.key, message=message)
        return session

    def start_run(self, name: str, *, message: str = "hello", run_id: str | None = None) -> str:
        """Begins a run in a session; its id."""
        session, now = self.session(name), self.now_ms()
        session.run_id = run_id or self.fresh_id()
        session.status, session.active, session.error, session.aborted = "running", True, None, False
        session.started_at, session.ended_at = now, None
        session.updated_at = session.last_interaction_at = now
        session.active_model = session.model
        session.tokens = session.cost_usd = None
        if session.display_name is None:
            session.display_name = message[:40]
        self._note(session, "agent.run.started", "started", None)
        self._tell(Change("sessions.changed", session, reason="send"))
        self._tell(Change("agent", session, phase="start", run_id=session.run_id))
        self._tell(Change("sessions.changed", session, phase="start", run_id=session.run_id))
        return session.run_id

    def finish(self, name: str, *, tokens: tuple[int, int, int] = (903, 42, 1003)) -> None:
        """The run succeeds."""
        session = self.session(name)
        session.tokens = tokens
        session.cost_usd = round((tokens[0] + 2 * tokens[1]) / 1e6, 6)
        self._end(session, "done", "succeeded", None)

    def fail(self, name: str, error: str = FAILED_TEXT, *, audit: str = "blocked") -> None:
        """The run fails; `audit` is blocked or failed, as the audit list calls it."""
        session = self.session(name)
        session.error = error
        self._end(session, "failed", audit, f"run_{audit}")

    def time_out(self, name: str) -> None:
        """The run takes too long."""
        session = self.session(name)
        session.error = TIMED_OUT_TEXT
        self._end(session, "timeout", "timed_out", "run_timed_out")

    def kill(self, name: str, *, in_backoff: bool = False) -> str | None:
        """Ends the run as an abort does; its id, None when nothing ran. `in_backoff`: the row says failed."""
        session = self.session(name)
        run_id = session.run_id
        for child in list(self.sessions.values()):
            if child.parent_key == session.key and child.active and child.created_via == "spawn":
                self.kill(child.key)
        session.subagent_active = False
        if not session.active:
            return None
        if in_backoff:
            session.error = "aborted | the provider was being tried again"
        else:
            session.aborted = True
        self._end(session, "failed" if in_backoff else "killed", "cancelled", "run_cancelled")
        return run_id

    def forget_session(self, name: str) -> None:
        """Removes a session without a word (a delete that the client missed)."""
        session = self.session(name)
        del self.sessions[session.key]
        del self.by_id[session.session_id]

    def lose_run(self, name: str) -> None:
        """The gateway dies in the run: the row keeps `running`, nothing runs, no finish is noted."""
        session = self.session(name)
        session.active, session.run_id = False, None

    def set_model(self, name: str, model: str | None) -> Session:
        """The preferred model of a session; None goes back to the agent's."""
        session = self.session(name)
        session.model = model or self.agents[session.agent_id].model
        session.updated_at = self.now_ms()
        self._tell(Change("sessions.changed", session, reason="patch"))
        return session

    def set_agent_model(self, agent_id: str, model: str | None) -> None:
        """The preferred model of an agent."""
        self.agents[agent_id].model = model or "mock/mock-fast"
        self._tell(Change("chat.metadata.changed"))
        self._tell(Change("config.changed", data={"path": "openclaw.json", "ts": self.now_ms()}))

    def newest_first(self) -> list[Session]:
        """All sessions, as the list gives them."""
        return sorted(self.sessions.values(), key=lambda s: -s.updated_at)

    def populate(self, count: int, *, status: str = "done", age_ms: int = 3_600_000) -> None:
        """Adds `count` old sessions over all agents, silently."""
        agents, now = list(self.agents), self.now_ms()
        for number in range(count):
            at = now - age_ms - number * 1000
            self.create_session(
                agents[number % len(agents)],
                silent=True,
                status=status,
                created_at=at - 5000,
                updated_at=at,
                started_at=at - 4000,
                ended_at=at,
                last_run_id=self.fresh_id(),
                tokens=(903, 42, 1003) if status == "done" else None,
            )

    def _end(self, session: Session, status: str, audit: str, code: str | None) -> None:
        now, run_id = self.now_ms(), session.run_id
        session.status, session.active = status, False
        session.ended_at = session.updated_at = now
        session.active_model = None
        session.last_run_id, session.run_id = run_id, None
        self._note(session, "agent.run.finished", audit, code, run_id)
        phase = "error" if status in {"failed", "timeout"} else "end"
        self._tell(Change("agent", session, phase=phase, run_id=run_id))
        self._tell(Change("chat", session, phase=status, run_id=run_id))
        self._tell(Change("sessions.changed", session, phase=phase, run_id=run_id))

    def _note(
        self, session: Session, action: str, status: str, code: str | None, run_id: str | None = None
    ) -> None:
        entry: Json = {
            "schemaVersion": 1,
            "sequence": len(self.audit) + 1,
            "eventId": self.fresh_id(),
            "sourceSequence": 3,
            "occurredAt": self.now_ms(),
            "redaction": "metadata_only",
            "agentId": session.agent_id,
            "sessionKey": session.key,
            "sessionId": session.session_id,
            "runId": run_id or session.run_id,
            "kind": "agent_run",
            "action": action,
            "status": status,
            "eventType": "agent_run",
            "actor": {"type": "agent", "id": session.agent_id},
        }
        self.audit.append(entry | ({"errorCode": code} if code else {}))
