"""What a check works with: a real gateway, a real node, a mock model, and two onlookers.

The screen is what the node shows, looked at again and again; the watcher is what the gateway itself tells.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from tests.e2e.harness import Node
from tests.live.mock_model import MockModel
from tests.live.openclaw import Gateway, is_running
from tests.live.rpc import Watcher, call

Json = dict[str, Any]
LOOK_EVERY = 0.04
SHOWN_SEC = 60.0
# The first run after a start takes up to ten seconds on a quiet machine before the model is asked.
RUN_SEC = 90.0
TERMINAL = ("success", "failed", "killed", "cancelled")


class Shown(NamedTuple):
    """The node's status as it first was, and when that was."""

    at: float
    document: Json

    @property
    def gateway(self) -> Json:
        found: Json = self.document["gateway"]
        return found

    def agent(self, agent_id: str) -> Json:
        return next((agent for agent in self.document["agents"] if agent["id"] == agent_id), {})


class Screen:
    """Looks at the node's status in a thread of its own and keeps every change of it."""

    def __init__(self, node: Node) -> None:
        self.changes: list[Shown] = []
        self.worst_sec = 0.0
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def wait(
        self, what: str, is_so: Callable[[Shown], bool], since: float = 0.0, seconds: float = SHOWN_SEC
    ) -> Shown:
        """The first change at or after `since` that fits, or the state at `since` if that does."""
        until = time.monotonic() + seconds
        while True:
            changes = list(self.changes)
            before = [shown for shown in changes if shown.at <= since][-1:]
            for shown in (*before, *(shown for shown in changes if shown.at > since)):
                if is_so(shown):
                    return shown
            last = json.dumps(changes[-1].document["gateway"]) if changes else "nothing"
            assert time.monotonic() < until, f"not shown within {seconds:g} s: {what}; last: {last}"
            time.sleep(LOOK_EVERY)

    def _look(self) -> None:
        known = ""
        while not self._stop.wait(LOOK_EVERY):
            began = time.monotonic()
            try:
                document = self._node.status()
            except (OSError, http.client.HTTPException, AssertionError, ValueError):
                continue  # between two starts of the node
            self.worst_sec = max(self.worst_sec, time.monotonic() - began)
            facts = {name: document["gateway"].get(name) for name in _GATEWAY_FACTS}
            mark = json.dumps([facts, document["agents"], document["problems"]], sort_keys=True)
            if mark != known:
                known = mark
                self.changes.append(Shown(time.monotonic(), document))


_GATEWAY_FACTS = ("connected", "healthy", "phase", "reason", "remedy", "version", "live")


@dataclass
class Stage:
    """All of it. `figures` is what was measured, in the order in which it was."""

    gateway: Gateway
    model: MockModel
    node: Node
    screen: Screen
    figures: list[tuple[str, str]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    listeners: ExitStack = field(default_factory=ExitStack)
    watcher: Watcher | None = None

    # --- being another client

    def listen(self) -> None:
        """Listens to the gateway that runs now."""
        self.watcher = self.listeners.enter_context(Watcher(self.gateway.url, self.gateway.token))

    def ask(self, method: str, params: Json | None = None) -> Any:
        """What the gateway answers another client."""
        return call(self.gateway.url, self.gateway.token, method, params)

    def row(self, session_id: str) -> Json:
        """The session as the gateway has it."""
        key = self.ask("sessions.resolve", {"sessionId": session_id})["key"]
        found: Json = self.ask("sessions.describe", {"key": key})["session"]
        return found

    # --- acting as an operator

    def ctl(self, *arguments: str, code: int = 0) -> Json:
        """What `ambientctl … --json` prints."""
        done = self.node.ctl(*arguments, "--json", timeout=60)
        assert done.returncode == code, f"{arguments}: exit {done.returncode}: {done.stderr}{done.stdout}"
        found: Json = json.loads(done.stdout)
        return found

    def spawn(self, agent: str, prompt: str, *more: str) -> str:
        """A session's id."""
        found = str(self.ctl("spawn", agent, prompt, *more)["sessionId"])
        self.sessions.append(found)
        return found

    # --- looking

    def wait_agent(self, agent: str, status: str, since: float, seconds: float = SHOWN_SEC) -> Shown:
        """When the status first showed the agent so; the commands must show it too."""
        shown = self.screen.wait(
            f"{agent} {status}", lambda shown: shown.agent(agent).get("status") == status, since, seconds
        )
        printed = next(item for item in self.ctl("status")["agents"] if item["id"] == agent)
        listed = next(item for item in self.ctl("agents")["items"] if item["id"] == agent)
        now = self.node.status()
        still = next(item for item in now["agents"] if item["id"] == agent)
        if still["status"] == status:
            assert status in (printed["status"], listed["status"]), (status, printed, listed)
        return shown

    def wait_ledger(self, session_id: str, *wanted: str, seconds: float = SHOWN_SEC) -> Json:
        """The row of `ambientctl sessions`, once it has one of these words."""
        until = time.monotonic() + seconds
        while True:
            answer = self.node.get(f"/api/v3/ledger/{session_id}")
            found = answer.json.get("ledger", {}) if answer.status == 200 else {}
            if found.get("status") in wanted:
                break
            assert time.monotonic() < until, f"{session_id} not {wanted}: {answer.body[:2000]!r}"
            time.sleep(LOOK_EVERY)
        printed = next(item for item in self.ctl("sessions")["items"] if item["sessionId"] == session_id)
        assert printed["status"] == found["status"]
        return found

    def usage(self, session_id: str) -> Json:
        """What the run used, with sources and confidences."""
        found: Json = self.ctl("sessions", "show", session_id).get("usage") or {}
        return found

    def told(self, session_id: str, status: str) -> float | None:
        """When the gateway told its other clients."""
        assert self.watcher is not None
        return self.watcher.when(session_id, status)

    def wait_streaming(self, model: str, calls: int = 1) -> None:
        """Returns when so many calls of runs have reached the model and one of them flows."""
        until = time.monotonic() + RUN_SEC
        while len(self.model.runs(model)) < calls or not self.model.streaming:
            assert time.monotonic() < until, f"{model} was not asked:\n{self.gateway.log_tail()}"
            time.sleep(LOOK_EVERY)

    def figure(self, name: str, seconds: float | None) -> None:
        """Notes a time."""
        if seconds is not None:
            text = f"{max(0.0, seconds) * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
            self.note(name, text)

    def note(self, name: str, text: str) -> None:
        """Notes something else."""
        self.figures.append((name, text))

    def shown_after(self, name: str, session_id: str, status: str, shown: Shown) -> None:
        """Notes how long after the gateway's own word the status showed it."""
        told = self.told(session_id, status)
        if told is not None:
            self.figure(name, shown.at - told)


def wait_gone(pid: int, seconds: float) -> float:
    """Seconds until the process had ended; fails when it has not in time."""
    began = time.monotonic()
    while is_running(pid):
        assert time.monotonic() - began < seconds, f"process {pid} still runs"
        time.sleep(0.01)
    return time.monotonic() - began
