"""`ambientctl usage` and `performance` against a scripted daemon: what they ask, print and draw."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ambientctl.output import Screen
from ambientctl.usageview import bar, day_of, money
from ambientd.wire import analytics_messages as m
from ambientd.wire import routes
from tests.ctl.conftest import Ctl, command, outside, read_terminal
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC).timestamp()
SEE = "ambientctl sessions --status failed"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def sums(runs: int, **changes: Any) -> dict[str, Any]:
    """Sums of so many runs, all known unless told otherwise."""
    facts: dict[str, Any] = {
        "runs": runs,
        "tokens": 1500 * runs,
        "runtime_ms": 61_000 * runs,
        "cost_usd": 0.25 * runs,
        "prompt_tokens": 1000 * runs,
        "completion_tokens": 500 * runs,
        "tokens_known": runs,
        "runtime_known": runs,
        "cost_known": runs,
    }
    return facts | changes


def point(runs: int, **changes: Any) -> m.UsagePoint:
    return m.UsagePoint(**(sums(runs) | {"drilldown": {"status": "success,failed"}} | changes))


def answered(*series: m.UsagePoint, **changes: Any) -> Reply:
    runs = sum(item.runs for item in series)
    source = m.Provenance(runs, 0, 0)
    facts: dict[str, Any] = {
        "totals": m.UsageSums(**sums(runs)),
        "provenance": m.UsageProvenance(source, source, source),
        "series": list(series),
        "group_by": "day",
        "tz": "UTC",
    }
    return Reply(200, msgspec.json.encode(m.UsageAnswer(**(facts | changes))))


TWO_DAYS = (point(4, date="2026-11-19"), point(1, date="2026-11-20"))


def row(model: str, **changes: Any) -> m.MatrixRow:
    facts: dict[str, Any] = {
        "model_id": model,
        "runs_total": 12,
        "success_count": 9,
        "failure_count": 2,
        "killed_count": 1,
        "cancelled_count": 0,
        "success_rate": 0.75,
        "failure_rate": 2 / 11,
        "median_runtime_ms": 61_500.0,
        "p95_runtime_ms": 3_725_000,
        "runtime_known": 12,
        "median_cost_usd": 0.0312,
        "cost_known": 10,
        "sample_warning": False,
        "drilldown": {"status": "success,failed,killed,cancelled", "model": model},
        "failed_drilldown": {"status": "failed", "model": model, "from": "2026-10-21T00:00:00.000Z"},
    }
    return m.MatrixRow(**(facts | changes))


def matrix(*rows: m.MatrixRow, **changes: Any) -> Reply:
    facts: dict[str, Any] = {"rows": list(rows), "min_sample": 5, "computed_at": "2026-11-20T15:00:00.000Z"}
    return Reply(200, msgspec.json.encode(m.MatrixAnswer(**(facts | changes))))


# --- usage


def test_usage_is_a_table_with_the_totals_beside_it(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS)
    found = ctl("usage")
    assert found.code == 0
    assert found.out.splitlines() == [
        "DAY         RUNS  TOKENS   TIME   COST",
        "2026-11-19     4    6.0k  4m04s  $1.00",
        "2026-11-20     1    1.5k  1m01s  $0.25",
    ]
    assert found.err.splitlines() == [
        "5 runs, 7.5k tokens, 5m05s, $1.25.",
        "Costs: 5 reported by the provider, 0 estimated, 0 unknown.",
    ]


def test_days_before_the_first_run_are_left_out_for_people_only(ctl: Ctl, daemon: FakeDaemon) -> None:
    days = [point(0, date="2026-11-17"), point(1, date="2026-11-18"), point(0, date="2026-11-19")]
    daemon.script[routes.ANALYTICS_USAGE] = answered(*days)
    shown = [line.split()[0] for line in ctl("usage").out.splitlines()]
    assert shown == ["DAY", "2026-11-18", "2026-11-19"]
    assert len(json.loads(ctl("usage", "--json").out)["items"]) == 3


def test_usage_asks_for_the_last_thirty_days_by_day(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS)
    before = datetime.now(UTC).date()
    assert ctl("usage").code == 0
    after = datetime.now(UTC).date()
    query = daemon.seen[-1].query
    month = timedelta(days=30)
    assert query.pop("from") in {(day - month).isoformat() for day in (before, after)}
    assert query == {"groupBy": "day"}


def test_every_wish_of_usage_reaches_the_daemon(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(group_by="week")
    wishes = ["--from", "2026-11-02", "--to", "2026-11-16T12:00:00+02:00", "-g", "week", "--agent", "a b"]
    found = ctl("usage", *wishes, "--model", "x/y&z", "--task", "review", "--tz", "Europe/Berlin")
    assert found.code == 0
    assert daemon.seen[-1].query == {
        "from": "2026-11-02",
        "to": "2026-11-16T10:00:00.000Z",
        "groupBy": "week",
        "agent": "a b",
        "model": "x/y&z",
        "task": "review",
        "tz": "Europe/Berlin",
    }


def test_what_is_known_of_some_runs_only_is_marked(ctl: Ctl, daemon: FakeDaemon) -> None:
    some = point(4, date="2026-11-19", cost_known=1, tokens_known=3)
    none = point(2, date="2026-11-20", cost_known=0, cost_usd=0.0, tokens_known=0, tokens=0, runtime_known=0)
    source = m.Provenance(1, 1, 4)
    daemon.script[routes.ANALYTICS_USAGE] = answered(
        some,
        none,
        totals=m.UsageSums(**sums(6, cost_known=2)),
        provenance=m.UsageProvenance(source, source, source),
    )
    found = ctl("usage")
    assert [line.split()[1:] for line in found.out.splitlines()[1:]] == [
        ["4", "6.0k+", "4m04s", "$1.00+"],
        ["2", "-", "-", "-"],
    ]
    assert "Costs: 1 reported by the provider, 1 estimated, 4 unknown." in found.err
    assert "+ marks sums" in found.err


@pytest.mark.parametrize(
    ("group", "key", "title"),
    [("agent", "agent_id", "AGENT"), ("model", "model_id", "MODEL"), ("task", "task_category", "TASK")],
)
def test_groups_are_named_and_sessions_without_one_are_a_dash(
    ctl: Ctl, daemon: FakeDaemon, group: str, key: str, title: str
) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(
        point(2, **{key: "evil\x1b[2Jname"}), point(1), group_by=group
    )
    lines = ctl("usage", "--group-by", group).out.splitlines()
    assert lines[0].split()[0] == title
    assert lines[1].startswith("evil\\x1b[2Jname ")
    assert lines[2].startswith("- ")


def test_usage_as_json_is_one_document_with_everything(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS, purged_before="2026-11-01T00:00:00.000Z")
    found = ctl("usage", "--json")
    document = json.loads(found.out)
    assert found.err == ""
    assert document["schema"] == "ambient.usage/1"
    assert document["totals"]["runs"] == 5
    assert document["provenance"]["cost"] == {"provider_reported": 5, "derived": 0, "missing": 0}
    assert [item["date"] for item in document["items"]] == ["2026-11-19", "2026-11-20"]
    assert (document["groupBy"], document["tz"]) == ("day", "UTC")
    assert document["purgedBefore"] == "2026-11-01T00:00:00.000Z"


def test_usage_as_lines_and_as_tsv_has_raw_values(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS)
    lines = ctl("usage", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["runs"] for line in lines] == [4, 1]
    table = [line.split("\t") for line in ctl("usage", "-o", "tsv").out.splitlines()]
    assert table == [
        ["date", "runs", "tokens", "promptTokens", "completionTokens", "runtimeMs", "costUsd"],
        ["2026-11-19", "4", "6000", "4000", "2000", "244000", "1.0"],
        ["2026-11-20", "1", "1500", "1000", "500", "61000", "0.25"],
    ]


def test_no_usage_is_said_and_is_no_failure(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered()
    assert ctl("usage") == (0, "", "No ended sessions in this range.\n")


def test_purged_sessions_are_mentioned(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS, purged_before="2026-11-01T00:00:00.000Z")
    assert "before 2026-11-01T00:00:00.000Z are removed; their days' sums are kept" in ctl("usage").err


@pytest.mark.parametrize(
    "argv",
    [
        ["usage", "--group-by", "hour"],
        ["usage", "--from", "yesterday-ish"],
        ["usage", "--to", "2026-02-30"],
        ["usage", "--from", "99999999d"],
        ["performance", "--min-sample", "0"],
        ["performance", "--split-by", "model"],
    ],
)
def test_wishes_that_cannot_be_are_refused_before_anything_is_asked(
    ctl: Ctl, daemon: FakeDaemon, argv: list[str]
) -> None:
    found = ctl(*argv)
    assert (found.code, found.out) == (2, "")
    assert daemon.seen == []


def test_a_refusal_of_the_daemon_is_told(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = refused("VALIDATION_ERROR", "Invalid query")
    found = ctl("usage", "--tz", "Nowhere/Land")
    assert (found.code, found.out) == (1, "")
    assert "Invalid query" in found.err


# --- performance


def test_performance_is_a_table_of_models(ctl: Ctl, daemon: FakeDaemon) -> None:
    few = row(
        "haiku",
        runs_total=2,
        success_count=0,
        failure_count=0,
        killed_count=2,
        success_rate=0.0,
        median_runtime_ms=None,
        p95_runtime_ms=None,
        median_cost_usd=None,
        sample_warning=True,
    )
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(row("opus-5"), few)
    found = ctl("performance")
    assert found.code == 0
    assert found.out.splitlines() == [
        "MODEL   RUNS  OK  FAILED  KILLED  SUCCESS  MEDIAN    P95  COST/RUN",
        "opus-5    12   9       2       1    75.0%   1m01s  1h02m   $0.0312",
        "haiku    ⚠ 2   0       0       2     0.0%       -      -         -",
    ]
    assert found.err.splitlines() == [
        "Marked rows have fewer than 5 runs: chance, not rate.",
        f"2 failed. See those of one row: {SEE} --model opus-5 --since 2026-10-21T00:00:00.000Z",
    ]


def test_the_command_for_the_failures_survives_a_shell(ctl: Ctl, daemon: FakeDaemon) -> None:
    odd = row("o", failed_drilldown={"status": "failed", "model": "it's; rm -rf", "agent": "$(id)"})
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(odd)
    line = ctl("performance").err.partition("See them: ")[2].strip()
    shown = subprocess.run(
        ["sh", "-c", line.replace("ambientctl", "printf '%s\\n'", 1)],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout.decode()
    assert shown.splitlines() == [
        "sessions", "--status", "failed", "--agent", "$(id)", "--model", "it's; rm -rf",
    ]  # fmt: skip


def test_failures_that_no_option_can_name_are_only_counted(ctl: Ctl, daemon: FakeDaemon) -> None:
    without = row("o", failed_drilldown={"status": "failed", "model": "o", "category": ""})
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(without)
    assert ctl("performance", "--split-by", "task").err == "2 failed.\n"


def test_every_wish_of_performance_reaches_the_daemon(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(row("m", agent_id="tony"))
    wishes = ["--from", "2026-11-02", "--agent", "tony", "--task", "review", "--min-sample", "7"]
    found = ctl("performance", *wishes, "--split-by", "agent")
    assert found.out.splitlines()[0].split()[:2] == ["MODEL", "AGENT"]
    assert daemon.seen[-1].query == {
        "from": "2026-11-02",
        "agent": "tony",
        "task": "review",
        "minSample": "7",
        "splitBy": "agent",
    }


def test_performance_for_programs(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(row("opus-5", median_cost_usd=None))
    document = json.loads(ctl("performance", "--json").out)
    assert (document["schema"], document["minSample"]) == ("ambient.performance/1", 5)
    assert document["items"][0]["failedDrilldown"]["status"] == "failed"
    header, line = (text.split("\t") for text in ctl("performance", "-o", "tsv").out.splitlines())
    found = dict(zip(header, line, strict=True))
    assert (found["modelId"], found["runsTotal"], found["medianCostUsd"]) == ("opus-5", "12", "")
    assert (found["sampleWarning"], found["costKnown"]) == ("false", "10")


# --- what is drawn


def on_terminal(daemon: FakeDaemon, *argv: str, **environment: str) -> list[str]:
    """The lines that a person sees, without colours."""
    controller, terminal = os.openpty()
    changes = {"TERM": "xterm", "COLUMNS": "100", **environment}
    with subprocess.Popen(
        command(*argv),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env=outside(daemon.socket_path, **changes),
        start_new_session=True,
    ) as child:
        os.close(terminal)
        shown = read_terminal(controller)
        assert child.wait(20) == 0
    os.close(controller)
    return [ESCAPES.sub("", line) for line in shown.decode().splitlines()]


def test_a_terminal_shows_bars_in_proportion(daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_USAGE] = answered(*TWO_DAYS)
    head, most, less = on_terminal(daemon, "usage")
    assert head.endswith("BY COST")
    assert most.endswith("$1.00  " + "█" * 16)
    assert less.endswith("$0.25  " + "█" * 4)


def test_bars_are_plain_where_only_ascii_arrives(daemon: FakeDaemon) -> None:
    daemon.script[routes.ANALYTICS_PERFORMANCE] = matrix(row("opus-5"), row("few", sample_warning=True))
    head, first, second = on_terminal(daemon, "performance", LC_ALL="C")
    assert head.endswith("BY SUCCESS")
    assert first.endswith("  " + "#" * 12)
    assert "! 12" in second
    assert (head + first + second).isascii()


def test_where_nothing_cost_anything_the_tokens_are_drawn(daemon: FakeDaemon) -> None:
    free = [point(runs, date=f"2026-11-1{runs}", cost_usd=0.0) for runs in (1, 2)]
    daemon.script[routes.ANALYTICS_USAGE] = answered(*free)
    head, less, most = on_terminal(daemon, "usage")
    assert head.endswith("BY TOKENS")
    assert (less.count("█"), most.count("█")) == (8, 16)


def screen(*, ascii_only: bool) -> Screen:
    return Screen(ascii=ascii_only, color=False, width=80, wide=False, now=NOW)


def test_a_bar_is_never_longer_than_its_place_and_never_hides_something() -> None:
    for ascii_only in (False, True):
        shown = screen(ascii_only=ascii_only)
        assert [len(bar(share, shown)) for share in (-1.0, 0.0, 1e-9, 1.0, 7.0)] == [0, 0, 1, 16, 16]
    assert bar(0.5 / 16, screen(ascii_only=False)) == "▌"


def test_money_says_how_much_of_it_is_known() -> None:
    assert money(1234.5, known=2, runs=2) == "$1,234.50"
    assert money(1.0, known=1, runs=2) == "$1.00+"
    assert money(0.0, known=0, runs=2) == "-"
    assert money(0.0, known=0, runs=0) == "$0.00"
    assert money(None, known=0, runs=0) == "-"


def test_whole_days_are_utc_days_and_other_times_are_none() -> None:
    assert day_of("1d", NOW) == "2026-11-19"
    assert day_of("2w", NOW) == "2026-11-06"
    assert day_of("2026-02-28", NOW) == "2026-02-28"
    assert [day_of(text, NOW) for text in ("12h", "d", "2026-02-28T00:00:00Z", "²d")] == [None] * 4
    with pytest.raises(ValueError, match="day"):
        day_of("2026-02-30", NOW)
