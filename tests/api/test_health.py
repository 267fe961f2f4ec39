from typing import Any

import msgspec

from ambientd.wire.messages import ReadyCheck
from tests.fakes import http_app
from tests.fakes.http_rig import READER, get, serving

GOOD = ReadyCheck(name="loop", ok=True)
BAD = ReadyCheck(name="store", ok=False, reason="the schema is newer than this program")
WORSE = ReadyCheck(name="disk", ok=False)


async def _ready(query: str, *checks: ReadyCheck) -> tuple[int, dict[str, str], Any]:
    async with serving(http_app.build(checks=lambda: list(checks)), caller=lambda sock: READER) as rig:
        answer = await rig.ask(get("/readyz" + query))
        assert (await rig.ask(get("/livez"))).body == b'{"ok":true}'
        return answer.status, answer.headers, msgspec.json.decode(answer.body)


async def test_a_ready_node_says_so() -> None:
    assert (await _ready("", GOOD))[::2] == (200, {"ready": True, "checks": []})


async def test_all_checks_are_listed_when_asked_for() -> None:
    expected = {"ready": True, "checks": [{"name": "loop", "ok": True}]}
    assert (await _ready("?verbose", GOOD))[::2] == (200, expected)


async def test_an_unready_node_says_why_in_the_shape_of_every_error() -> None:
    status, headers, document = await _ready("", GOOD, BAD, WORSE)
    assert status == 503
    assert headers["retry-after"] == "2"
    assert document["ready"] is False
    assert [check["name"] for check in document["checks"]] == ["store", "disk"]
    error = document["error"]
    assert error["code"] == "NOT_READY"
    assert error["requestId"] == headers["x-request-id"]
    assert error["message"] == "the schema is newer than this program; not ready yet"
    assert [(detail["field"], detail["issue"]) for detail in error["details"]] == [
        ("disk", "not_ready"),
        ("store", "not_ready"),
    ]


async def test_an_unready_node_lists_what_holds_too_when_asked_for() -> None:
    _, _, document = await _ready("?verbose=1", GOOD, BAD)
    assert [check["name"] for check in document["checks"]] == ["loop", "store"]
