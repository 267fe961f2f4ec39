import json
from typing import Any

from ambientd.wire import exits, routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused


def page(*lines: dict[str, Any], last: int = 9) -> Reply:
    document = {"logs": list(lines), "lastSeq": last, "level": "info", "generatedAt": "2026-11-20T12:00:00Z"}
    return Reply(200, json.dumps(document).encode())


def line(seq: int, level: str, msg: str, **fields: Any) -> dict[str, Any]:
    found = {"seq": seq, "ts": "2026-11-20T12:00:00.000Z", "level": level, "msg": msg, "component": "node"}
    return found | ({"fields": fields} if fields else {})


def test_lines_are_told_with_their_facts_and_cannot_steer_the_terminal(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LOGS] = page(
        line(1, "info", "node.ready", socket="/run/s"),
        line(2, "error", "odd\x1b[2J\n", reason="two words", count=3),
    )
    found = ctl("logs", "--level", "info", "--limit", "7")
    assert (found.code, found.err) == (0, "")
    first, second = found.out.splitlines()
    assert first.endswith("info     node.ready  socket=/run/s")
    assert 'reason="two words" count=3' in second
    assert "\x1b" not in found.out
    assert daemon.seen[0].query == {"limit": "7", "level": "info"}


def test_json_is_the_document_jsonl_a_line_each_tsv_a_table(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LOGS] = page(line(1, "info", "a"), line(2, "info", "b", x=1))
    document = json.loads(ctl("logs", "--json").out)
    assert document["schema"] == "ambient.logs/1"
    assert document["generatedAt"]
    assert [entry["msg"] for entry in document["logs"]] == ["a", "b"]
    rows = [json.loads(row) for row in ctl("logs", "-o", "jsonl").out.splitlines()]
    assert [row["seq"] for row in rows] == [1, 2]
    header, *table = ctl("logs", "-o", "tsv").out.splitlines()
    assert header.split("\t")[:4] == ["seq", "ts", "level", "msg"]
    assert len(table) == 2


def test_nothing_logged_is_said_beside_the_output(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LOGS] = page(last=0)
    found = ctl("logs")
    assert (found.code, found.out) == (0, "")
    assert "Nothing" in found.err


def test_following_goes_on_after_the_last_line_and_over_a_restart(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LOGS] = [
        page(line(8, "info", "old"), last=9),
        page(line(10, "info", "new"), last=10),
        page(last=2),  # a daemon that counts anew
        page(line(1, "info", "first"), line(2, "info", "second"), last=2),
        refused("NOT_FOUND", "enough"),
    ]
    found = ctl("logs", "-f")
    assert [row.split()[-1] for row in found.out.splitlines()] == ["old", "new", "first", "second"]
    assert [seen.query.get("after") for seen in daemon.seen] == [None, "9", "10", "0", "2"]
    assert found.code == exits.NOT_FOUND


def test_a_level_is_set_for_a_time_and_shown(ctl: Ctl, daemon: FakeDaemon) -> None:
    view = {"level": "debug", "configured": "info", "for_sec": 900}
    daemon.script[routes.LOG_LEVEL] = Reply(200, json.dumps(view).encode())
    assert ctl("log-level", "debug", "--for", "15m").out == "debug for 15m00s, then info again\n"
    assert json.loads(daemon.seen[0].body) == {"level": "debug", "for_sec": 900}
    document = json.loads(ctl("log-level", "--json").out)
    assert (document["schema"], document["level"], document["forSec"]) == (
        "ambient.log-level/1",
        "debug",
        900,
    )
    assert daemon.seen[1].method == "GET"


def test_what_is_no_level_or_no_time_is_a_usage_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    for words in (("loud",), ("debug", "--for", "soon"), ("--for", "5m"), ("debug", "--for", "0.5s")):
        assert ctl("log-level", *words).code == exits.USAGE
    assert daemon.seen == []


def test_a_reload_tells_what_was_applied_and_what_waits(ctl: Ctl, daemon: FakeDaemon) -> None:
    view = {"applied": ["agents", "log"], "needs_restart": ["http"]}
    daemon.script[routes.RELOAD] = Reply(200, json.dumps(view).encode())
    assert ctl("reload").out.splitlines() == ["✓ Applied: agents, log.", "  Needs a restart: http."]
    document = json.loads(ctl("reload", "--json").out)
    assert (document["applied"], document["needsRestart"]) == (["agents", "log"], ["http"])
    assert daemon.seen[0].body == b""


def test_a_refused_reload_names_each_mistake(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RELOAD] = refused("CONFIG_REFUSED", "the configuration has mistakes")
    found = ctl("reload")
    assert found.code == exits.CONFIG
    assert "mistakes" in found.err
