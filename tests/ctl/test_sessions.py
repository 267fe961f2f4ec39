import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest

from ambientctl.commands.sessions import parse_when
from ambientd.wire import routes
from tests.ctl.conftest import Ctl, command, outside
from tests.fakes.daemon_http import FakeDaemon, Reply, summary

HEADER = ["SESSION", "AGENT", "STATUS", "STARTED", "TIME", "TOKENS", "COST", "MODEL", "TASK"]
AGENTS_HEADER = ["AGENT", "STATUS", "SINCE", "RUNNING", "QUEUED", "SESSION", "MODEL", "TASK"]
ENDED: dict[str, Any] = {"status": "success", "runtime_ms": 198_000, "ended_at": "2026-11-20T15:31:29.000Z"}


@pytest.fixture
def ledger(daemon: FakeDaemon) -> FakeDaemon:
    """Two sessions: one that failed and one that runs."""
    daemon.sessions["ses_01AAAAAAAA9f8e7d6c"] = summary(
        "ses_01AAAAAAAA9f8e7d6c",
        agent_id="steve",
        model_id="provider/sonnet-5",
        task_title="Nightly\nsummary \x1b]0;evil\x07",
        error_code="timeout",
        error_message="ended after its time limit of 198 s",
        **(ENDED | {"status": "failed"}),
    )
    daemon.sessions["ses_01BBBBBBBBa1b2c3d4"] = summary(
        "ses_01BBBBBBBBa1b2c3d4", total_tokens=48_123, cost_usd=0.613, cost_confidence="estimated"
    )
    return daemon


def test_the_list_is_a_table_as_wide_as_its_entries(ctl: Ctl, ledger: FakeDaemon) -> None:
    found = ctl("sessions")
    header, running, failed = found.out.splitlines()
    assert header.split() == HEADER
    assert running.split()[:4] == ["a1b2c3d4", "tony", "▶", "running"]
    assert " 48.1k  ~$0.61  opus-5 " in running
    assert failed.startswith("9f8e7d6c  steve  ✕ failed   2026-11-20 15:28 ")
    assert " 3m18s       -       -  sonnet-5  Nightly summary \\x1b]0;evil\\x07" in failed
    assert found.err == "2 sessions. Whole ids: --wide or --json.\n"


def test_colours_are_on_state_words_only(ctl: Ctl, ledger: FakeDaemon) -> None:
    lines = ctl("sessions", "--color", "always").out.splitlines()
    assert "\x1b[36m▶ running\x1b[0m" in lines[1]
    assert "\x1b[31m✕ failed\x1b[0m" in lines[2]
    assert all(line.count("\x1b") == 2 for line in lines[1:])


def test_wide_has_whole_ids_and_models(ctl: Ctl, ledger: FakeDaemon) -> None:
    for argv in (["--wide"], ["-o", "wide"]):
        found = ctl("sessions", *argv)
        assert "ses_01AAAAAAAA9f8e7d6c" in found.out
        assert "provider/sonnet-5" in found.out
        assert "CATEGORY" in found.out
        assert "--wide" not in found.err


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 79, 80, 100])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_no_line_is_longer_than_the_screen(
    ctl: Ctl, ledger: FakeDaemon, environment: pytest.MonkeyPatch, columns: int, locale: str
) -> None:
    environment.setenv("COLUMNS", str(columns))
    environment.setenv("LC_ALL", locale)
    lines = ctl("sessions").out.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= columns for line in lines)
    assert all(line.isascii() for line in lines) is (locale == "C")
    assert lines[0].startswith("SESSION")


