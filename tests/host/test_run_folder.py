"""What an agent may have written over its own run's files is never believed past what can be stored."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.host import run_folder
from ambientd.ports.runner import OutputChunk, RunResult

GOOD: dict[str, Any] = {
    "cause": "exit",
    "started_at_ms": 5,
    "ended_at_ms": 9,
    "runtime_ms": 4,
    "exit_code": 0,
}


def test_a_shim_s_result_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(GOOD | {"message": "odd\nname \x00"}))
    found = run_folder.read_result(tmp_path)
    assert found is not None
    assert (found.cause, found.ended_at_ms, found.message) == ("exit", 9, "odd�name �")


@pytest.mark.parametrize(
    "forged",
    [
        {"ended_at_ms": 10**15},
        {"ended_at_ms": -1},
        {"started_at_ms": 10**30},
        {"runtime_ms": 2**63},
        {"runtime_ms": -5},
        {"exit_code": 2**70},
        {"signal": -1},
        {"dropped_bytes": 2**63},
        {"survivors_ended": -1},
        {"cause": "promoted"},
        {"error": "a\x00b"},
        {"runtime_ms": "4"},
        {"runtime_ms": 1e300},
    ],
)
def test_a_forged_result_is_no_result(tmp_path: Path, forged: dict[str, Any]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(GOOD | forged))
    assert run_folder.read_result(tmp_path) is None


@pytest.mark.parametrize("content", ["{}", "[]", "", "{", '{"started_at_ms": 1e99}', '{"started_at_ms": -1}'])
def test_a_claim_that_says_no_time_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "claim").write_text(content)
    assert run_folder.started_at_ms(tmp_path) is None
    (tmp_path / "claim").write_text(json.dumps({"started_at_ms": 10**20}))
    assert run_folder.started_at_ms(tmp_path) is None


def test_a_forged_record_with_an_impossible_time_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"999999999999999 o0 1\nx\n99999999999999 o0 4\nreal\n")
    chunk = run_folder.read_output(tmp_path, 0)
    assert [line.text for line in chunk.lines] == ["real"]


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda at: at.symlink_to("/etc/passwd")])
def test_what_is_no_plain_file_in_a_files_place_is_neither_followed_nor_waited_for(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    for name in ("shim.lock", "output", "result.json", "claim"):
        put(tmp_path / name)
    assert not run_folder.is_alive(tmp_path)
    assert run_folder.read_output(tmp_path, 7) == OutputChunk(lines=(), next_offset=7)
    assert run_folder.read_result(tmp_path) is None
    assert run_folder.started_at_ms(tmp_path) is None


def test_a_file_blown_up_by_the_agent_is_not_read_for_ever(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    os.truncate(tmp_path / "output", 2**40)
    end = run_folder.OUTPUT_MAX
    assert run_folder.read_output(tmp_path, end - 1).next_offset >= end
    assert run_folder.read_output(tmp_path, end).next_offset == end


def test_a_lost_runs_result_is_written_through_no_link(tmp_path: Path) -> None:
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    victim.write_text("precious")
    elsewhere.mkdir()
    folder = tmp_path / "session" / "run-1"
    folder.mkdir(parents=True)
    lost = RunResult(cause="lost", started_at_ms=None, ended_at_ms=9, runtime_ms=0, error="runner_lost")
    for put in (lambda at: at.symlink_to(victim), os.mkfifo):
        put(folder / "result.lost")
        run_folder.write_result(folder, lost)
        assert run_folder.read_result(folder) == lost
    assert victim.read_text() == "precious"
    (tmp_path / "session" / "run-2").symlink_to(elsewhere)
    (tmp_path / "linked").symlink_to(elsewhere)
    (elsewhere / "run-1").mkdir()
    for planted in (tmp_path / "session" / "run-2", tmp_path / "linked" / "run-1"):
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            run_folder.write_result(planted, lost)
    assert [place.name for place in elsewhere.rglob("*")] == ["run-1"]
