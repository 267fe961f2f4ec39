"""A real node that belongs to a real control plane, and what keeps it busy, for tests from outside."""

import contextlib
import http.client
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ambientctl.keepalive import Link
from ambientctl.transport import AnswerError, AwayError
from ambientd.wire.routes import INGEST
from tests.bothsides import Row, Rows
from tests.e2e.fleetkit import Plane
from tests.e2e.harness import Answer, Node
from tests.e2e.sessionkit import SAMPLE, sh
from tests.fuzz.kill_ingest import envelope

AGENTS: Mapping[str, Any] = {
    "quick": sh("cat; echo done", max_concurrent=8),
    "sample": {"command": [*SAMPLE, "work"], "max_concurrent": 8},
}
ANSWER_SEC = 10.0
AWAY_SEC = 0.02  # before the same is tried again
PACE_SEC = 0.03  # between two records, so that the test's own load is not all there is


def join(node: Node, url: str, token: str, name: str) -> Answer:
    """Tells the node to join, as an operator's command does."""
    return node.post("/api/v1/node/membership", {"url": url, "join_token": token, "node_id": name})


def sync(node: Node, *, seconds: float = 60.0) -> Answer:
    """One round with the control plane. Raises OSError, http.client.HTTPException when the node is away."""
    wish = {"peers": False, "control_plane": True, "dry_run": False}
    return node.post("/api/v1/node/sync", wish, seconds=seconds)


def rows_of(path: Path) -> Rows:
    """Asks a database file of another process, which may be in use, read-only."""

    def ask(sql: str) -> list[Row]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    return ask


class Busy(threading.Thread):
    """Does one thing again and again until it is told to stop; that its node is away is no failure."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._over = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Until `end`."""
        while not self._over.is_set():
            try:
                self._work()
            except (OSError, http.client.HTTPException, AwayError, AnswerError):
                self._over.wait(AWAY_SEC)
            except AssertionError as error:
                self.failure = error
                return

    def end(self) -> None:
        """Raises what made it fail."""
        self._over.set()
        self.join(ANSWER_SEC * 3)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


def _taken(answer: Any) -> None:
    """Raises ConnectionError where the node says that it is not ready yet: the same is tried again."""
    if answer.status == 503:
        raise ConnectionError(answer)
    assert answer.status == 200, answer


class Recorder:
    """Hands sessions in, and remembers those that were acknowledged; every third one in two steps."""

    def __init__(self, node: Node, prefix: str, *, pace: float = PACE_SEC) -> None:
        self._pace = pace
        self._link = Link((str(node.socket),), ANSWER_SEC)
        self._day = (datetime.now(UTC) - timedelta(days=1)).date().isoformat().encode()
        self._prefix = prefix
        self._number = 0
        self.acknowledged: list[str] = []

    def __call__(self) -> None:
        name = f"{self._prefix}-{self._number}"
        if self._number % 3 == 0:
            self._post(envelope(name, open_first=True))
        self._post(envelope(name))
        self.acknowledged.append(name)
        self._number += 1
        time.sleep(self._pace)

    def close(self) -> None:
        """Closes its connection."""
        self._link.close()

    def _post(self, body: bytes) -> None:
        # Sessions of yesterday: older ones a node forgets after a while, and its control plane does not.
        _taken(self._link.post(INGEST, body.replace(b"2026-02-18", self._day)))


class Operator:
    """Orders what the audit tells of: another model for an agent, again and again."""

    def __init__(self, node: Node, *, pace: float = PACE_SEC) -> None:
        self._node = node
        self._pace = pace
        self._number = 0
        self.acknowledged: list[int] = []

    def __call__(self) -> None:
        self._number += 1
        wish = {"agentId": "quick", "model": f"model-{self._number}"}
        answer = self._node.post("/api/control/model", wish, seconds=ANSWER_SEC)
        _taken(answer)
        self.acknowledged.append(answer.json["auditId"])
        time.sleep(self._pace)


class Pusher:
    """Asks for one round of pushing after the other; `under_way` while one is."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.under_way = threading.Event()
        self.whole = 0
        self.cut = 0

    def __call__(self) -> None:
        self.under_way.set()
        complete = False
        try:
            answer = sync(self._node)
            assert answer.status in (200, 409, 503), answer
            complete = answer.status == 200 and answer.json["control"]["complete"]
        finally:
            self.under_way.clear()
            self.whole += complete
            self.cut += not complete
            if not complete:
                time.sleep(AWAY_SEC)


class Submitter:
    """Gives the node work through the control plane."""

    def __init__(self, plane: Plane, agent: str = "quick") -> None:
        self._plane = plane
        self._agent = agent
        self.tasks: list[str] = []

    def __call__(self) -> None:
        inputs = {"agent_id": self._agent, "prompt": f"task {len(self.tasks)}"}
        with contextlib.suppress(OSError):  # it was just killed
            answer = self._plane.ask(
                "POST",
                "/api/v1/tasks",
                {"task_type": "agent_session", "inputs": inputs},
                token=self._plane.token,
            )
            if answer.status == 201:
                self.tasks.append(answer.json["task_id"])