def test_a_narrow_screen_keeps_id_and_state(
    ctl: Ctl, ledger: FakeDaemon, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("COLUMNS", "50")
    lines = ctl("sessions").out.splitlines()
    assert lines[0].split() == ["SESSION", "AGENT", "STATUS", "TASK"]
    assert lines[2].startswith("9f8e7d6c  steve  ✕ failed   Nightly")


def test_json_is_one_versioned_document(ctl: Ctl, ledger: FakeDaemon) -> None:
    found = ctl("sessions", "--json", "--limit", "1")
    document = json.loads(found.out)
    assert list(document) == ["schema", "generatedAt", "total", "next", "items"]
    assert (document["schema"], document["total"], document["next"]) == (routes.SCHEMA_SESSIONS, 2, "1")
    assert document["items"][0]["taskTitle"] == "Refactor the ingest gate"
    assert found.err == ""


def test_json_keeps_what_agents_wrote_as_it_was(ctl: Ctl, ledger: FakeDaemon) -> None:
    items = json.loads(ctl("sessions", "--json").out)["items"]
    assert items[1]["taskTitle"] == "Nightly\nsummary \x1b]0;evil\x07"


def test_jsonl_is_an_item_per_line_and_tsv_has_a_header(ctl: Ctl, ledger: FakeDaemon) -> None:
    lines = ctl("sessions", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["agentId"] for line in lines] == ["tony", "steve"]
    rows = [line.split("\t") for line in ctl("sessions", "-o", "tsv").out.splitlines()]
    assert rows[0][:3] == ["sessionId", "agentId", "status"]
    assert rows[2][:3] == ["ses_01AAAAAAAA9f8e7d6c", "steve", "failed"]
    assert len({len(row) for row in rows}) == 1


def test_a_lone_surrogate_stays_valid_json(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEDGER] = Reply(200, b'{"total":1,"rows":[{"taskTitle":"a\\ud800b"}]}')
    assert json.loads(ctl("sessions", "--json").out)["items"] == [{"taskTitle": "a\ud800b"}]
    assert "a\N{REPLACEMENT CHARACTER}b" in ctl("sessions").out


def test_filters_reach_the_daemon(ctl: Ctl, ledger: FakeDaemon) -> None:
    ctl(
        *[
            "sessions",
            "--agent",
            "tony",
            "--status",
            "failed, killed",
            "--model",
            "a/b&c",
            "--category",
            "x y",
        ],
        *["--since", "2026-11-20T10:00:00+02:00", "--until", "2026-11-21", "-q", "50 %", "--limit", "7"],
        *["--after", "cursor=="],
    )
    assert ledger.seen[-1].query == {
        "agent": "tony",
        "status": "failed,killed",
        "model": "a/b&c",
        "category": "x y",
        "from": "2026-11-20T08:00:00.000Z",
        "to": "2026-11-21T00:00:00.000Z",
        "q": "50 %",
        "limit": "7",
        "cursor": "cursor==",
    }


def test_active_means_queued_and_running(ctl: Ctl, ledger: FakeDaemon) -> None:
    found = ctl("sessions", "--active")
    assert ledger.seen[-1].query["status"] == "queued,running"
    assert "1 session." in found.err
    assert "9f8e7d6c" not in found.out


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2h", "2026-11-20T10:00:00.000Z"),
        ("3d", "2026-11-17T12:00:00.000Z"),
        ("90s", "2026-11-20T11:58:30.000Z"),
        ("1w", "2026-11-13T12:00:00.000Z"),
        ("2026-11-20T15:00:00Z", "2026-11-20T15:00:00.000Z"),
        ("2026-11-20T15:00:00.5+01:00", "2026-11-20T14:00:00.500Z"),
    ],
)
def test_times_are_said_as_people_say_them(text: str, instant: str) -> None:
    assert parse_when(text, datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) == instant


@pytest.mark.parametrize(
    "argv",
    [
        ["--since", "yesterday"],
        ["--since", "99999999999d"],
        ["--until", "2026-13-01"],
        ["--status", "dead"],
        ["--limit", "0"],
        ["--limit", "many"],
    ],
)
def test_bad_filters_are_usage_errors_that_teach(ctl: Ctl, daemon: FakeDaemon, argv: list[str]) -> None:
    found = ctl("sessions", *argv)
    assert (found.code, found.out, daemon.seen) == (2, "", [])
    assert argv[0] in found.err


def test_an_empty_ledger_says_how_to_fill_it(ctl: Ctl) -> None:
    assert ctl("sessions").err == "No sessions yet. Start one: ambientctl spawn AGENT TEXT\n"
    assert ctl("sessions", "--agent", "x").err == "No session matches.\n"
    assert json.loads(ctl("sessions", "--json").out)["items"] == []


def test_a_longer_ledger_names_the_next_page(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEDGER] = Reply(
        200, b'{"total":12480,"rows":[{}],"nextCursor":"abc","totalIsLowerBound":true}'
    )
    expected = "1 of more than 12 480 sessions. Whole ids: --wide or --json. More: --after abc\n"
    assert ctl("sessions").err == expected


def test_show_is_a_block_of_lines_and_json_the_whole(ctl: Ctl, ledger: FakeDaemon) -> None:
    ledger.say("ses_01AAAAAAAA9f8e7d6c", "message", {"stream": "out", "text": "x"})
    found = ctl("sessions", "show", "9f8e7d6c")
    assert "Session   ses_01AAAAAAAA9f8e7d6c\n" in found.out
    assert "Agent     steve (sonnet-5)\n" in found.out
    assert "Status    ✕ failed 3m18s\n" in found.out
    assert "Error     timeout: ended after its time limit of 198 s\n" in found.out
    document = json.loads(ctl("sessions", "show", "9f8e7d6c", "--json").out)
    assert document["schema"] == routes.SCHEMA_SESSION
    assert document["ledger"]["agentId"] == "steve"
    assert "ledger.agentId\tsteve\n" in ctl("sessions", "show", "9f8e7d6c", "-o", "tsv").out


