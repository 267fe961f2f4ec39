"""`ambientd feed validate|drift|tail`: the activity feed, without the daemon."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from threading import Event
from typing import Any, BinaryIO, NamedTuple

from ambientd.core.feedcheck import FeedCheck, Problem
from ambientd.core.feeddrift import STALE_SEC, DriftReport, DriftWatch, Gap, HostDrift
from ambientd.core.feedevent import is_heartbeat
from ambientd.core.feedline import decode, utc_text
from ambientd.core.feedpath import FeedPath
from ambientd.host.feedread import RawLine, follow_lines, last_lines, open_for_reading, read_lines
from ambientd.ports.clock import Clock
from ambientd.wire import exits
from ambientd.wire.routes import SCHEMA_FEED_CHECK, SCHEMA_FEED_DRIFT

PROBLEMS_SHOWN = 20
PROBLEMS_KEPT = 1000
GAPS_SHOWN = 10
FOLLOW_PAUSE = 0.25

_HELP = """\
The activity feed is a file of JSON lines into which the node appends one heartbeat per cycle. These
verbs read it; they need no daemon and change nothing.

FILE is a path, or "-" for standard input. Without FILE: $LUKA_ACTIVITY_FEED_JSONL, else heartbeat.feed
of the configuration, else observability/logs/activity_feed.jsonl in the state directory.
"""

_VALIDATE_HELP = """\
Checks every line against the heartbeat specification and names line and reason of each problem.

Plain: every line is a JSON object; heartbeats have their time, constants and ids, and no phase, phase_id
or task_id. With --strict also what the programs that read such feeds demand of the whole file: exact
formats, no unknown keys, no line breaks inside lines, time that never goes back, no time from the future,
names that can be file names, an unbroken hash chain if there is one.

exit codes: 0 valid, 1 problems found, 5 no such file
examples:
  ambientd feed validate --strict
  tail -n 100 feed.jsonl | ambientd feed validate -
"""

_DRIFT_HELP = """\
Finds missed beats: gaps longer than one and a half intervals, sequence numbers that were made but never
written, and hosts whose last beat is older than 120 s.

exit codes: 0 no drift, 1 drift (also: no heartbeat at all), 5 no such file
examples:
  ambientd feed drift
  ambientd feed drift --interval 30 feed.jsonl
"""

_TAIL_HELP = """\
Prints the last events, oldest first; -f goes on with new ones, also over rotation, until Ctrl-C.

exit codes: 0 done, 5 no such file, 130 Ctrl-C
examples:
  ambientd feed tail -n 5
  ambientd feed tail -f --json | jq .heartbeat_seq
