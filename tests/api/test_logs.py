import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ambientd.api.logs import Logs, log_routes
from ambientd.api.reload import reload_routes
from ambientd.api.router import build_application
from ambientd.config.schema import LogLevel
from ambientd.core.rejection import Rejected
from ambientd.host.log import LogControl
from ambientd.ports.http import Request, Response
from ambientd.wire.log_messages import ReloadView
from tests.api.kit import OPERATOR, READER, fits
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog


class Rig:
    def __init__(self) -> None:
        self.control = LogControl(LogLevel.INFO, trio.current_time)
        self.audited: list[dict[str, Any]] = []
        self.reloaded: ReloadView | Rejected = ReloadView(applied=["agents"], needs_restart=["http"])
        audited = lambda **facts: self.audited.append(facts)  # noqa: E731 - as short as it is used
        logs = Logs(book=self.control, clock=TrioWallClock(), sleep=trio.sleep, audited=audited)
        self._app = build_application(
            (*log_routes(logs), *reload_routes(lambda: self.reloaded, audited)),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
            audited=audited,
        )

    def say(self, event: str, level: str = "info") -> None:
        self.control.keep({"ts": "2026-11-20T12:00:00.000Z", "level": level, "event": event})

    async def ask(self, method: str, path: str, query: str = "", body: Any = None, **more: Any) -> Response:
        caller = more.get("caller", OPERATOR)
        pairs = dict(pair.split("=") for pair in query.split("&") if pair)
        raw = b"" if body is None else json.dumps(body).encode()
        kind = {"content-type": "application/json"} if raw else {}
        return await self._app(Request(method, path, pairs, kind, raw, caller, "req-1"))

    async def lines(self, query: str = "") -> list[str]:
        answer = await self.ask("GET", "/api/logs", query)
        assert answer.status == 200, answer
        page = json.loads(answer.body)
        shape = {"logs": [{"ts": "iso", "level": "str", "msg": "str", "seq": "int"}], "lastSeq": "int"}
        assert fits(page, shape) == []
        return [line["msg"] for line in page["logs"]]


async def test_nothing_logged_is_an_empty_list(autojump_clock: MockClock) -> None:
    assert await Rig().lines() == []


async def test_the_newest_hundred_and_twenty_are_given_unless_more_are_asked_for(
    autojump_clock: MockClock,
) -> None:
    rig = Rig()
    for number in range(200):
        rig.say(str(number))
    assert await rig.lines() == [str(number) for number in range(80, 200)]
    assert len(await rig.lines("limit=2000")) == 200
    assert await rig.lines("after=10&limit=2") == ["10", "11"]


async def test_a_level_leaves_out_what_is_less_severe(autojump_clock: MockClock) -> None:
    rig = Rig()
    for level in ("debug", "info", "warning", "error"):
        rig.say(level, level)
    assert await rig.lines("level=warning") == ["warning", "error"]
    assert len(await rig.lines()) == 4


async def test_a_question_waits_for_a_line_and_not_longer(autojump_clock: MockClock) -> None:
    rig, began = Rig(), trio.current_time()
    assert await rig.lines("after=0&wait=5") == []
    assert trio.current_time() - began == pytest.approx(5)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(2)
            rig.say("at last")

        nursery.start_soon(later)
        assert await rig.lines("after=0&wait=20") == ["at last"]
    assert trio.current_time() - began < 8


@pytest.mark.parametrize("query", ["level=loud", "limit=0", "limit=2001", "after=-1", "wait=26", "lines=5"])
async def test_a_bad_query_is_refused(autojump_clock: MockClock, query: str) -> None:
    assert (await Rig().ask("GET", "/api/logs", query)).status == 400


async def test_a_level_for_a_time_goes_back_by_itself(autojump_clock: MockClock) -> None:
    rig = Rig()
    answer = await rig.ask("POST", "/api/v1/node/log-level", body={"level": "debug", "for_sec": 900})
    assert json.loads(answer.body) == {"level": "debug", "configured": "info", "for_sec": 900}
    assert rig.control.is_logged("debug")
    await trio.sleep(899)
    assert rig.control.is_logged("debug")
    await trio.sleep(2)
    assert not rig.control.is_logged("debug")
    answer = await rig.ask("GET", "/api/v1/node/log-level")
    assert json.loads(answer.body) == {"level": "info", "configured": "info"}


async def test_a_level_without_a_time_stays_and_ends_a_temporary_one(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.ask("POST", "/api/v1/node/log-level", body={"level": "debug", "for_sec": 60})
    await rig.ask("POST", "/api/v1/node/log-level", body={"level": "error"})
    await trio.sleep(3600)
    assert (rig.control.level, rig.control.configured) == (LogLevel.ERROR, LogLevel.ERROR)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"level": "loud"}, "level"),
        ({"level": "debug", "for_sec": 0}, "for_sec"),
        ({"level": "debug", "for_sec": 86401}, "for_sec"),
        ({"level": "debug", "for_sec": "15m"}, "for_sec"),
        ({"for_sec": 5}, "level"),
        ({"level": 5}, "level"),
    ],
)
async def test_a_bad_order_names_the_field_and_changes_nothing(
    autojump_clock: MockClock, body: dict[str, Any], field: str
) -> None:
    rig = Rig()
    answer = await rig.ask("POST", "/api/v1/node/log-level", body=body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["details"][0]["field"] == field
    assert rig.control.level is LogLevel.INFO
    assert [facts["refused"] for facts in rig.audited] == ["VALIDATION_ERROR"]


async def test_a_reload_answers_what_came_of_it_or_why_nothing_did(autojump_clock: MockClock) -> None:
    rig = Rig()
    answer = await rig.ask("POST", "/api/v1/node/reload")
    assert json.loads(answer.body) == {"applied": ["agents"], "needs_restart": ["http"]}
    rig.reloaded = Rejected("CONFIG_REFUSED", "mistakes")
    assert (await rig.ask("POST", "/api/v1/node/reload")).status == 409
    assert [facts.get("refused") for facts in rig.audited] == [None, "CONFIG_REFUSED"]


async def test_readers_change_nothing_and_their_attempts_are_audited(autojump_clock: MockClock) -> None:
    rig = Rig()
    for path, body in (("/api/v1/node/log-level", {"level": "debug"}), ("/api/v1/node/reload", None)):
        assert (await rig.ask("POST", path, body=body, caller=READER)).status == 403
    assert [(facts["action"], facts["actor"], facts["refused"]) for facts in rig.audited] == [
        ("log-level", "uid:1001", "NOT_AUTHORIZED"),
        ("reload", "uid:1001", "NOT_AUTHORIZED"),
    ]
