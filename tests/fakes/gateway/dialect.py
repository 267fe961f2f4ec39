"""How each version of the gateway spells things: hello, rows, events. Shapes come from the recordings."""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.fakes.gateway import recordings
from tests.fakes.gateway.world import Change, Session, World

Json = dict[str, Any]
NEW_VERSION, OLD_VERSION = "2026.9.6", "2026.5.7"
TICK_MS = 30_000
MAX_PAYLOAD = 26_214_400
# What a row says about its own session; the rest of a recorded row serves as the frame around it.
_OWN = {"key", "sessionId", "agentId", "status", "hasActiveRun", "activeRunIds", "hasActiveSubagentRun"}
_OWN |= {"lastRunId", "lastRunError", "abortedLastRun", "startedAt", "endedAt", "runtimeMs", "updatedAt"}
_OWN |= {"lastInteractionAt", "inputTokens", "outputTokens", "totalTokens", "totalTokensFresh"}
_OWN |= {"estimatedCostUsd", "model", "modelProvider", "activeModel", "activeModelProvider", "createdVia"}
_OWN |= {"createdAt", "parentSessionKey", "spawnedBy", "childSessions", "label", "displayName"}
_OWN |= {"snapshotAt", "origin", "deliveryContext"}
_NOT_SEEN_BEFORE = {"xFutureField": {"nested": [1, None, "…"]}}
_OLD_METHODS_LACK = ("audit.activity.list", "tasks.list", "users.self")


@cache
def _frame_of_row(recording: str) -> Json:
    done = [row for row in recordings.rows(recording) if row.get("status") == "done"]
    return {name: value for name, value in done[-1].items() if name not in _OWN}


@cache
def _hello() -> Json:
    return recordings.answers("00-handshake", "connect")[0]


