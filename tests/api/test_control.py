import json
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from ambientd.ports.errors import StoreBusyError, StoreFullError
from ambientd.wire.enums import SessionStatus
from ambientd.wire.routes import MODEL
from tests.api.kit import READER, Api, served

SPAWN, KILL = "/api/control/spawn", "/api/control/kill"


def order(**more: Any) -> bytes:
    return json.dumps({"agentId": "worker", "prompt": "do it"} | more).encode()


async def count(api: Api) -> int:
    return await api.rig.real_store.read(lambda tx: tx.ledger.count())


async def test_a_spawn_answers_when_the_session_is_durable_and_the_audit_knows_who(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi")
        answer = await api.post(SPAWN, order())
        assert answer == {"ok": True, "sessionId": answer["sessionId"], "status": "queued", "auditId": 1}
        row = await api.rig.row(answer["sessionId"])
        assert row.task_text == "do it"
        assert api.audited == [
            {"action": "spawn", "actor": "uid:1000", "pid": 7, "session": answer["sessionId"]}
        ]
        assert api.spawned == 1
        assert (await api.rig.wait_ended(row.session_id)).status is SessionStatus.SUCCESS


async def test_a_kill_answers_what_it_did_and_the_ledger_has_the_proof(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever")
        running, queued = await api.rig.spawn(), await api.rig.spawn()
        await api.rig.wait_running(running)
        answer = await api.post(KILL, {"sessionId": queued[-4:]})
        assert (answer["sessionId"], answer["signal"], answer["ended"]) == (queued, "cancelled", True)
        answer = await api.post(KILL, {"sessionId": running})
        assert (answer["ok"], answer["signal"], answer["ended"]) == (True, "sent", False)
        assert (await api.rig.wait_ended(running)).status is SessionStatus.KILLED
        status, error = await api.refused("POST", KILL, json.dumps({"sessionId": running}).encode())
        assert (status, error["code"]) == (409, "NOTHING_RUNS")
        assert [line.get("refused") for line in api.audited] == [None, None, "NOTHING_RUNS"]


async def test_a_reader_may_change_nothing_and_is_told_what_it_takes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi")
        for path, body in ((SPAWN, order()), (KILL, b'{"sessionId":"x"}'), (SPAWN, b"junk")):
            status, error = await api.refused("POST", path, body, caller=READER)
            assert (status, error["code"]) == (403, "NOT_AUTHORIZED")
            assert "ambient-admin" in error["message"]
        assert await count(api) == 0
        assert (await api.ask("GET", "/api/v3/ledger", caller=READER)).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "fields"),
    [
        (b"", 400, "VALIDATION_ERROR", None),
        (b"{", 400, "VALIDATION_ERROR", None),
        (b"[]", 400, "VALIDATION_ERROR", None),
        (b"{}", 400, "VALIDATION_ERROR", ["agentId", "prompt"]),
        (order(agentId=7, prompt=None), 400, "VALIDATION_ERROR", ["agentId", "prompt"]),
        (order(extra=1, more=2), 400, "VALIDATION_ERROR", ["extra", "more"]),
        (order(agentId="nobody"), 404, "NOT_FOUND", ["agentId"]),
        (order(agentId="nobody", prompt=" "), 400, "VALIDATION_ERROR", ["agentId", "prompt"]),
        (order(prompt=""), 400, "VALIDATION_ERROR", ["prompt"]),
        (order(model="not one of its"), 400, "VALIDATION_ERROR", ["model"]),
        (order(title="two\nlines", category=""), 400, "VALIDATION_ERROR", ["category", "title"]),
        (b'{"agentId":"worker","prompt":"\\ud800"}', 400, "VALIDATION_ERROR", ["body"]),
        (b'{"agentId":"worker","prompt":"a\\u0000b"}', 400, "VALIDATION_ERROR", ["prompt"]),
    ],
)
async def test_a_bad_order_is_refused_with_every_field_and_starts_nothing(
    autojump_clock: MockClock,
    tmp_path: Path,
    body: bytes,
    status: int,
    code: str,
    fields: list[str] | None,
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi", models=("m/1",))
        found, error = await api.refused("POST", SPAWN, body, headers={"content-type": "application/json"})
        assert (found, error["code"]) == (status, code)
        if fields is not None:
            assert [detail["field"] for detail in error["details"]] == fields
        assert await count(api) == 0
        assert (api.rig.runner.launches, api.spawned, api.log.faults) == ([], 0, [])


async def test_a_full_disk_and_a_locked_database_are_503_and_leave_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi")
        for trouble, code, after in (
            (StoreFullError("the disk is full"), "STORAGE_FULL", "30"),
            (StoreBusyError("another process holds it"), "STORAGE_UNAVAILABLE", "1"),
        ):
            api.rig.store.trouble = trouble
            answer = await api.ask("POST", SPAWN, order())
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, code)
            assert dict(answer.headers)["Retry-After"] == after
        api.rig.store.trouble = None
        assert await count(api) == 0