def test_ids_that_are_unknown_or_ambiguous_are_refused(ctl: Ctl, ledger: FakeDaemon) -> None:
    assert ctl("sessions", "show", "nothing").code == 5
    found = ctl("sessions", "show", "ses_01")
    assert found.code == 5
    assert "fits 2 sessions" in found.err
    assert "  ses_01AAAAAAAA9f8e7d6c  tony  running\n" in found.err


def test_an_id_with_odd_characters_stays_one_path_segment(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("sessions", "show", "../a b?c#ü").code == 5
    assert daemon.seen[-1].path == "/api/v3/ledger/..%2Fa%20b%3Fc%23%C3%BC"


def test_events_are_lines_that_no_terminal_obeys(ctl: Ctl, ledger: FakeDaemon) -> None:
    session = "ses_01AAAAAAAA9f8e7d6c"
    ledger.say(session, "state_transition", {"from": "queued", "to": "running"})
    ledger.say(session, "message", {"stream": "out", "text": "hello \x1b[2J\u202eworld"})
    ledger.say(session, "message", {"stream": "err", "text": "careful"})
    ledger.say(session, "tool_call", {"name": "grep", "input": {"a": 1}})
    ledger.say(session, "artifact", {"name": "report.md", "bytes": 2048})
    ledger.say(session, "error", {"message": "no"})
    ledger.say(session, "metric", {"v": 1})
    lines = [line[18:] for line in ctl("sessions", "events", "9f8e7d6c").out.splitlines()]
    assert lines == [
        "state     session running",
        "out       hello \\x1b[2J\\u202eworld",
        "err       careful",
        'tool      tool grep input={"a": 1}',
        "artifact  artifact report.md (2.0 KiB)",
        "error     error: no",
        "metric    metric v=1",
    ]


def test_events_in_json_are_raw_and_complete_over_many_pages(ctl: Ctl, ledger: FakeDaemon) -> None:
    session = "ses_01AAAAAAAA9f8e7d6c"
    for number in range(1203):
        ledger.say(session, "message", {"stream": "out", "text": f"{number}\x1b"})
    document = json.loads(ctl("sessions", "events", "9f8e7d6c", "--json").out)
    assert (document["schema"], document["ended"]) == (routes.SCHEMA_EVENTS, True)
    assert document["sessionId"] == session
    assert [event["seq"] for event in document["items"]] == list(range(1, 1204))
    assert document["items"][0]["payload"]["text"] == "0\x1b"
    lines = ctl("sessions", "events", "9f8e7d6c", "-o", "jsonl", "--after", "1200").out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1201, 1202, 1203]
    assert ctl("sessions", "events", "9f8e7d6c", "-o", "tsv").out.count("\n") == 1204


def test_events_are_followed_until_the_session_ends(ledger: FakeDaemon) -> None:
    session = "ses_01BBBBBBBBa1b2c3d4"
    ledger.say(session, "message", {"stream": "out", "text": "one"})
    argv = command("sessions", "events", "a1b2c3d4", "-f", "-o", "jsonl")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=outside(ledger.socket_path)) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["payload"]["text"] == "one"
        ledger.say(session, "message", {"stream": "out", "text": "two"})
        assert json.loads(child.stdout.readline())["payload"]["text"] == "two"
        ledger.end(session, "success")
        assert json.loads(child.stdout.readline())["payload"]["to"] == "success"
        assert child.stdout.read() == b""
        assert child.wait(20) == 0


def test_a_reader_of_the_list_may_leave(ledger: FakeDaemon) -> None:
    ledger.script[routes.LEDGER] = Reply(
        200, json.dumps({"total": 1, "rows": [{"taskTitle": "x" * 300_000}] * 3}).encode()
    )
    with subprocess.Popen(
        command("sessions"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=outside(ledger.socket_path),
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) == 0


def test_agents_are_listed_from_the_status(ctl: Ctl) -> None:
    found = ctl("agents")
    lines = found.out.splitlines()
    assert lines[0].split() == AGENTS_HEADER
    assert lines[1].split()[:3] == ["tony", "▶", "running"]
    assert lines[2].split()[:4] == ["bruce", "○", "idle", "-"]
    document = json.loads(ctl("agents", "-o", "json").out)
    assert (document["schema"], document["total"]) == (routes.SCHEMA_AGENTS, 2)
    assert document["items"][1]["lastActivityAt"] is None


def test_migrations_are_listed(ctl: Ctl) -> None:
    found = ctl("migrate", "status")
    assert found.out.splitlines()[1].split()[:2] == ["1", "ledger"]
    assert found.err.startswith("Schema 1 of 1")
    document = json.loads(ctl("migrate", "status", "--json").out)
    assert (document["schema"], document["current"], document["known"]) == (routes.SCHEMA_MIGRATIONS, 1, 1)
