import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.feedline import encode
from ambientd.core.feedpath import FeedPath
from ambientd.core.heartbeat import build_event, build_run_id
from ambientd.main.feed import run
from ambientd.wire import exits

HOST = "sha256:" + "0" * 64
START_MS = 1_795_000_000_000
NOW = datetime.fromtimestamp(START_MS / 1000 + 300, UTC)
ROOT = Path(__file__).parents[2]

VALID = {
    "ts_utc": "...",
    "ts_epoch_ms": 1700000000000,
    "action": "heartbeat",
    "category": "heartbeat",
    "emit_mode": "runtime_auto",
    "verifier_mode": "operational_proof",
    "run_id": "...",
    "host_id": "sha256:...",
}


class StoppedClock:
    """Implements `ports.clock.Clock`, five minutes after the first beat."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def feed(*arguments: str, default: str | None = "/nonexistent/feed.jsonl") -> int:
    place = FeedPath(
        default, None if default else "heartbeat.feed: the path holds a '..' component", "default"
    )
    return run(arguments, default_feed=lambda: place, clock=StoppedClock())


def beat(seq: int, **changes: Any) -> bytes:
    made = build_event(
        at_ms=START_MS + seq * 60_000,
        actor="dispatcher",
        run_id=build_run_id(START_MS, 7),
        host_id=HOST,
        pid=7,
        seq=seq,
        interval=60,
        meta={"dropped": 2} if seq == 3 else {},
    )
    return encode({**made, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "feed.jsonl"
    made.write_bytes(b"".join(beat(seq) for seq in (1, 2, 3, 4)))
    return made


# --- validate


@pytest.mark.parametrize("mode", [[], ["--strict"]])
def test_a_good_feed_is_valid(path: Path, mode: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert feed("validate", str(path), *mode) == exits.DONE
    kind = "strictly valid" if mode else "valid"
    assert capsys.readouterr().out == f"{path}: {kind}, 4 lines: 4 heartbeats, 0 of others\n"


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (VALID, None),
        ({"action": "heartbeat", "category": "heartbeat", "emit_mode": "runtime_auto"}, "ts_epoch_ms"),
        ({"action": "heartbeat", "emit_mode": "manual_append"}, "emit_mode"),
        (
            {"action": "heartbeat", "phase_id": "PHASE_15_5_3", "emit_mode": "runtime_auto"},
            "phase_id: dangerous",
        ),
        ({"action": "heartbeat", "phase": "PHASE_15_5_3", "emit_mode": "runtime_auto"}, "phase: dangerous"),
    ],
)
def test_the_specifications_vectors(
    tmp_path: Path, event: dict[str, Any], word: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vector.jsonl"
    file.write_text(json.dumps(event) + "\n")
    assert feed("validate", str(file)) == (exits.FAILED if word else exits.DONE)
    out = capsys.readouterr().out
    assert word is None or f"{file}:1: {word}" in out


def test_problems_come_with_their_line_and_reason(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(path, "ab") as file:
        file.write(b'{"a":NaN}\n\n{"torn')
    assert feed("validate", str(path), "--json") == exits.FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "ambient.feed-check/1"
    assert document["generatedAt"] == "2026-11-18T11:11:40Z"
    assert (document["valid"], document["lines"], document["heartbeats"]) == (False, 7, 4)
    assert [problem["line"] for problem in document["problems"]] == [5, 6, 7, 7]
    assert document["problems"][1]["reason"] == "line: blank"


def test_many_problems_are_cut_short_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b"x\n" * 3000)
    assert feed("validate", str(file)) == exits.FAILED
    out = capsys.readouterr().out
    assert "… and 2980 more" in out
    assert out.endswith("3000 problems, 3000 lines: 0 heartbeats, 3000 of others\n")


def test_a_giant_line_is_a_problem_and_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "giant.jsonl"
    with open(file, "wb") as out:
        out.truncate(200 << 20)
    assert feed("validate", str(file)) == exits.FAILED
    assert f"{file}:1: line: {200 << 20} bytes in one line" in capsys.readouterr().out


def test_standard_input_is_read_for_a_dash(path: Path) -> None:
    done = program("validate", "-", "--strict", stdin=path.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"-: strictly valid, 4 lines: 4 heartbeats, 0 of others\n"


@pytest.mark.parametrize("verb", ["validate", "drift", "tail"])
def test_a_feed_that_is_not_there_is_said_with_its_path(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert feed(verb) == exits.NOT_FOUND
    assert capsys.readouterr().err == "Error: there is no feed at /nonexistent/feed.jsonl\n"
    assert feed(verb, "/dev/null") == exits.FAILED
    assert "not a regular file" in capsys.readouterr().err
    assert feed(verb, default=None) == exits.FAILED
    assert "the feed's path is refused: heartbeat.feed: the path holds a '..'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["tail", "-n", "-3"],
        ["tail", "-n", "x"],
        ["drift", "--interval", "0"],
        ["validate", "--stric"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        feed(*arguments)
    assert stopped.value.code == exits.USAGE
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [[], ["validate"], ["drift"], ["tail"]])
def test_help_teaches(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        feed(*verb, "--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    if verb:
        assert "exit codes:" in text
        assert "examples:" in text
    else:
        assert "LUKA_ACTIVITY_FEED_JSONL" in text


# --- drift


def test_regular_beats_are_no_drift(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert feed("drift", str(path)) == exits.DONE
    out = capsys.readouterr().out
    assert "4 beats in 1 runs, last 2026-11-18T11:10:40Z (60 s old), longest gap 60.0 s" in out
    assert out.endswith(": no drift: 4 beats, 0 missed, 0 lost\n")


def test_missing_beats_are_drift(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(beat(1) + beat(4))
    assert feed("drift", str(path)) == exits.FAILED
    assert "lost        180.0 s  2 beats  dispatcher:20261118T110640Z:pid7" in capsys.readouterr().out
    assert feed("drift", str(path), "--json", "--interval", "30") == exits.FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "ambient.feed-drift/1"
    assert (document["drift"], document["lost"], document["beats"]) == (True, 2, 2)
    assert document["hosts"][0]["ageMs"] == 60_000
    assert document["gaps"][0]["durationMs"] == 180_000


def test_a_feed_without_beats_is_drift(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(b'{"action":"x"}\n')
    assert feed("drift", str(path)) == exits.FAILED
    assert "no heartbeat" in capsys.readouterr().out


# --- tail


def test_tail_shows_the_last_events_safely(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(path, "ab") as file:
        file.write(b'{"ts":"2026-11-18T11:11:00Z","action":"\\u001b[31mred"}\nnot json\n{"torn')
    assert feed("tail", str(path), "-n", "4") == exits.DONE
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-18T11:09:40Z  heartbeat #3 dispatcher:20261118T110640Z:pid7 dropped=2",
        "2026-11-18T11:10:40Z  heartbeat #4 dispatcher:20261118T110640Z:pid7",
        "2026-11-18T11:11:00Z  ?[31mred",
        "(damaged line of 8 bytes)",
    ]
    assert feed("tail", str(path), "-n", "0") == exits.DONE
    assert capsys.readouterr().out == ""


def test_tail_as_json_is_one_object_per_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(path, "ab") as file:
        file.write(b"not json\n")
    assert feed("tail", str(path), "--json", default=None) == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["heartbeat_seq"] for line in lines] == [1, 2, 3, 4]


def test_tail_finds_lines_that_lie_far_apart(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = json.dumps({"action": "x", "text": "y" * 200_000}).encode() + b"\n"
    path.write_bytes(beat(1) + long + beat(2) + long + beat(3))
    assert feed("tail", str(path), "-n", "4", "--json") == exits.DONE
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("heartbeat_seq") for line in lines] == [None, 2, None, 3]


SCRIPT = """
import sys
from ambientd.core.feedpath import FeedPath
from ambientd.host.clock import SystemClock
from ambientd.main.feed import run
sys.exit(run(sys.argv[1:], default_feed=lambda: FeedPath(None, "x", "default"), clock=SystemClock()))
"""


def program(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, timeout=60, check=False)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_following_goes_on_over_rotation_and_truncation_until_ctrl_c(path: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    with open(shown, "wb") as out:
        command = [sys.executable, "-c", SCRIPT, "tail", "-f", "-n", "1", "--json", str(path)]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, cwd=ROOT)

    def seqs() -> list[int]:
        return [json.loads(line)["heartbeat_seq"] for line in shown.read_bytes().splitlines()]

    try:
        wait_for(lambda: seqs() == [4])
        with open(path, "ab") as file:
            file.write(beat(5)[:100])
            file.flush()
            time.sleep(0.3)
            file.write(beat(5)[100:])
        wait_for(lambda: seqs() == [4, 5])
        with open(path, "ab") as old:
            os.rename(path, path.with_suffix(".old"))
            old.write(beat(6))
        wait_for(lambda: seqs() == [4, 5, 6])
        path.write_bytes(beat(7))
        wait_for(lambda: seqs() == [4, 5, 6, 7])
        path.write_bytes(b"")
        time.sleep(0.6)
        with open(path, "ab") as file:
            file.write(beat(8))
        wait_for(lambda: seqs() == [4, 5, 6, 7, 8])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (exits.INTERRUPTED, b"")
    finally:
        process.kill()
        process.communicate()


def test_a_closed_pipe_ends_it_quietly(path: Path) -> None:
    path.write_bytes(b"".join(beat(seq) for seq in range(1, 20_000)))
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "tail", "-n", "19999", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == exits.DONE
