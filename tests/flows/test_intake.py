import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.wire.enums import SessionStatus
from tests.fakes.store import CrashError
from tests.flows.inbox import MAX_FILE, Inbox, inbox, task

# --- the good way


async def test_a_task_becomes_a_session_and_ends_in_done_with_a_result(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("job.json", task(model="m/2", title="A job", category="demo"))
        assert await box.sweep() == 1
        assert (box.names(), box.names("running")) == ([], ["job.json"])
        (session,) = await box.sessions()
        assert (session.agent_id, session.model_id, session.task_title, session.task_category) == (
            "worker",
            "m/2",
            "A job",
            "demo",
        )
        assert await box.close() == 0
        await box.end_session(session.session_id)
        assert await box.close() == 1
        assert box.names("done") == ["job.json", "job.result.json"]
        result = box.note("done", "job.json", "result")
        assert result == {
            "schema": "ambient.spool-result/1",
            "task_id": "t1",
            "outcome": "committed",
            "session_id": session.session_id,
            "at": result["at"],
            "status": "success",
            "runtime_ms": 1234,
        }
        assert await box.counters() == {"dispatched": 1, "committed": 1}


async def test_a_failed_task_has_a_result_that_says_so(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("job.json")
        await box.sweep()
        (session,) = await box.sessions()
        await box.end_session(session.session_id, SessionStatus.FAILED)
        await box.close()
        result = box.note("done", "job.json", "result")
        assert (result["outcome"], result["status"]) == ("error", "failed")
        assert await box.counters() == {"dispatched": 1, "error": 1}


async def test_sessions_of_one_sweep_are_in_the_order_of_the_file_names(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        for number in (3, 1, 2):
            box.hand_in(f"{number}.json", task(f"t{number}", title=f"job {number}"))
        assert await box.sweep() == 3
        assert [row.task_title for row in await box.sessions()] == ["job 1", "job 2", "job 3"]


# --- once and only once


async def test_a_task_id_that_was_taken_in_before_is_not_run_again(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        await box.sweep()
        (session,) = await box.sessions()
        box.hand_in("b.json")  # another name
        box.hand_in("a.json")  # the same name
        assert await box.sweep() == 0
        assert (box.names(), box.names("running")) == ([], ["a.json"])
        reason = box.note("done", "b.json")
        assert (reason["code"], reason["session_id"], reason["outcome"]) == (
            "duplicate",
            session.session_id,
            "dispatched",
        )
        assert box.note("done", "a.json")["code"] == "duplicate"
        assert len(await box.sessions()) == 1
        assert (await box.counters())["skipped"] == 2


async def test_a_duplicate_of_an_ended_task_says_what_became_of_it(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        await box.sweep()
        (session,) = await box.sessions()
        await box.end_session(session.session_id)
        await box.close()
        box.hand_in("a.json")
        assert await box.sweep() == 0
        assert box.names("done") == ["a.2.json", "a.2.reason.json", "a.json", "a.result.json"]
        assert box.note("done", "a.2.json")["outcome"] == "committed"
        assert box.note("done", "a.json", "result")["outcome"] == "committed"


def die_after_commit(box: Inbox) -> None:
    def die() -> None:
        raise CrashError

    box.store.after_write = die


def die_before_move(box: Inbox) -> None:
    box.spool.die_before_move = True


def die_after_move(box: Inbox) -> None:
    box.spool.die_after_move = True


def live_again(box: Inbox) -> None:
    box.store.after_write = None
    box.spool.die_before_move = box.spool.die_after_move = False


@pytest.mark.parametrize("death", [die_after_commit, die_before_move, die_after_move])
@pytest.mark.parametrize("ends_meanwhile", [False, True])
async def test_wherever_the_daemon_dies_while_taking_in_the_task_runs_once_and_has_its_result(
    tmp_path: Path, death: Callable[[Inbox], None], ends_meanwhile: bool
) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        death(box)
        with pytest.raises(CrashError):
            await box.sweep()
        live_again(box)
        sessions = await box.sessions()
        if ends_meanwhile:
            await box.end_session(sessions[0].session_id)
        await box.sweep()
        await box.close()
        if not ends_meanwhile:
            assert [row.session_id for row in await box.sessions()] == [sessions[0].session_id]
            assert box.names("running") == ["a.json"]
            await box.end_session(sessions[0].session_id)
            await box.close()
        assert (box.names(), box.names("running")) == ([], [])
        assert box.names("done") == ["a.json", "a.result.json"]
        assert box.note("done", "a.json", "result")["session_id"] == sessions[0].session_id
        assert await box.counters() == {"dispatched": 1, "committed": 1}


@pytest.mark.parametrize("death", [die_before_move, die_after_move])
async def test_wherever_the_daemon_dies_while_closing_the_result_is_there_once(
    tmp_path: Path, death: Callable[[Inbox], None]
) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        await box.sweep()
        await box.end_session((await box.sessions())[0].session_id)
        death(box)
        with pytest.raises(CrashError):
            await box.close()
        live_again(box)
        await box.sweep()
        await box.close()
        assert box.names("done") == ["a.json", "a.result.json"]
        assert (box.names(), box.names("running")) == ([], [])


@pytest.mark.parametrize("death", [die_after_commit, die_before_move, die_after_move])
@pytest.mark.parametrize(
    ("content", "folder"), [(b"{", "rejected"), (task(requires=["task_done:never"]), "blocked")]
)
async def test_wherever_the_daemon_dies_while_refusing_the_file_ends_once_with_its_reason(
    tmp_path: Path, death: Callable[[Inbox], None], content: Any, folder: str
) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json", content)
        death(box)
        with pytest.raises(CrashError):
            await box.sweep()
        live_again(box)
        await box.sweep()
        assert box.names() == []
        assert box.names(folder) == ["a.json", "a.reason.json"]
        assert await box.sessions() == []


# --- refusals


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        (b"", "not_json", None),
        (b"{", "not_json", None),
        (b"task_id: t1\n", "not_json", None),
        (b"[1]", "not_object", None),
        (b'"text"', "not_object", None),
        (b"\xff\xfe{}", "not_utf8", None),
        (b"[" * 50_000, "not_json", None),
        (b'{"task_id":"a","task_id":"b"}', "duplicate_key", "task_id"),
        (b"x" * (MAX_FILE + 1), "too_large", None),
        (task(root="/etc"), "unknown_key", "root"),
        (task(ops=[]), "unknown_key", "ops"),
        (task(agent_id=None), "missing_key", "agent_id"),
        (task(prompt=7), "wrong_type", "prompt"),
        (task(prompt="  "), "empty", "prompt"),
        (task("../x"), "bad_id", "task_id"),
        (task(agent_id="nobody"), "unknown_agent_id", "agent_id"),
        (task(model="m/3"), "not_allowed_model", "model"),
        (task(title="two\nlines"), "bad_text_title", "title"),
        (task(requires=["file_exists:/etc/passwd"]), "path_outside", "requires"),
        (task(requires=["file_exists:../x"]), "path_outside", "requires"),
        (task(requires=["run_as:root"]), "bad_requirement", "requires"),
        (task(requires="task_done:x"), "wrong_type", "requires"),
    ],
)
async def test_a_bad_file_ends_in_rejected_with_a_reason_that_programs_can_read(
    tmp_path: Path, content: Any, code: str, field: str | None
) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("bad.json", content)
        assert await box.sweep() == 0
        assert box.names() == []
        assert box.names("rejected") == ["bad.json", "bad.reason.json"]
        reason = box.note("rejected", "bad.json")
        assert (reason["schema"], reason["file"], reason["code"], reason.get("field")) == (
            "ambient.spool-reason/1",
            "bad.json",
            code,
            field,
        )
        assert reason["message"]
        assert await box.counters() == {"rejected": 1, f"rejected.{code}": 1}
        assert await box.sessions() == []
        assert await box.sweep() == 0  # it is not tried again
        assert (await box.counters())["rejected"] == 1


async def test_a_refusal_never_repeats_what_the_file_said(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("bad.json", task(prompt="TOPSECRET", agent_id="nobody", title="TOPSECRET"))
        box.hand_in("worse.json", b'{"task_id": "TOPSECRET')
        await box.sweep()
        for name in ("bad.json", "worse.json"):
            assert "TOPSECRET" not in json.dumps(box.note("rejected", name))


async def test_a_link_a_folder_a_pipe_and_an_unreadable_path_end_in_rejected(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        (tmp_path / "secret").write_text(json.dumps(task()))
        (box.folder / "link.json").symlink_to(tmp_path / "secret")
        (box.folder / "folder.json").mkdir()
        os.mkfifo(box.folder / "pipe.json")
        assert await box.sweep() == 0
        assert (await box.spool.scan()).names == ()
        for name in ("link.json", "folder.json", "pipe.json"):
            assert box.note("rejected", name)["code"] == "not_regular"
        assert (tmp_path / "secret").exists()
        assert await box.sessions() == []


async def test_two_bad_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        for content in (b"one", b"two"):
            box.hand_in("bad.json", content)
            await box.sweep()
        kept = box.folder / "rejected"
        assert ((kept / "bad.json").read_bytes(), (kept / "bad.2.json").read_bytes()) == (b"one", b"two")
        assert box.note("rejected", "bad.2.json")["code"] == "not_json"


# --- names


async def test_names_that_are_none_of_ours_stay_and_are_counted(tmp_path: Path) -> None:
    odd = ["job.yaml", "job.json.tmp", "no extension", "-x.json", "ä.json", "a.result.json", "a.reason.json"]
    async with inbox(tmp_path) as box:
        for name in [*odd, ".being-written.json"]:
            (box.folder / name).write_text(json.dumps(task()))
        scan = await box.spool.scan()
        assert (scan.names, scan.odd) == ((), len(odd))
        assert await box.sweep() == 0
        assert len(box.names()) == len(odd) + 1


async def test_a_file_named_like_a_note_is_never_overwritten_by_one(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        (box.folder / "a.result.json").write_text("mine")
        await box.sweep()
        await box.end_session((await box.sessions())[0].session_id)
        await box.close()
        await box.sweep()
        assert (box.folder / "a.result.json").read_text() == "mine"
        assert box.note("done", "a.json", "result")["outcome"] == "committed"


async def test_a_file_somebody_has_open_for_writing_is_left_until_it_is_whole(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        path = box.folder / "slow.json"
        with path.open("w") as file:
            file.write(json.dumps(task())[:10])
            file.flush()
            assert await box.sweep() == 0
            assert box.names() == ["slow.json"]
            file.write(json.dumps(task())[10:])
        assert await box.sweep() == 1


# --- prerequisites


async def test_unmet_prerequisites_block_with_the_whole_list(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        needs = ["task_done:first", "file_exists:outbox/a.txt", "task_done:second"]
        box.hand_in("a.json", task(requires=needs))
        assert await box.sweep() == 0
        assert box.names("blocked") == ["a.json", "a.reason.json"]
        reason = box.note("blocked", "a.json")
        assert reason["code"] == "blocked"
        assert sorted(reason["unmet"]) == sorted(needs)
        assert await box.counters() == {"blocked": 1, "blocked.file_exists": 1, "blocked.task_done": 1}


async def test_met_prerequisites_let_a_task_run(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("first.json", task("first"))
        await box.sweep()
        (first,) = await box.sessions()
        second = task("second", requires=["task_done:first", "file_exists:outbox/a.txt"])
        box.hand_in("second.json", second)
        await box.sweep()
        assert box.note("blocked", "second.json")["unmet"] == ["file_exists:outbox/a.txt", "task_done:first"]
        await box.end_session(first.session_id)
        (tmp_path / "outbox").mkdir()
        (tmp_path / "outbox" / "a.txt").touch()
        box.hand_in("second.json", second)  # a blocked task id may be handed in again
        assert await box.sweep() == 1


async def test_a_task_that_ended_badly_does_not_count_as_done(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("first.json", task("first"))
        await box.sweep()
        await box.end_session((await box.sessions())[0].session_id, SessionStatus.FAILED)
        box.hand_in("second.json", task("second", requires=["task_done:first"]))
        assert await box.sweep() == 0
        assert box.note("blocked", "second.json")["unmet"] == ["task_done:first"]


async def test_a_file_outside_reached_by_a_link_is_no_prerequisite(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        (tmp_path / "out").symlink_to("/etc")
        box.hand_in("a.json", task(requires=["file_exists:out/passwd"]))
        assert await box.sweep() == 0
        assert box.note("blocked", "a.json")["unmet"] == ["file_exists:out/passwd"]


# --- what lies in `running`


async def test_a_running_file_that_the_record_does_not_know_ends_in_rejected(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        (box.folder / "running" / "lost.json").write_text(json.dumps(task("from-a-lost-database")))
        (box.folder / "running" / "junk.json").write_text("junk")
        assert await box.close() == 2
        assert box.names("running") == []
        assert box.note("rejected", "lost.json")["code"] == "outcome_unknown"
        assert box.note("rejected", "junk.json")["code"] == "not_json"
        assert await box.sessions() == []


async def test_several_hundred_files_are_each_taken_in_once(tmp_path: Path) -> None:
    async with inbox(tmp_path) as box:
        for number in range(400):
            box.hand_in(f"{number:04}.json", task(f"t{number}"))
        assert await box.sweep() == 400
        assert (box.names(), len(box.names("running"))) == ([], 400)
        assert len({row.session_id for row in await box.sessions()}) == 400
        assert (await box.counters())["dispatched"] == 400
