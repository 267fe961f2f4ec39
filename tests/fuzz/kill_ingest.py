"""`kill -9` of a daemon in the middle of ingests, again and again on one database.

    python tests/fuzz/kill_ingest.py [--kills 200] [--seed N]

Four clients hand in sessions with ten events and usage over the socket, some of them in two steps. After
each kill the daemon starts on what is there. At the end: everything acknowledged is there and whole,
nothing is there in part, the database is sound, and a replay of the acknowledged changes nothing. A short
form runs in the suite (`tests/e2e/test_ingest_kill.py`).
"""

import argparse
import json
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientctl.keepalive import Link
from ambientctl.transport import AnswerError, AwayError
from ambientd.wire.routes import INGEST
from tests.e2e.harness import Node

CLIENTS = 4
EVENTS = 10
LONGEST_RUN_SEC = 0.25
ANSWER_SEC = 10.0
REPLAYED = 50  # of the acknowledged, sent again at the end


def envelope(name: str, *, open_first: bool = False) -> bytes:
    """A session with ten events and usage; or its first half, still running."""
    session: dict[str, Any] = {
        "id": name,
        "agent_id": "peter",
        "state": "running" if open_first else "success",
        "started_at": "2026-02-18T10:00:00Z",
        "task_title": f"task of {name}",
    }
    if not open_first:
        session["ended_at"] = "2026-02-18T10:01:00Z"
    events = [
        {
            "seq": number,
            "event_type": "message",
            "event_ts": f"2026-02-18T10:00:{number:02}Z",
            "payload": {"text": f"line {number} of {name}"},
        }
        for number in range(1, (EVENTS if not open_first else EVENTS // 2) + 1)
    ]
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "cost_usd": 0.01}
    payload = {"session": session, "events": events} | ({} if open_first else {"usage": usage})
    return json.dumps({"envelope_version": "v1", "source": "kill", "payload": payload}).encode()


class Client(threading.Thread):
    """Hands in sessions until the daemon is gone; remembers what was sent and what was acknowledged."""

    def __init__(self, socket_path: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self._socket = socket_path
        self._prefix = prefix
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        """Ends when a request brings no answer."""
        link = Link((self._socket,), ANSWER_SEC)
        try:
            for number in range(100_000):
                name = f"{self._prefix}-{number}"
                if number % 3 == 0 and self._post(link, envelope(name, open_first=True)):
                    self.opened.append(name)
                if self._post(link, envelope(name)):
                    self.closed.append(name)
        except (AwayError, AnswerError):
            return
        finally:
            link.close()

    def _post(self, link: Link, body: bytes) -> bool:
        reply = link.post(INGEST, body)
        if reply.status != 200:
            self.wrong.append(f"{reply.status} {reply.body[:300]!r}")
        return reply.status == 200


class Outcome:
    """What the clients know."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.wrong: list[str] = []


def kill_again_and_again(node: Node, kills: int, seed: int, tell: Callable[[str], None]) -> Outcome:
    """The node, already running, is killed `kills` times and runs at the end."""
    chance, outcome = random.Random(seed), Outcome()
    for kill in range(kills):
        clients = [Client(str(node.socket), f"k{kill}-{number}") for number in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(chance.random() * LONGEST_RUN_SEC)
        node.kill9()
        for client in clients:
            client.join(ANSWER_SEC * 2)
            assert not client.is_alive()
            outcome.opened += client.opened
            outcome.closed += client.closed
            outcome.wrong += client.wrong
        node.start()
        if kill % 20 == 19:
            tell(f"{kill + 1} kills, {len(outcome.closed)} sessions acknowledged")
    return outcome


def check(node: Node, outcome: Outcome, kills: int) -> None:
    """Raises AssertionError when something acknowledged is missing, or something is there in part."""
    assert outcome.wrong == []
    assert len(outcome.closed) > kills, "too few were acknowledged to prove anything"
    with closing(sqlite3.connect(f"file:{node.state / 'ambient.db'}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = connection.execute(
            "SELECT l.session_id, l.status,"
            " (SELECT count(*) FROM session_event_rows AS e WHERE e.session_key = l.session_key),"
            " (SELECT total(total_tokens) FROM session_usage_rows AS u WHERE u.session_key = l.session_key),"
            " (SELECT count(*) FROM ingest_keys AS k WHERE k.session_key = l.session_key),"
            " (SELECT count(*) FROM session_accounted AS a WHERE a.session_key = l.session_key)"
            " FROM session_ledger AS l"
        ).fetchall()
        indexed = connection.execute("SELECT count(*) FROM session_search_docsize").fetchone()[0]
        accounted = connection.execute("SELECT total(runs_total) FROM daily_usage_agg").fetchone()[0]
    found = {row[0]: row[1:] for row in rows}
    assert [name for name in outcome.closed if found.get(name, ("",))[0] != "success"] == []
    assert [name for name in outcome.opened if name not in found] == []
    whole = {name: row for name, row in found.items() if row[0] == "success"}
    half = {name: row for name, row in found.items() if row[0] != "success"}
    assert {row[1:3] for row in whole.values()} <= {(EVENTS, 150.0)}
    assert set(half.values()) <= {("running", EVENTS // 2, 0.0, 1, 0)}
    assert all(row[3] >= 1 and row[4] == 1 for row in whole.values())
    assert indexed == len(found)
    assert accounted == len(whole)
    assert len(whole) - len(outcome.closed) <= kills * CLIENTS, "more than what was just under way"
    link = Link((str(node.socket),), ANSWER_SEC)
    for name in outcome.closed[-REPLAYED:]:
        reply = link.post(INGEST, envelope(name))
        assert json.loads(reply.body) == {"ok": True, "session_id": name, "idempotent_replay": True}
    link.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261121)
    arguments = parser.parse_args()
    with Node({}) as node:
        outcome = kill_again_and_again(node, arguments.kills, arguments.seed, print)
        check(node, outcome, arguments.kills)
    print(f"{arguments.kills} kills, {len(outcome.closed)} sessions acknowledged, none lost, none in part")


if __name__ == "__main__":
    main()
