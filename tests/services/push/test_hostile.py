"""A control plane that lies to its node, or has lost its mind: the node neither crashes nor loses anything,
and goes on with the next one that speaks the truth."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.ports.controlplane import ControlAnswer
from tests.pushkit import NodeRig, node_beside, store_at
from tests.store.kit import ingest

HUGE = (2**63 - 1, 2**63, 2**64, 10**30, -1)


def lies(rig: NodeRig, where: str, change: Callable[[Any], Any]) -> None:
    """From now on answers of a route are others than they were."""
    real = type(rig.wire).send

    async def send(method: str, target: str, *rest: Any, **more: Any) -> ControlAnswer:
        answer = await real(rig.wire, method, target, *rest, **more)
        if not target.partition("?")[0].endswith(where) or answer.status >= 300:
            return answer
        return ControlAnswer(
            status=200, headers={}, body=json.dumps(change(json.loads(answer.body))).encode()
        )

    rig.wire.send = send  # type: ignore[method-assign]


def says_the_truth(rig: NodeRig) -> None:
    del rig.wire.send


def refuses(rig: NodeRig, code: str, field: str, value: object) -> None:
    """Every request is refused with a detail."""
    detail = {"field": field, "issue": "x", "message": "x", "expected": str(value)}
    error = {"code": code, "message": "x", "details": [detail], "requestId": "r"}
    rig.wire.always = ControlAnswer(status=409, headers={}, body=json.dumps({"error": error}).encode())


async def check_whole(rig: NodeRig) -> None:
    """Everything comes to whoever speaks the truth."""
    for n in range(3):
        await rig.write(lambda tx: ingest(tx, f"ses_after_{n}", second=40 + n))  # noqa: B023 - done at once
    rig.later(400)
    await rig.drain()
    assert rig.there() == await rig.here()


async def news(rig: NodeRig) -> None:
    for n in range(3):
        await rig.write(lambda tx: ingest(tx, f"ses_{n}", second=n))  # noqa: B023 - done at once
    await rig.record(3)


@pytest.mark.parametrize("number", HUGE)
async def test_numbers_that_cannot_be_are_not_taken_over(tmp_path: Path, number: int) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await news(rig)
        for where, change in (
            ("/edge-1", lambda a: {**a, "report_seq": number}),
            (
                "/streams",
                lambda a: {
                    "streams": [
                        {"stream": name, "acked_seq": number, "updated_at": "x"}
                        for name in ("reports", "audit", "ledger", "delta_v")
                    ]
                },
            ),
            ("/policies", lambda a: {**a, "revision": number}),
            ("/leases", lambda a: {**a, "revision": number}),
            ("/ledger", lambda a: {**a, "acked_seq": number}),
            ("/audit", lambda a: {**a, "acked_seq": number}),
            ("/reports", lambda a: {**a, "acked_seq": number}),
            ("/ledger", lambda a: {**a, "left_out": [{"seq": s, "reason": "x"} for s in range(500)]}),
        ):
            lies(rig, where, change)
            rig.restart()
            for _ in range(3):
                await rig.sample()
                await rig.sync()
            says_the_truth(rig)
        for code, field in (("REPLAYED", "sequence"), ("CONFLICT", "after"), ("CONFLICT", "head_seq")):
            refuses(rig, code, field, number)
            rig.restart()
            for _ in range(3):
                await rig.sync()
        await check_whole(rig)


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": ""},
        {"task_id": "../../../auth/password?x="},
        {"task_id": "a\nb"},
        {"task_id": "é" * 10},
        {"task_id": "x" * 129},
        {"attempt": 0},
        {"attempt": 10**30},
        {"away": {"policy": "stop", "after_sec": 0}},
        {"away": {"policy": "stop", "after_sec": -5}},
        {"away": {"policy": "stop", "after_sec": 10**30}},
        {"task_type": "agent\0session"},
        {"inputs": {"agent_id": "echo", "prompt": "a\0b"}},
        {"inputs": {"agent_id": "echo\0", "prompt": "a"}},
        {"inputs": {"agent_id": "echo", "prompt": "a", "title": "a\0"}},
        {"inputs": {"agent_id": "echo", "prompt": "x" * 3_000_000}},
        {"inputs": {"agent_id": "../../bin/sh", "prompt": "-c id"}},
        {"inputs": []},
        {"inputs": None},
        {"task_type": "x" * 100_000},
        {"session_id": "ses_operator"},
    ],
)
async def test_work_that_cannot_be_starts_nothing_and_stops_nothing(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await news(rig)
        await rig.owner.submit(task_type="agent_session", inputs={"agent_id": "no", "prompt": "Say"})
        lies(
            rig, "/reconcile", lambda a: {**a, "assignments": [{**one, **fields} for one in a["assignments"]]}
        )
        for _ in range(3):
            await rig.sync()
        assert rig.sessions.ended == []
        started = await rig.store.read(
            lambda tx: [one for one in tx.ledger.active() if one.agent_id == "echo"]
        )
        assert started == []
        says_the_truth(rig)
        await check_whole(rig)


async def test_a_verdict_over_somebody_elses_session_is_none(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await news(rig)
        names = ["ses_0", "ses_1", "", "x" * 500, "a\0"]
        lies(
            rig,
            "/reconcile",
            lambda a: {
                **a,
                "verdicts": [{"task_id": n, "verdict": v} for n in names for v in ("stop", "keep")],
            },
        )
        before = await rig.here()
        for _ in range(3):
            await rig.sync()
        assert rig.sessions.ended == []
        assert (await rig.here())["sessions"] == before["sessions"]
        says_the_truth(rig)
        await check_whole(rig)


@pytest.mark.parametrize(
    "answer",
    [
        ControlAnswer(status=200, headers={}, body=b""),
        ControlAnswer(status=200, headers={}, body=b"<html>log in</html>"),
        ControlAnswer(status=200, headers={}, body=b"[" * 100_000),
        ControlAnswer(status=200, headers={}, body=b'{"a":' * 50_000),
        ControlAnswer(status=200, headers={}, body=b"{}"),
        ControlAnswer(status=200, headers={"content-encoding": "gzip"}, body=b"\x1f\x8b\x08" + b"\0" * 900),
        ControlAnswer(status=204, headers={}, body=b""),
        ControlAnswer(status=302, headers={"location": "http://attacker.test/"}, body=b""),
        ControlAnswer(status=401, headers={}, body=b""),
        ControlAnswer(status=403, headers={}, body=b"\xff\xfe"),
        ControlAnswer(status=404, headers={}, body=b"{}"),
        ControlAnswer(status=409, headers={}, body=b"[]"),
        ControlAnswer(status=429, headers={"retry-after": "-5"}, body=b""),
        ControlAnswer(status=429, headers={"retry-after": "999999999"}, body=b""),
        ControlAnswer(status=429, headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, body=b""),
        ControlAnswer(status=503, headers={"retry-after": "Mon, 99 Foo 20000000 99:99:99"}, body=b""),
        ControlAnswer(status=503, headers={"retry-after": "nan"}, body=b"null"),
        ControlAnswer(status=999, headers={}, body=b"0"),
    ],
)
async def test_an_answer_that_is_none_costs_time_only(tmp_path: Path, answer: ControlAnswer) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await news(rig)
        rig.wire.always = answer
        for _ in range(4):
            await rig.sample()
            await rig.sync()
        assert rig.service._asked_until <= rig.service._back_at + 3_700
        await check_whole(rig)


@pytest.mark.parametrize("under_way", [False, True])
async def test_two_copies_of_a_node_lose_nothing_of_either_ones_ledger(
    tmp_path: Path, under_way: bool
) -> None:
    """As from one image of a machine: one identity, one membership, one history up to a point."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        copy_at = tmp_path / "copy.db"
        if under_way:  # both have given the same numbers already
            await rig.write(lambda tx: ingest(tx, "ses_common"))
            await rig.write(lambda tx: tx.outbox.ledger_flight(sessions=10, events=10))
        with contextlib.closing(sqlite3.connect(tmp_path / "node" / "ambient.db")) as found:
            found.execute("VACUUM INTO ?", (str(copy_at),))
        async with store_at(copy_at, rig.clock) as store:
            twin = NodeRig(store, rig.api, rig.name, rig.owner)
            twin.file.current = rig.file.current
            for n in range(6):
                for name, one in (("a", rig), ("b", twin)):
                    await one.write(lambda tx: ingest(tx, f"ses_{name}{n}", second=n))  # noqa: B023 - at once
                    if n != 2:  # what waits of several turns goes together
                        await one.sync()
            for one in (rig, twin, rig):
                for _ in range(4):
                    one.later(60)
                    await one.sync()
            there = {row[0]: row for row in rig.there()["sessions"]}
            for one in (rig, twin):
                assert {row[0]: row for row in (await one.here())["sessions"]}.items() <= there.items()
            events = {row[:2] for row in rig.there()["events"]}
            for one in (rig, twin):
                assert {row[:2] for row in (await one.here())["events"]} <= events
