"""`ambientctl ledger import|verify-import|recost` against a scripted daemon."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.legacyfile import (
    BATCH_BYTES,
    BATCH_RECORDS,
    Record,
    batches,
    find_files,
    read_source,
    take_apart,
)
from ambientctl.trouble import CommandError
from ambientd.wire import routes
from ambientd.wire.legacy_messages import (
    LegacyComparison,
    LegacyDifference,
    LegacyImportAnswer,
    LegacyOutcome,
    LegacyResult,
    LegacySums,
)
from ambientd.wire.messages import ErrorDetail
from ambientd.wire.recost_messages import RecostAnswer
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

DATA = Path(__file__).resolve().parents[1] / "data" / "legacy"
STORE = str(DATA / "store.json")


def reply(value: Any) -> Reply:
    return Reply(body=msgspec.json.encode(value))


def answered(*outcomes: LegacyOutcome) -> Reply:
    results = [LegacyResult(outcome=outcome, usage_written=True, events_written=1) for outcome in outcomes]
    return reply(LegacyImportAnswer(dry_run=False, results=results))


# --- taking files apart


def record(size: int, events: list[int]) -> Record:
    body = {"ledger": {"t": "x" * size}, "usage": None, "events": [{"t": "y" * length} for length in events]}
    return Record("f", 1, "s", body)


@given(st.lists(st.tuples(st.integers(0, 60_000), st.lists(st.integers(0, 200_000), max_size=6)), max_size=8))
def test_everything_is_sent_once_in_pieces_that_fit(sizes: list[tuple[int, list[int]]]) -> None:
    records = [record(size, events) for size, events in sizes]
    sent: dict[int, list[Any]] = {}
    for batch in batches(records):
        assert len(batch.places) == len(batch.bodies) <= BATCH_RECORDS
        body = json.dumps({"records": batch.bodies})
        assert len(body) <= BATCH_BYTES + 260_000 or len(batch.bodies) == 1
        for place, part in zip(batch.places, batch.bodies, strict=True):
            assert part["ledger"] == records[place].body["ledger"]
            sent.setdefault(place, []).extend(part["events"])
    assert sent == {place: item.body["events"] for place, item in enumerate(records)}


def test_many_small_records_go_in_batches() -> None:
    found = [len(batch.bodies) for batch in batches([record(1, [])] * (2 * BATCH_RECORDS + 1))]
    assert found == [BATCH_RECORDS, BATCH_RECORDS, 1]


def test_a_folder_means_the_store_in_it(tmp_path: Path) -> None:
    (tmp_path / "b.json").touch()
    (tmp_path / "a.json").touch()
    (tmp_path / "c.txt").touch()
    assert [os.path.basename(path) for path in find_files((str(tmp_path),))] == ["a.json", "b.json"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v3-intelligence.json").touch()
    assert find_files((str(tmp_path), "x")) == [str(tmp_path / "data" / "v3-intelligence.json"), "x"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CommandError):
        find_files((str(empty),))


def test_rows_find_their_session_and_strays_are_told() -> None:
    records, strays = take_apart(read_source(str(DATA / "broken.json")))
    assert len(records) == 9
    assert [(stray.collection, stray.row) for stray in strays] == [("usage", 3), ("events", 2)]
    assert [len(item.body["events"]) for item in records] == [1, 0, 0, 0, 0, 0, 0, 1, 0]


# --- import


def test_a_table_of_what_became_of_the_rows(ctl: Ctl, daemon: FakeDaemon) -> None:
    new, old = LegacyOutcome.WRITTEN, LegacyOutcome.SKIPPED
    daemon.script[routes.LEGACY_IMPORT] = answered(new, new, old, new, old, new)
    found = ctl("ledger", "import", STORE)
    assert found.code == 0
    lines = [line.split() for line in found.out.splitlines()]
    assert lines == [
        ["TABLE", "READ", "WRITTEN", "SKIPPED", "ERRORS"],
        ["session_ledger", "6", "4", "2", "0"],
        ["session_events", "7", "4", "3", "0"],
        ["session_usage", "5", "5", "0", "0"],
    ]
    assert "1 rule was not imported" in found.err
    assert len(daemon.seen) == 1


def test_a_batch_that_is_refused_as_a_whole_is_sent_row_by_row(ctl: Ctl, daemon: FakeDaemon) -> None:
    bad = refused("VALIDATION_ERROR", "the body is not valid")
    good = answered(LegacyOutcome.WRITTEN)
    daemon.script[routes.LEGACY_IMPORT] = [bad, good, bad, good, good, good, good]
    found = ctl("ledger", "import", STORE, "--json")
    assert found.code == 1
    document = json.loads(found.out)
    assert document["schema"] == routes.SCHEMA_LEGACY_IMPORT
    assert {key: document["items"][0][key] for key in ("read", "written", "errors")} == {
        "read": 6,
        "written": 5,
        "errors": 1,
    }
    (problem,) = document["problems"]
    assert (problem["list"], problem["row"], problem["sessionId"]) == ("ledger", 2, "legacy-2")


def test_other_refusals_end_the_import(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEGACY_IMPORT] = refused("STORAGE_FULL", "the disk is full")
    assert ctl("ledger", "import", STORE).code == 74
    daemon.script[routes.LEGACY_IMPORT] = refused("NOT_AUTHORIZED", "no")
    assert ctl("ledger", "import", STORE).code == 4


def test_an_answer_that_leaves_rows_out_is_not_believed(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEGACY_IMPORT] = answered(LegacyOutcome.WRITTEN)
    found = ctl("ledger", "import", STORE)
    assert found.code == 1
    assert "does not answer for every record" in found.err


def test_problems_are_named_and_many_are_counted(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    many = {"ledger": [{"sessionId": f"s{number}\x1b"} for number in range(30)]}
    (tmp_path / "m.json").write_text(json.dumps(many))
    detail = [ErrorDetail("session.agentId", "required", "is required")]
    result = LegacyResult(LegacyOutcome.ERROR, code="VALIDATION_ERROR", message="Invalid", details=detail)
    daemon.script[routes.LEGACY_IMPORT] = reply(LegacyImportAnswer(dry_run=True, results=[result] * 30))
    report = tmp_path / "r.json"
    found = ctl("ledger", "import", str(tmp_path / "m.json"), "--dry-run", "--report", str(report))
    assert found.code == 1
    assert "m.json: ledger row 1 (s0\\x1b): session.agentId is required" in found.err
    assert "10 more rows; --report FILE lists them all." in found.err
    assert "Nothing was changed." in found.err
    assert len(json.loads(report.read_text())["problems"]) == 30
    assert sorted(os.listdir(tmp_path)) == ["m.json", "r.json"]


def test_a_report_that_cannot_be_written_is_told(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEGACY_IMPORT] = answered(*[LegacyOutcome.WRITTEN] * 6)
    found = ctl("ledger", "import", STORE, "--report", "/nonexistent/r.json")
    assert found.code == 1
    assert "/nonexistent/r.json cannot be written" in found.err


# --- verification


def compared(count: int, *differences: LegacyDifference) -> Reply:
    sums = LegacySums(sessions=count, cost_usd=0.1)
    return reply(
        LegacyComparison(
            compared=count,
            unusable=0,
            json=sums,
            sqlite=sums,
            differences=list(differences),
            difference_count=len(differences),
        )
    )


def test_no_difference_is_exit_0(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEGACY_VERIFY] = compared(6)
    found = ctl("ledger", "verify-import", STORE, STORE)
    assert (found.code, found.err) == (0, "")
    assert found.out == "Compared 12 sessions: 0 differences, 0 unusable rows.\n"
    document = json.loads(ctl("ledger", "verify-import", STORE, STORE, "--json").out)
    assert document["json"]["costUsd"] == 0.2
    assert document["drift"] is False


def test_a_difference_is_shown_and_exit_1(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.LEGACY_VERIFY] = compared(6, LegacyDifference("legacy-1", "session", "success"))
    found = ctl("ledger", "verify-import", STORE)
    assert found.code == 1
    assert found.out.splitlines()[1].split() == ["legacy-1", "session", "success", "-"]


def test_rows_that_cannot_be_read_are_counted(ctl: Ctl, daemon: FakeDaemon) -> None:
    bad = refused("PAYLOAD_TOO_LARGE", "too large")
    daemon.script[routes.LEGACY_VERIFY] = [bad, *[compared(1)] * 5, bad]
    found = ctl("ledger", "verify-import", STORE)
    assert found.code == 1
    assert "Compared 5 sessions: 0 differences, 1 unusable rows." in found.out


# --- new prices


def costed(changed: int, after: int | None) -> Reply:
    return reply(
        RecostAnswer(
            version="2026-11",
            dry_run=False,
            read=changed + 2,
            changed=changed,
            unchanged=1,
            unpriced=1,
            cost_before_usd=1.5,
            cost_after_usd=2.25,
            next=after,
        )
    )


def test_it_goes_on_until_nothing_is_left(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RECOST] = [costed(3, 77), costed(4, None)]
    found = ctl("ledger", "recost", "--table", "2026-11", "--since", "2026-11-01T00:00:00Z")
    assert found.code == 0
    assert found.out.splitlines() == [
        "Changed 7 of 11 rows by table 2026-11: $3.0000 before, $4.5000 after.",
        "  2 cost the same, 2 have no price in it.",
    ]
    orders = [json.loads(seen.body) for seen in daemon.seen]
    assert [order["after"] for order in orders] == [0, 77]
    assert orders[0]["version"] == "2026-11"
    assert orders[0]["since"] == "2026-11-01T00:00:00.000Z"


def test_a_dry_run_says_that_nothing_changed(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RECOST] = costed(3, None)
    found = ctl("ledger", "recost", "--dry-run")
    assert found.out.startswith("Would change 3 of 5 rows")
    assert found.err == "Nothing was changed.\n"
    document = json.loads(ctl("ledger", "recost", "--dry-run", "--json").out)
    assert document["schema"] == routes.SCHEMA_RECOST
    assert (document["changed"], document["costAfterUsd"], document["dryRun"]) == (3, 2.25, True)


def test_no_time_is_a_mistake_in_usage(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("ledger", "recost", "--since", "soon").code == 2
    assert daemon.seen == []
