"""`ambientctl ledger export` and the orders of `sessions`, against a scripted daemon."""

import subprocess
from pathlib import Path

import pytest

from ambientd.wire import routes
from tests.ctl.conftest import Ctl, command, outside
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

CSV = b"sessionId,agentId\r\nses_1,tony\r\nses_2,steve\r\n"
NDJSON = b'{"sessionId":"ses_1"}\n{"sessionId":"ses_2"}\n'


@pytest.fixture
def exporting(daemon: FakeDaemon) -> FakeDaemon:
    daemon.script[routes.LEDGER_EXPORT] = Reply(200, CSV, content_type="text/csv", chunked=True)
    return daemon


def test_without_a_file_it_goes_to_standard_output_byte_by_byte(ctl: Ctl, exporting: FakeDaemon) -> None:
    for argv in ([], ["-"]):
        found = ctl("ledger", "export", *argv)
        assert (found.code, found.out, found.err) == (0, CSV.decode(), "")


def test_filters_order_and_format_are_asked_for(ctl: Ctl, exporting: FakeDaemon) -> None:
    argv = "--agent tony --status failed,killed --model m --category c -q text --sort cost --format ndjson"
    assert ctl("ledger", "export", *argv.split(), "--until", "2026-11-20T15:00:00Z").code == 0
    (seen,) = exporting.seen
    assert seen.path == routes.LEDGER_EXPORT
    assert seen.query == {
        "agent": "tony",
        "status": "failed,killed",
        "model": "m",
        "category": "c",
        "to": "2026-11-20T15:00:00.000Z",
        "q": "text",
        "sort": "cost",
        "format": "ndjson",
    }


@pytest.mark.parametrize(
    ("name", "argv", "form"),
    [
        ("a.csv", [], "csv"),
        ("a.ndjson", [], "ndjson"),
        ("a.jsonl", [], "ndjson"),
        ("a", [], "csv"),
        ("a.csv", ["--format", "ndjson"], "ndjson"),
    ],
)
def test_the_end_of_the_name_says_the_format_unless_told(
    ctl: Ctl, exporting: FakeDaemon, tmp_path: Path, name: str, argv: list[str], form: str
) -> None:
    assert ctl("ledger", "export", str(tmp_path / name), *argv).code == 0
    assert exporting.seen[0].query["format"] == form


def test_a_file_is_written_whole_and_told(ctl: Ctl, exporting: FakeDaemon, tmp_path: Path) -> None:
    exporting.script[routes.LEDGER_EXPORT] = Reply(200, NDJSON, chunked=True)
    target = tmp_path / "out.ndjson"
    found = ctl("ledger", "export", str(target))
    assert (found.code, found.out) == (0, "")
    assert found.err == f"Wrote {target}: 2 sessions, 44 B.\n"
    assert target.read_bytes() == NDJSON
    assert [path.name for path in tmp_path.iterdir()] == ["out.ndjson"]


def test_a_file_that_is_there_stays_unless_told(ctl: Ctl, exporting: FakeDaemon, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("mine")
    found = ctl("ledger", "export", str(target))
    assert (found.code, target.read_text(), exporting.seen) == (1, "mine", [])
    assert "--force" in found.err
    assert ctl("ledger", "export", str(target), "--force").code == 0
    assert target.read_bytes() == CSV


def test_an_answer_that_is_cut_off_leaves_no_file(ctl: Ctl, exporting: FakeDaemon, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    exporting.script[routes.LEDGER_EXPORT] = Reply(raw=head + b"5\r\nabcde\r\n")
    found = ctl("ledger", "export", str(tmp_path / "out.csv"))
    assert found.code != 0
    assert "cut off" in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told_and_leaves_no_file(ctl: Ctl, exporting: FakeDaemon, tmp_path: Path) -> None:
    exporting.script[routes.LEDGER_EXPORT] = refused("NOT_READY", "the schema is newer")
    found = ctl("ledger", "export", str(tmp_path / "out.csv"))
    assert (found.code, "the schema is newer" in found.err) == (74, True)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(ctl: Ctl, exporting: FakeDaemon, tmp_path: Path) -> None:
    found = ctl("ledger", "export", str(tmp_path / "none" / "out.csv"))
    assert (found.code, "cannot be written: no such file" in found.err) == (74, True)


def test_a_reader_who_has_seen_enough_ends_it_quietly(exporting: FakeDaemon) -> None:
    exporting.script[routes.LEDGER_EXPORT] = Reply(200, CSV * 50_000, chunked=True)
    process = subprocess.Popen(
        command("ledger", "export"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=outside(exporting.socket_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == CSV.splitlines(keepends=True)[0]
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) in (0, 141)


@pytest.mark.parametrize("argv", [["--format", "xml"], ["--sort", "price"], ["--since", "soon"], ["a", "b"]])
def test_what_it_does_not_know_is_a_usage_error(ctl: Ctl, exporting: FakeDaemon, argv: list[str]) -> None:
    assert ctl("ledger", "export", *argv).code == 2
    assert exporting.seen == []


def test_help_has_an_example(ctl: Ctl) -> None:
    found = ctl("ledger", "export", "--help")
    assert "ambientctl ledger export --since 30d sessions.csv" in found.out
    assert "formula" in found.out


@pytest.mark.parametrize("order", ["newest", "runtime", "cost"])
def test_the_list_of_sessions_is_asked_for_in_the_order_wanted(
    ctl: Ctl, daemon: FakeDaemon, order: str
) -> None:
    assert ctl("sessions", "--sort", order).code == 0
    assert daemon.seen[0].query.get("sort", "newest") == order


def test_an_order_alone_is_no_filter(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert "No sessions yet" in ctl("sessions", "--sort", "cost").err
    assert "No session matches" in ctl("sessions", "--agent", "x").err
    assert ctl("sessions", "--sort", "price").code == 2


def test_the_format_may_be_said_as_everywhere_and_what_cannot_be_is_refused(
    ctl: Ctl, exporting: FakeDaemon
) -> None:
    assert ctl("ledger", "export", "-o", "jsonl").code == 0
    assert [seen.query["format"] for seen in exporting.seen] == ["ndjson"]
    for output in ("json", "tsv"):
        found = ctl("ledger", "export", "-o", output)
        assert (found.code, found.out) == (2, "")
        assert "--format" in found.err
    assert len(exporting.seen) == 1