async def test_a_shim_that_does_not_answer_is_503_and_the_kill_stays_ordered(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever")
        name = await api.rig.spawn()
        script = await api.rig.wait_running(name)
        script.silent = True
        status, error = await api.refused("POST", KILL, json.dumps({"sessionId": name}).encode())
        assert (status, error["code"]) == (503, "RUNNER_UNAVAILABLE")
        assert api.log.faults == []
        script.silent = False
        assert (await api.rig.wait_ended(name)).status is SessionStatus.KILLED


async def test_refusals_never_repeat_the_prompt(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.rig.add("say:hi", command=("x", "{prompt}"))
        for body in (order(prompt="-TOPSECRET"), order(prompt="TOPSECRET", agentId="nobody")):
            answer = await api.ask("POST", SPAWN, body)
            assert answer.status in (400, 404)
            assert b"TOPSECRET" not in answer.body
        assert "TOPSECRET" not in str(api.audited) + str(api.log.refusals) + str(api.rig.log.lines)


def preference(**fields: object) -> bytes:
    return json.dumps({"agentId": "worker", "model": "m/2"} | fields).encode()


async def test_a_preferred_model_is_kept_and_leaves_a_record(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever", models=("m/1", "m/2"))
        answer = await api.ask("POST", MODEL, preference())
        assert answer.status == 200
        found = json.loads(answer.body)
        assert (found["ok"], found["agentId"], found["model"], found["applied"]) == (
            True,
            "worker",
            "m/2",
            ["spawns"],
        )
        assert api.audited[-1]["action"] == "model"
        assert (await api.ask("POST", MODEL, preference(), caller=READER)).status == 403


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        (b"{", 400, None),
        (b"{}", 400, ["agentId", "model"]),
        (preference(agentId=7, model=None), 400, ["agentId", "model"]),
        (preference(agentId=" "), 400, ["agentId"]),
        (preference(model=" "), 400, ["model"]),
        (preference(model="m/3"), 400, ["model"]),
        (preference(agentId="nobody"), 404, None),
        (preference(provider="m", extra=1), 400, ["extra", "provider"]),
    ],
)
async def test_a_preference_that_cannot_be_names_its_fields(
    body: bytes, status: int, fields: list[str] | None, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        api.rig.add("forever", models=("m/1", "m/2"))
        answer = await api.ask("POST", MODEL, body)
        assert answer.status == status
        error = json.loads(answer.body)["error"]
        if fields is not None:
            assert [detail["field"] for detail in error["details"]] == fields


async def test_a_refused_action_leaves_a_record_that_does_not_repeat_what_named_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with served(tmp_path) as api:
        body = json.dumps({"sessionId": "gone\n[AUDIT] forged"}).encode()
        assert (await api.ask("POST", "/api/control/kill", body)).status == 404
        kinds = await api.rig.real_store.read(_refusals)
        assert kinds == [("control.kill.refused", "unknown", '{"code":"NOT_FOUND"}')]


def _refusals(tx: Any) -> list[tuple[str, str, str]]:
    sql = "SELECT kind, subject, detail_json FROM audit_records WHERE kind LIKE '%.refused'"
    return list(tx.audit._connection.execute(sql))
