"""A scripted link to a gateway, without sockets: implements `ports.gateway.GatewayLink`.

Tests put agents and rows into it, change them, drop the link and bring it back, and look at what was called.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from ambientd.ports.gateway import (
    EventsMissed,
    GatewayEvent,
    GatewayRefusedError,
    GatewayUnavailableError,
    LinkDown,
    LinkNews,
    LinkPhase,
    LinkState,
    LinkUp,
)

URL = "ws://127.0.0.1:18789"
# What real gateways leave out of a row that is asked for alone.
NOT_DESCRIBED = ("hasActiveRun", "activeRunIds", "hasActiveSubagentRun")
_BEFORE = datetime(2026, 11, 20, 11, 0, tzinfo=UTC)

Answer = Callable[[Mapping[str, Any]], Any]


class FakeGatewayLink:
    """`rows` are the gateway's sessions by key, as JSON; `answers` replaces the answer of a method."""

    def __init__(self, *, latency: float = 0.01) -> None:
        self.state = LinkState(phase=LinkPhase.CONNECTING, url=URL, since=_BEFORE)
        self.latency = latency
        self.agents: list[dict[str, Any]] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Answer] = {}
        self.health: dict[str, Any] = {"ok": True}
        self.audit: list[dict[str, Any]] | None = None
        self.models: list[dict[str, Any]] = []
        self.pages_by_offset = True
        self.subscribes = True
        self.now_ms: Callable[[], int] = lambda: 1_795_176_000_000
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.subscribed = False
        self._send, self._receive = trio.open_memory_channel[LinkNews](1000)

    # --- what tests do

    def up(self, *, restarted: bool = False, **facts: Any) -> None:
        """The handshake has succeeded."""
        self.subscribed = False
        known: dict[str, Any] = {"scopes": ("operator.read", "operator.write"), "latency_ms": 11.0}
        known |= {"protocol": 4, "server_version": "2026.9.6", "boot_id": "boot-1"} | facts
        self.state = LinkState(phase=LinkPhase.READY, url=URL, since=_BEFORE, **known)
        self._send.send_nowait(LinkUp(self.state, restarted))

    def down(self, reason: str = "connection refused", phase: LinkPhase = LinkPhase.WAITING) -> None:
        """The link is lost."""
        self.subscribed = False
        self.state = msgspec.structs.replace(
            self.state, phase=phase, reason=reason, latency_ms=None, attempt=self.state.attempt + 1
        )
        self._send.send_nowait(LinkDown(self.state))

    def drain(self) -> None:
        """The gateway goes away soon and answers nothing any more."""
        self.state = msgspec.structs.replace(self.state, phase=LinkPhase.DRAINING)

    def event(self, name: str, payload: Any) -> None:
        """An event for subscribers."""
        self._send.send_nowait(GatewayEvent(name, payload))

    def miss(self) -> None:
        """Some events were lost."""
        self._send.send_nowait(EventsMissed())

    def put(self, *, tell: bool = True, **row: Any) -> dict[str, Any]:
        """Sets fields of a session's row and, when somebody subscribed, tells of it."""
        agent, session_id = row.get("agentId", "tony"), row["sessionId"]
        key = row.get("key") or f"agent:{agent}:dashboard:{session_id}"
        full = self.rows.get(key, {}) | {"key": key, "agentId": agent, "updatedAt": self.now_ms()} | row
        self.rows[key] = full
        if tell and self.subscribed:
            told = {name: value for name, value in full.items() if name != "key"}
            self.event("sessions.changed", told | {"sessionKey": key, "reason": "send", "ts": self.now_ms()})
        return full

    def count(self) -> Counter[str]:
        """How often each method was called."""
        return Counter(name for name, _ in self.calls)

    # --- the port

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Answers after `latency` seconds of trio's time."""
        given = dict(params or {})
        if self.state.phase is not LinkPhase.READY:
            await trio.lowlevel.checkpoint()
            raise GatewayUnavailableError("the link is not ready", sent=False)
        before = self.state
        self.calls.append((method, given))
        await trio.sleep(self.latency)
        if self.state is not before and not self.state.connected:
            raise GatewayUnavailableError("the link was lost", sent=True)
        if method in self.answers:
            return self.answers[method](given)
        answer = getattr(self, "_" + method.replace(".", "_").replace("-", "_"), None)
        if answer is None:
            raise GatewayRefusedError("FORBIDDEN", "missing scope: operator.admin", detail="MISSING_SCOPE")
        return answer(given)

    async def news(self) -> AsyncIterator[LinkNews]:
        """What the test does, in order."""
        if self.state.connected:
            yield LinkUp(self.state, False)
        async for item in self._receive:
            yield item

    # --- what the gateway answers

    def _agents_list(self, params: dict[str, Any]) -> Any:
        return {"defaultId": "main", "agents": self.agents}

    def _sessions_list(self, params: dict[str, Any]) -> Any:
        if "offset" in params and not self.pages_by_offset:
            text = "invalid sessions.list params: at root: unexpected property 'offset'"
            raise GatewayRefusedError("INVALID_REQUEST", text)
        rows = [row for row in self.rows.values() if params.get("agentId") in (None, row["agentId"])]
        rows.sort(key=lambda row: -row["updatedAt"])
        first, limit = params.get("offset", 0), params.get("limit", 100)
        more = first + limit < len(rows)
        page: dict[str, Any] = {"ts": self.now_ms(), "sessions": rows[first : first + limit], "hasMore": more}
        if self.pages_by_offset:
            page["nextOffset"] = first + limit if more else None
        return page | {"totalCount": len(rows), "unheardOf": {"x": 1}}

    def _sessions_subscribe(self, params: dict[str, Any]) -> Any:
        if not self.subscribes:
            raise GatewayRefusedError("FORBIDDEN", "missing scope: operator.admin", detail="MISSING_SCOPE")
        self.subscribed = True
        return {"subscribed": True}

    def _health(self, params: dict[str, Any]) -> Any:
        return self.health

    def _last_heartbeat(self, params: dict[str, Any]) -> Any:
        return None

    def _sessions_describe(self, params: dict[str, Any]) -> Any:
        row = self.rows.get(params["key"])
        return {"session": None if row is None else {k: v for k, v in row.items() if k not in NOT_DESCRIBED}}

    def _sessions_resolve(self, params: dict[str, Any]) -> Any:
        for row in self.rows.values():
            if row["sessionId"] == params["sessionId"]:
                return {"ok": True, "key": row["key"], "agentId": row["agentId"]}
        raise GatewayRefusedError("INVALID_REQUEST", "no session found")

    def _sessions_abort(self, params: dict[str, Any]) -> Any:
        row = self.rows.get(params["key"])
        if row is None or not row.get("hasActiveRun"):
            return {"ok": True, "abortedRunId": None, "status": "no-active-run"}
        run_id = (row.get("activeRunIds") or [None])[-1]
        self.put(
            key=row["key"],
            agentId=row["agentId"],
            sessionId=row["sessionId"],
            status="killed",
            hasActiveRun=False,
            activeRunIds=[],
            abortedLastRun=True,
            lastRunId=run_id,
            endedAt=self.now_ms(),
        )
        return {"ok": True, "abortedRunId": run_id, "status": "aborted"}

    def _sessions_create(self, params: dict[str, Any]) -> Any:
        if params["agentId"] not in {agent["id"] for agent in self.agents}:
            raise GatewayRefusedError("INVALID_REQUEST", f'unknown agent id "{params["agentId"]}"')
        number = len(self.rows) + 1
        session_id, run_id = f"0000000{number}-new-session", f"run-{number}"
        model = params.get("model") or "mock/mock-fast"
        row = self.put(
            agentId=params["agentId"],
            sessionId=session_id,
            status="running",
            hasActiveRun=True,
            activeRunIds=[run_id],
            model=model.partition("/")[2],
            modelProvider=model.partition("/")[0],
        )
        answer = {"ok": True, "key": row["key"], "sessionId": session_id, "runStarted": "message" in params}
        return answer | ({"runId": run_id, "status": "started"} if "message" in params else {})

    def _chat_send(self, params: dict[str, Any]) -> Any:
        return {"runId": params["idempotencyKey"], "status": "started"}

    def _sessions_patch(self, params: dict[str, Any]) -> Any:
        row = self.rows.get(params["key"])
        if row is None or row["sessionId"] != params.get("expectedSessionId"):
            raise GatewayRefusedError("INVALID_REQUEST", "session changed", detail="session-changed")
        provider, _, model = params["model"].partition("/")
        self.put(
            key=row["key"],
            agentId=row["agentId"],
            sessionId=row["sessionId"],
            model=model,
            modelProvider=provider,
        )
        return {"ok": True, "key": row["key"]}

    def _models_list(self, params: dict[str, Any]) -> Any:
        return {"models": self.models}

    def _audit_activity_list(self, params: dict[str, Any]) -> Any:
        if self.audit is None:
            raise GatewayRefusedError("INVALID_REQUEST", "missing scope: operator.admin")
        events = [item for item in self.audit if item["kind"] == params.get("kind", item["kind"])]
        events.sort(key=lambda item: -item["sequence"])
        first, limit = int(params.get("cursor") or 0), params.get("limit", 100)
        page: dict[str, Any] = {"events": events[first : first + limit]}
        if first + limit < len(events):
            page["nextCursor"] = str(first + limit)
        return page