@dataclass
class Dialect:
    """One version. `extra_fields` puts fields that nobody has seen before into every object."""

    protocol: int = 4
    extra_fields: bool = True

    @property
    def new(self) -> bool:
        """Whether it is the newer of the two versions."""
        return self.protocol >= 4

    @property
    def version(self) -> str:
        """The server's version."""
        return NEW_VERSION if self.new else OLD_VERSION

    def more(self, value: Json) -> Json:
        """The same object with unknown fields."""
        return value | _NOT_SEEN_BEFORE if self.extra_fields else value

    def challenge(self, nonce: str, ts: int) -> Json:
        """The payload of connect.challenge."""
        payload: Json = {"nonce": nonce, "ts": ts}
        return self.more(payload | ({"capabilities": ["model-catalog-snapshot"]} if self.new else {}))

    def hello(
        self, world: World, *, auth: Json, boot_id: str, conn_id: str, tick_ms: int, uptime_ms: int
    ) -> Json:
        """The payload of a good answer to connect."""
        hello = copy.deepcopy(_hello())
        hello["protocol"] = self.protocol
        hello["server"] |= {"version": self.version, "bootId": boot_id, "connId": conn_id}
        hello["snapshot"] |= {"health": self.health(world), "uptimeMs": uptime_ms}
        hello["policy"] |= {"tickIntervalMs": tick_ms, "maxPayload": MAX_PAYLOAD}
        hello["auth"] = auth
        if not self.new:
            del hello["server"]["bootId"]
            hello["auth"].pop("method", None)
            hello["features"]["methods"] = [
                name for name in hello["features"]["methods"] if name not in _OLD_METHODS_LACK
            ]
            hello["features"].pop("capabilities", None)
        return self.more(hello)

    def row(self, session: Session, now_ms: int) -> Json:
        """A session as `sessions.list`, `sessions.describe` and events show it."""
        row = dict(_frame_of_row("10-run-ok" if self.new else recordings.OLD))
        provider, _, model = session.model.partition("/")
        row |= {
            "key": session.key,
            "sessionId": session.session_id,
            "updatedAt": session.updated_at,
            "modelProvider": provider,
            "model": model,
            "hasActiveRun": session.active,
            "totalTokensFresh": session.tokens is not None,
        }
        given = {
            "status": session.status,
            "startedAt": session.started_at,
            "endedAt": session.ended_at,
            "label": session.label,
            "estimatedCostUsd": session.cost_usd,
        }
        row |= {name: value for name, value in given.items() if value is not None}
        if session.ended_at is not None and session.started_at is not None:
            row["runtimeMs"] = session.ended_at - session.started_at
        if session.tokens is not None:
            row |= dict(zip(("inputTokens", "outputTokens", "totalTokens"), session.tokens, strict=True))
        if session.status is not None:
            row["abortedLastRun"] = session.aborted
        row |= self._newer(session, now_ms) if self.new else self._older(session)
        return self.more(row | session.extra)

    def _newer(self, session: Session, now_ms: int) -> Json:
        row: Json = {
            "agentId": session.agent_id,
            "createdAt": session.created_at,
            "createdVia": session.created_via,
            "displayName": session.display_name or session.label or "",
            "parentSessionKey": session.parent_key or f"agent:{session.agent_id}:main",
            "snapshotAt": now_ms,
        }
        if session.active and session.active_model:
            provider, _, model = session.active_model.partition("/")
            row |= {"activeModelProvider": provider, "activeModel": model}
        if not session.active and session.status is not None:
            row |= {"activeRunIds": [], "lastRunId": session.last_run_id}
        if session.error is not None and not session.active:
            row["lastRunError"] = session.error
        if session.subagent_active:
            row["hasActiveSubagentRun"] = True
        if session.last_interaction_at is not None:
            row["lastInteractionAt"] = session.last_interaction_at
        if session.created_via == "spawn":
            row |= {"isBackground": True, "spawnedBy": session.parent_key}
        return row

    def _older(self, session: Session) -> Json:
        """2026.5.7 knows no kill: its row says `timeout`, and the error is in the events only."""
        row: Json = {"abortedLastRun": False} if session.status is not None else {}
        return row | ({"status": "timeout"} if session.status == "killed" else {})

    def event(self, change: Change, now_ms: int) -> tuple[Json, bool]:
        """The payload of an event, and whether it bears a number."""
        match change.event, change.session:
            case "sessions.changed", Session() as session:
                return self._changed(change, session, now_ms), self.new
            case "agent", Session() as session:
                return self.more(self._agent(change, session, now_ms)), True
            case "chat", Session() as session:
                return self.more(self._chat(change, session)), True
            case _:
                return self.more(dict(change.data)), True

    def _changed(self, change: Change, session: Session, now_ms: int) -> Json:
        payload: Json = {"sessionKey": session.key, "ts": now_ms}
        payload |= {"reason": change.reason} if change.reason else {"phase": change.phase}
        if change.run_id:
            payload["runId"] = change.run_id
        if self.new:
            return self.more(payload | {"agentId": session.agent_id, "session": self.row(session, now_ms)})
        row = self.row(session, now_ms)
        flat = (
            "updatedAt",
            "sessionId",
            "kind",
            "totalTokensFresh",
            "modelProvider",
            "model",
            "hasActiveRun",
        )
        payload |= {name: row[name] for name in flat if name in row}
        return self.more(payload | ({"session": row} if change.phase else {}))

    def _agent(self, change: Change, session: Session, now_ms: int) -> Json:
        data: Json = {"phase": change.phase}
        if change.phase == "start":
            data["startedAt"] = session.started_at
        elif change.phase == "error":
            data |= {"error": session.error, "endedAt": session.ended_at}
        else:
            data |= {"endedAt": session.ended_at, "aborted": session.aborted}
            data |= {"status": "cancelled"} if session.aborted else {"stopReason": "stop"}
        payload: Json = {
            "runId": change.run_id,
            "stream": "lifecycle",
            "data": data,
            "sessionKey": session.key,
            "seq": 1,
            "ts": now_ms,
        }
        return payload | ({"agentId": session.agent_id} if self.new else {})

    def _chat(self, change: Change, session: Session) -> Json:
        state = {"done": "final", "killed": "aborted"}.get(change.phase or "", "error")
        payload: Json = {"runId": change.run_id, "sessionKey": session.key, "seq": 2, "state": state}
        if state == "error":
            payload["errorMessage"] = session.error
        elif state == "aborted":
            payload["stopReason"] = "rpc"
        else:
            payload["message"] = {
                "role": "assistant",
                "content": [{"type": "text", "text": "hello from mock"}],
            }
        return payload

    def health(self, world: World) -> Json:
        """The payload of `health`."""
        agents = [
            {
                "agentId": agent.id,
                **({"name": agent.name} if agent.name else {}),
                "isDefault": agent.id == world.default_agent(),
                "heartbeat": {"enabled": False, "every": "disabled", "everyMs": None},
                "sessions": {"count": 0, "recent": []},
            }
            for agent in world.agents.values()
        ]
        return self.more(
            {
                "ok": True,
                "ts": world.now_ms(),
                "durationMs": 12,
                "heartbeatSeconds": 0,
                "defaultAgentId": world.default_agent(),
                "agents": agents,
                "eventLoop": {"degraded": False, "reasons": [], "utilization": 0.04},
            }
        )
