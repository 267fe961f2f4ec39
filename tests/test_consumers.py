"""The readers' stand-ins must be able to complain, or their silence proves nothing."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.consumers import check_feed

NOW = 1_795_000_000.0
BEAT = {
    "ts_utc": "2026-11-18T09:46:40Z",
    "ts_epoch_ms": 1_794_995_200_000,
    "category": "heartbeat",
    "action": "heartbeat",
    "emit_mode": "runtime_auto",
    "verifier_mode": "operational_proof",
    "actor": "dispatcher",
    "tool": "task_dispatcher",
    "run_id": "dispatcher:20261118T094640Z:pid7",
    "host_id": "sha256:" + "0" * 64,
    "pid": 7,
    "heartbeat_seq": 1,
    "interval_sec": 60,
}


def complaints(tmp_path: Path, *lines: bytes, live: bool = False) -> list[str]:
    feed = tmp_path / "feed.jsonl"
    feed.write_bytes(b"".join(lines))
    return check_feed(feed, now=NOW, live=live)


def line(**changes: Any) -> bytes:
    event = {key: value for key, value in {**BEAT, **changes}.items() if value is not None}
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def test_a_good_feed_satisfies_every_reader(tmp_path: Path) -> None:
    assert complaints(tmp_path, line(), line(heartbeat_seq=2)) == []


@pytest.mark.parametrize(
    ("reader", "bad"),
    [
        ("jsonl", line()[:-1]),
        ("jsonl", line() + b"\n"),
        ("jsonl", line() + b'{"ts_utc":"2026'),
        ("jsonl", line().replace(b'"pid":7', b'"pid":NaN')),
        ("monitor", line(ts_utc="2026-11-18T09:46:40")),
        ("linter", line() + line(ts_utc="2026-11-18T09:46:39Z", heartbeat_seq=2)),
        ("guard", line() + line(ts_epoch_ms=1_794_995_199_999, heartbeat_seq=2)),
        ("indexer", line(run_id="a/b")),
        ("checker", line(phase="PHASE_A")),
        ("checker", line(meta={"task_id": "x"})),
        ("page", line().replace(b"dispatcher", "dispatcher\u2028".encode(), 1)),
        ("chain", line(hash="00")),
        ("spec", line(host_id="sha256:ab12")),
        ("spec", line(heartbeat_seq=0)),
        ("spec", line(evidence_path="x")),
        ("spec", line(ts_epoch_ms=1_794_995_201_000)),
    ],
)
def test_each_reader_complains_about_what_it_cannot_read(tmp_path: Path, reader: str, bad: bytes) -> None:
    found = complaints(tmp_path, bad)
    assert any(complaint.startswith(reader + ":") for complaint in found), found


def test_a_stale_feed_is_drift(tmp_path: Path) -> None:
    assert any("monitor: drift" in complaint for complaint in complaints(tmp_path, line(), live=True))


def test_a_broken_link_of_a_chain_is_found(tmp_path: Path) -> None:
    def hashed(event: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return {**event, "hash": hashlib.sha256(text.encode()).hexdigest()}

    anchor = hashed({"ts_utc": BEAT["ts_utc"], "action": "ledger_anchor", "prev_hash": "GENESIS"})
    good = hashed({"ts_utc": BEAT["ts_utc"], "action": "x", "prev_hash": anchor["hash"]})
    bad = hashed({"ts_utc": BEAT["ts_utc"], "action": "x", "prev_hash": "0"})
    dump = [json.dumps(event).encode() + b"\n" for event in (anchor, good, bad)]
    assert complaints(tmp_path, *dump[:2]) == []
    assert complaints(tmp_path, dump[0], dump[2]) == ["chain: line 2: wrong link"]