"""


class FeedVerbs(NamedTuple):
    """What the verbs need from outside: where the feed is unless named, and the time."""

    default_feed: Callable[[], FeedPath]
    clock: Clock


def run(argv: Sequence[str], *, default_feed: Callable[[], FeedPath], clock: Clock) -> int:
    """Runs `feed …` and returns the exit code. `default_feed` is called only when no FILE is named."""
    options = _parser().parse_args(list(argv))
    verbs = FeedVerbs(default_feed, clock)
    try:
        code: int = options.run(options, verbs)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.DONE
    return code


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ambientd feed", description=_HELP, formatter_class=shape, allow_abbrev=False
    )
    verbs = parser.add_subparsers(title="verbs", metavar="validate|drift|tail", required=True)
    made = {}
    for name, text, verb, brief in (
        ("validate", _VALIDATE_HELP, _validate, "check the feed against the event specification"),
        ("drift", _DRIFT_HELP, _drift, "find missed beats"),
        ("tail", _TAIL_HELP, _tail, "show the last events, and follow"),
    ):
        made[name] = verbs.add_parser(
            name, help=brief, description=text, formatter_class=shape, allow_abbrev=False
        )
        made[name].add_argument("file", nargs="?", metavar="FILE", help='the feed (default: see above; "-")')
        made[name].add_argument("--json", action="store_true", help="JSON alone on standard output")
        made[name].set_defaults(run=verb)
    made["validate"].add_argument(
        "--strict", action="store_true", help="also what the feed's known readers demand"
    )
    made["drift"].add_argument(
        "--interval",
        type=_seconds,
        metavar="SEC",
        help="expected seconds between beats (default: as they say)",
    )
    made["tail"].add_argument("-f", "--follow", action="store_true", help="go on with new events")
    made["tail"].add_argument(
        "-n", "--lines", type=_count, default=10, metavar="N", help="how many to begin with (default: 10)"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


class _NoFileError(Exception):
    """There is nothing to read; the argument says why, `code` is the exit code."""

    def __init__(self, message: str, code: int = exits.NOT_FOUND) -> None:
        super().__init__(message)
        self.code = code


def _place(named: str | None, verbs: FeedVerbs) -> str:
    if named is not None:
        return named
    place = verbs.default_feed()
    if place.path is None:
        raise _NoFileError(f"the feed's path is refused: {place.refusal}", exits.FAILED)
    return place.path


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return open_for_reading(path)
    except FileNotFoundError:
        raise _NoFileError(f"there is no feed at {path}") from None
    except PermissionError:
        raise _NoFileError(f"the feed at {path} may not be read", exits.NOT_PERMITTED) from None
    except OSError as error:
        raise _NoFileError(f"{path}: {error.strerror}", exits.FAILED) from None


def _complain(error: _NoFileError) -> int:
    print(f"Error: {error}", file=sys.stderr)
    return error.code


def _text_time(at_ms: int) -> str:
    return utc_text(max(0, at_ms))


# --- validate


def _validate(options: argparse.Namespace, verbs: FeedVerbs) -> int:
    now = verbs.clock.now()
    check = FeedCheck(strict=options.strict, now_ms=int(now.timestamp() * 1000))
    problems: list[Problem] = []
    count = 0
    try:
        path = _place(options.file, verbs)
        with _open(path) as file:
            for line in read_lines(file):
                found = _check_one(check, line)
                count += len(found)
                problems += found[: PROBLEMS_KEPT - len(problems)]
    except _NoFileError as error:
        return _complain(error)
    show = _show_check_json if options.json else _show_check
    show(path, options.strict, check, problems, count, now)
    return exits.FAILED if count else exits.DONE


def _check_one(check: FeedCheck, line: RawLine) -> list[Problem]:
    if line.length > len(line.data):
        return check.too_long_line(line.length)
    return check.check_line(line.data, ended=line.ended)


def _show_check(
    path: str, strict: bool, check: FeedCheck, problems: list[Problem], count: int, now: datetime
) -> None:
    summary = check.summary()
    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"{path}:{problem.line}: {problem.reason}")
    if count > PROBLEMS_SHOWN:
        print(f"… and {count - PROBLEMS_SHOWN} more (--json lists up to {PROBLEMS_KEPT})")
    kind = "strictly " if strict else ""
    verdict = f"{count} problem{'s' if count != 1 else ''}" if count else f"{kind}valid"
    chain = ", hash-chained" if summary.chained else ""
    print(
        f"{path}: {verdict}, {summary.lines} lines: {summary.heartbeats} heartbeats, "
        f"{summary.foreign} of others{chain}"
    )


def _show_check_json(
    path: str, strict: bool, check: FeedCheck, problems: list[Problem], count: int, now: datetime
) -> None:
    document = {
        **_head(SCHEMA_FEED_CHECK, now, path),
        "strict": strict,
        "valid": count == 0,
        **check.summary()._asdict(),
        "problemCount": count,
        "problems": [problem._asdict() for problem in problems],
    }
    print(json.dumps(document))


def _head(schema: str, now: datetime, path: str) -> dict[str, Any]:
    at = utc_text(int(now.timestamp() * 1000))
    return {"schema": schema, "generatedAt": at, "file": path}


# --- drift


def _drift(options: argparse.Namespace, verbs: FeedVerbs) -> int:
    now = verbs.clock.now()
    watch = DriftWatch(interval=options.interval)
    try:
        path = _place(options.file, verbs)
        with _open(path) as file:
            for line in read_lines(file):
                event = decode(line.data)
                if event is not None:
                    watch.take(event)
    except _NoFileError as error:
        return _complain(error)
    report = watch.report(int(now.timestamp() * 1000))
    if options.json:
        print(json.dumps({**_head(SCHEMA_FEED_DRIFT, now, path), **_drift_document(report)}))
    else:
        _show_drift(path, report)
    return exits.FAILED if report.drift else exits.DONE


def _drift_document(report: DriftReport) -> dict[str, Any]:
    return {
        "drift": report.drift,
        "staleAfterSec": STALE_SEC,
        "beats": report.beats,
        "missed": report.missed,
        "lost": report.lost,
        "hosts": [_host_document(host) for host in report.hosts],
        "gaps": [_gap_document(gap) for gap in report.gaps],
    }


def _host_document(host: HostDrift) -> dict[str, Any]:
    return {
        "hostId": host.host_id,
        "runId": host.run_id,
        "runs": host.runs,
        "beats": host.beats,
        "firstAt": _text_time(host.first_ms),
        "lastAt": _text_time(host.last_ms),
        "intervalSec": host.interval_sec,
        "longestGapMs": host.longest_gap_ms,
        "ageMs": host.age_ms,
        "stale": host.stale,
    }


def _gap_document(gap: Gap) -> dict[str, Any]:
    return {
        "kind": gap.kind,
        "hostId": gap.host_id,
        "runId": gap.run_id,
        "from": _text_time(gap.from_ms),
        "to": _text_time(gap.to_ms),
        "durationMs": gap.to_ms - gap.from_ms,
        "beats": gap.beats,
    }


def _show_drift(path: str, report: DriftReport) -> None:
    if not report.hosts:
        print(f"{path}: drift: no heartbeat in the feed")
        return
    for gap in report.gaps[:GAPS_SHOWN]:
        print(
            f"{_text_time(gap.from_ms)}  {gap.kind:<8}{(gap.to_ms - gap.from_ms) / 1000:>9.1f} s"
            f"  {gap.beats or '?'} beats  {gap.run_id}"
        )
    if len(report.gaps) > GAPS_SHOWN:
        print(f"… and {len(report.gaps) - GAPS_SHOWN} more gaps (--json lists them)")
    for host in report.hosts:
        age = f"{host.age_ms / 1000:.0f} s old" if host.age_ms >= 0 else "from the future"
        print(
            f"{host.host_id[:19]}  {host.beats} beats in {host.runs} runs, last {_text_time(host.last_ms)} "
            f"({age}{', STALE' if host.stale else ''}), longest gap {host.longest_gap_ms / 1000:.1f} s"
        )
    verdict = "drift" if report.drift else "no drift"
    print(f"{path}: {verdict}: {report.beats} beats, {report.missed} missed, {report.lost} lost")


# --- tail


def _tail(options: argparse.Namespace, verbs: FeedVerbs) -> int:
    try:
        path = _place(options.file, verbs)
        file = _open(path)
    except _NoFileError as error:
        return _complain(error)
    for line in _lines_to_show(options, path, file):
        text = _raw(line) if options.json else _describe(line)
        if text is not None:
            print(text, flush=options.follow)
    return exits.DONE


def _lines_to_show(options: argparse.Namespace, path: str, file: BinaryIO) -> Iterator[RawLine]:
    with file:
        if path == "-":
            lines = list(read_lines(file))
            yield from lines[-options.lines :] if options.lines else []
            return
        yield from last_lines(file, options.lines)
        if options.follow:
            yield from follow_lines(path, file, _pause)


def _pause() -> None:
    Event().wait(FOLLOW_PAUSE)


def _raw(line: RawLine) -> str | None:
    """The event as compact JSON; None for a damaged line, which is no JSON."""
    event = decode(line.data)
    return None if event is None else json.dumps(event, separators=(",", ":"))


def _describe(line: RawLine) -> str:
    """One event for people; a damaged line is said to be one."""
    event = decode(line.data)
    if event is None:
        return f"(damaged line of {line.length} bytes)"
    at = _printable(event.get("ts_utc") or event.get("ts") or event.get("timestamp") or "-")
    if not is_heartbeat(event):
        return f"{at:<21} {_printable(event.get('action', '-'))}"
    meta = event.get("meta")
    facts = " ".join(f"{key}={value}" for key, value in meta.items()) if isinstance(meta, dict) else ""
    seq, run_id = event.get("heartbeat_seq", "-"), event.get("run_id", "-")
    return f"{at:<21} heartbeat #{_printable(seq)} {_printable(run_id)} {_printable(facts)}".rstrip()


def _printable(value: object) -> str:
    """A value from the feed, safe for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(value))[:200]
