"""`ledger ingest`: sessions that others ran, one envelope a line, many at a time.

Several requests are under way at once, so that the daemon can share one commit among them. Lines of one
session go the same way one after the other, so that their order stays. What was taken before is a replay:
the same file may be sent again after whatever went wrong.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple
from zlib import crc32

import click

from ambientctl import client as wire
from ambientctl.cli import Verb
from ambientctl.client import Document
from ambientctl.clock import monotonic, stamp
from ambientctl.keepalive import Link, Reply
from ambientctl.output import emit_document, screen_of
from ambientctl.progress import Progress
from ambientctl.status import Options
from ambientctl.text import count, inert
from ambientctl.transport import Answer, AnswerError, AwayError
from ambientctl.trouble import CommandError, explain, refusal
from ambientd.wire import exits, routes
from ambientd.wire.errors import ERRORS

JOBS = 16
JOBS_MAX = 48  # the daemon takes 64 connections, and others want to talk to it too
WAITING_MAX = 16  # lines that wait for one connection
LINE_MAX = routes.BODY_MAX_BYTES
REJECTIONS_KEPT = 1000
REJECTIONS_SHOWN = 20
TRIES = 6
FIRST_PAUSE_SEC = 0.2


class Line(NamedTuple):
    """One line of the file."""

    number: int
    raw: bytes


@click.command(
    "ingest",
    cls=Verb,
    example="ambientctl ledger ingest sessions.ndjson\nzcat old.ndjson.gz | ambientctl ledger ingest -",
)
@click.argument("file", metavar="FILE|-")
@click.option(
    "--jobs",
    type=click.IntRange(1, JOBS_MAX),
    default=JOBS,
    show_default=True,
    metavar="N",
    help="Requests under way at once.",
)
@click.pass_obj
def ingest(options: Options, /, file: str, *, jobs: int) -> int:
    """Hands in the envelopes in FILE, one JSON document a line, or those on standard input.

    Reports what was read, written, replayed and rejected, with line numbers; exits 1 when a line was
    rejected. Sending the same file again writes nothing twice.
    """
    sender = Sender(options, jobs)
    began = monotonic()
    try:
        with _opened(file) as (stream, size):
            sender.send(stream, Progress("ingest"), size)
    except KeyboardInterrupt:
        sender.stop()
        sender.report(options, monotonic() - began)
        return exits.INTERRUPTED
    sender.report(options, monotonic() - began)
    if sender.failure is not None:
        raise sender.failure
    return exits.FAILED if sender.counts["rejected"] else exits.DONE


@contextmanager
def _opened(file: str) -> Iterator[tuple[IO[bytes], int]]:
    """The stream and its size in bytes, 0 when nobody knows it."""
    if file == "-":
        if sys.stdin is None:
            raise click.UsageError("There is no standard input to read from.")
        yield sys.stdin.buffer, 0
        return
    try:
        with open(file, "rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise CommandError(
            exits.FAILED, f"Error: {inert(file)}: {error.strerror or 'cannot be read'}."
        ) from None


class Sender:
    """Hands lines to connections, and counts what became of them."""

    def __init__(self, options: Options, jobs: int) -> None:
        """Starts nothing; `jobs` connections are opened when there are lines for them."""
        self._options = options
        self._queues: list[queue.Queue[Line | None]] = [queue.Queue(WAITING_MAX) for _ in range(jobs)]
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.counts = dict.fromkeys(("read", "written", "replayed", "rejected"), 0)
        self.rejections: list[Document] = []
        self.failure: CommandError | None = None

    def send(self, stream: IO[bytes], progress: Progress, size: int) -> None:
        """Sends every line and waits for every answer; ends early when the daemon cannot take them."""
        self._threads = [
            threading.Thread(target=self._work, args=(waiting,), daemon=True) for waiting in self._queues
        ]
        for thread in self._threads:
            thread.start()
        done = 0
        try:
            for line in _lines(stream):
                if self._stopping.is_set():
                    break
                done += len(line.raw)
                self._hand_over(line)
                progress.show(done, size, f"{count(self.counts['written'])} written")
            for waiting in self._queues:
                self._put(waiting, None)
            for thread in self._threads:
                thread.join()
        finally:
            progress.end()

    def stop(self) -> None:
        """Lets the requests that are under way end, and starts no other."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._options.limit)

    def _hand_over(self, line: Line) -> None:
        if not line.raw.strip():
            return
        self._count("read")
        if len(line.raw) > LINE_MAX:
            text = f"the line is longer than {LINE_MAX} bytes"
            self._reject({"line": line.number, "code": "PAYLOAD_TOO_LARGE", "message": text, "details": []})
            return
        self._put(self._queues[_lane(line.raw) % len(self._queues)], line)

    def _put(self, waiting: "queue.Queue[Line | None]", line: Line | None) -> None:
        while not self._stopping.is_set():
            try:
                waiting.put(line, timeout=0.1)
            except queue.Full:
                continue
            return

    # --- in the threads

    def _work(self, waiting: "queue.Queue[Line | None]") -> None:
        link = Link(self._options.sockets, self._options.limit)
        try:
            while not self._stopping.is_set():
                try:
                    line = waiting.get(timeout=0.1)
                except queue.Empty:
                    continue
                if line is None:
                    return
                self._take(line, self._insist(link, line))
        except CommandError as failure:
            self._fail(failure)
        finally:
            link.close()

    def _insist(self, link: Link, line: Line) -> Reply:
        """An answer that says what became of the line; repeating a request is harmless."""
        pause = FIRST_PAUSE_SEC
        for left in range(TRIES - 1, -1, -1):
            try:
                reply = link.post(routes.INGEST, line.raw)
                row = ERRORS.get(_error(reply).get("code", ""))
                if reply.status == 200 or row is None or not row.retryable:
                    return reply
                failure = refusal(Answer(reply.status, {}, reply.body))
            except (AwayError, AnswerError) as error:
                failure = explain(error, self._options)
            if left == 0 or self._stopping.wait(pause):
                raise failure
            pause *= 2
        raise AssertionError("the loop returns or raises")

    def _take(self, line: Line, reply: Reply) -> None:
        if reply.status == 200:
            answer = wire.load(reply.body) or {}
            self._count("replayed" if answer.get("idempotent_replay") is True else "written")
            return
        error = _error(reply)
        code = wire.text(error, "code")
        if code not in ERRORS or ERRORS[code].status in (401, 403) or ERRORS[code].status >= 500:
            raise refusal(Answer(reply.status, {}, reply.body))
        details = [
            {"field": wire.text(item, "field"), "issue": wire.text(item, "issue")}
            for item in wire.rows(error, "details")
        ]
        message = wire.text(error, "message")
        self._reject({"line": line.number, "code": code, "message": message, "details": details})

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _reject(self, rejection: Document) -> None:
        self._count("rejected")
        with self._lock:
            if len(self.rejections) < REJECTIONS_KEPT:
                self.rejections.append(rejection)

    def _fail(self, failure: CommandError) -> None:
        with self._lock:
            self.failure = self.failure or failure
        self._stopping.set()

    # --- the report

    def report(self, options: Options, seconds: float) -> None:
        """What became of the lines, in their order."""
        rejections = sorted(self.rejections, key=lambda item: wire.whole(item, "line"))
        document = {
            "schema": routes.SCHEMA_INGEST,
            "generatedAt": stamp(),
            **self.counts,
            "complete": not self._stopping.is_set(),
            "seconds": round(seconds, 3),
            "rejections": rejections,
        }
        if emit_document(options, document):
            return
        screen = screen_of(options)
        rate = self.counts["read"] / seconds if seconds > 0 else 0.0
        screen.line(
            " · ".join(f"{count(number)} {name}" for name, number in self.counts.items())
            + f"   {seconds:.1f}s, {rate:,.0f}/s"
        )
        for item in rejections[:REJECTIONS_SHOWN]:
            fields = ", ".join(
                f"{inert(part['field'])} {inert(part['issue'])}" for part in item["details"][:3]
            )
            screen.line(f"  line {item['line']}  {inert(item['code'])}  {fields or inert(item['message'])}")
        hidden = self.counts["rejected"] - min(len(rejections), REJECTIONS_SHOWN)
        if hidden > 0:
            screen.line(f"  and {count(hidden)} more; see --json")


def _error(reply: Reply) -> dict[str, Any]:
    return {} if reply.status == 200 else wire.part(wire.load(reply.body) or {}, "error")


def _lines(stream: IO[bytes]) -> Iterator[Line]:
    """Numbered lines; of a line that is too long, only so much that this can be seen."""
    number = 0
    while True:
        raw = stream.readline(LINE_MAX + 2)
        if not raw:
            return
        number += 1
        whole = raw
        while not raw.endswith(b"\n") and raw:
            raw = stream.readline(LINE_MAX + 2)
        yield Line(number, whole.rstrip(b"\r\n") if len(whole) <= LINE_MAX + 1 else whole)


def _lane(raw: bytes) -> int:
    """A number that is the same for all lines of one session; what cannot be read is told by the daemon."""
    try:
        payload = json.loads(raw)["payload"]
        session = payload.get("session") or payload["run"]
        name = session.get("id") or session.get("sessionId") or session["session_id"]
        return crc32(str(name).encode("utf-8", "replace"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0
