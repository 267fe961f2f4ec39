"""What a large ledger costs: rates and bytes against literal text keys, first pages, retention beside ingest.

    python tests/bench/bench_ledger_size.py [--short] [--state DIR …] [--parts rate,reads,retention]

Each `--state` is a directory that `generate.py` filled, the smallest first (10 k, 100 k and a million
sessions for the budgets); they are copied, never changed. Without one, and with `--short`, a small one is
made. The literal baseline is filled from the same rows as the largest, in the same order, through the same
indexes, without syncs; then it, the largest and the smallest take on a few thousand sessions in durable
groups of 64, in alternating slices of one run. First pages are asked of every size in turns.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.config.schema import RetentionConfig
from ambientd.core.records import LedgerQuery
from ambientd.host.clock import SystemClock
from ambientd.services.upkeep import REST_SEC
from ambientd.store.connection import open_reader
from ambientd.store.search import register
from ambientd.store.sqlite import SqliteStore
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus
from tests.bench.bench_store import GROUP, Literal, Ours, Sample
from tests.bench.generate import DATABASE, Samples, fill_state, midnight

SMALL = 10_000
MEASURED_GROUPS = 160
SLICE = 8
READS = 100
QUIET_SEC, BUSY_SEC = 5.0, 60.0
BATCH = RetentionConfig().batch
COPY_SESSIONS = (
    "INSERT INTO session_ledger SELECT session_id, run_id, agent_id, agent_label, model_id, task_title,"
    " task_text, task_category, status, started_at, ended_at, runtime_ms, artifact_count, error_code,"
    " error_message, source_version, ingested_at FROM ours.session_ledger"
    " WHERE session_key BETWEEN ?1 AND ?2 ORDER BY session_key"
)
COPY_EVENTS = (
    "INSERT INTO session_events SELECT l.session_id || ':' || e.seq, l.session_id, e.seq, e.event_type,"
    " strftime('%Y-%m-%dT%H:%M:%fZ', e.at_ms / 1000.0, 'unixepoch'), e.payload_json"
    " FROM ours.session_event_rows AS e JOIN ours.session_ledger AS l USING (session_key)"
    " WHERE e.session_key BETWEEN ?1 AND ?2 ORDER BY e.session_key, e.seq"
)
COPY_USAGE = (
    "INSERT INTO session_usage SELECT l.session_id, prompt_tokens, completion_tokens, total_tokens,"
    " u.runtime_ms, cost_usd, cost_confidence, provider, pricing_version, computed_at, cost_source,"
    " token_source, runtime_source, cost_confidence_level, token_confidence, runtime_confidence"
    " FROM ours.session_usage_rows AS u JOIN ours.session_ledger AS l USING (session_key)"
    " WHERE u.session_key BETWEEN ?1 AND ?2 ORDER BY u.session_key"
)


def share(values: list[float], part: float) -> float:
    """The value below which this part lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


# --- rate and bytes


def fill_literal(literal: Literal, source: Path) -> None:
    """The same rows in the same order; the page cache is large meanwhile, and nothing is synced."""
    connection = literal.connection
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4000000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("ATTACH ? AS ours", (str(source),))
    last = int(connection.execute("SELECT max(session_key) FROM ours.session_ledger").get)
    began = time.perf_counter()
    for first in range(0, last + 1, SMALL):
        connection.execute("BEGIN")
        for statement in (COPY_SESSIONS, COPY_EVENTS, COPY_USAGE):
            connection.execute(statement, (first, first + SMALL - 1))
        connection.execute("COMMIT")
        if first % (10 * SMALL) == 0:
            print(f"  baseline: {first:,} of {last:,} in {time.perf_counter() - began:.0f} s", flush=True)
    connection.execute("DETACH ours")
    for pragma in ("cache_size=-4096", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def rate(source: Path, small: Path, folder: Path, groups: int) -> None:
    """Sessions per second of both at this size and of ours at a small one, and bytes."""
    literal_folder, ours_folder, small_folder = (folder / name for name in ("literal", "large", "small"))
    for place in (literal_folder, ours_folder, small_folder):
        place.mkdir()
    shutil.copy(source, ours_folder / "ours.db")
    shutil.copy(small, small_folder / "ours.db")
    literal = Literal(literal_folder)
    fill_literal(literal, source)
    sides: dict[str, Literal | Ours] = {
        "literal": literal,
        "ours": Ours(ours_folder),
        "ours, small": Ours(small_folder),
    }
    os.sync()
    sizes = {name: side.path.stat().st_size for name, side in sides.items()}
    first = sides["ours, small"].connection.execute("SELECT count(*) FROM session_ledger").get
    random_source = random.Random(7)
    words = Samples(seed=1, total=1, until=midnight(None), days=1).words
    spent = dict.fromkeys(sides, 0.0)
    for slice_start in range(0, groups, SLICE):
        made = [_group(random_source, words, n) for n in range(slice_start, slice_start + SLICE)]
        for name, side in sides.items():
            began = time.perf_counter()
            for samples in made:
                side.group(samples)
            spent[name] += time.perf_counter() - began
    count = -(-groups // SLICE) * SLICE * GROUP
    sessions = sides["ours"].connection.execute("SELECT count(*) FROM session_ledger").get - count
    for name, seconds in spent.items():
        held = first if name == "ours, small" else sessions
        print(f"  {name:12} {count / seconds:7,.0f} sessions/s  {sizes[name] / held:6,.0f} bytes/session")
    print(f"rate  ratio {spent['literal'] / spent['ours']:.2f} at {sessions:,} (budget 2.5)")
    print(f"bytes ratio {sizes['ours'] / sizes['literal']:.2f} (budget 0.65)")
    print(f"rate against itself at {first:,}: {spent['ours, small'] / spent['ours']:.2f} (budget 0.8)")
    for side in sides.values():
        side.finish()
    shutil.rmtree(literal_folder)
    shutil.rmtree(ours_folder)


def _group(source: random.Random, words: list[str], number: int) -> list[Sample]:
    first = 400 * 86_400 + number * GROUP  # seconds: after everything that is there
    return [
        Sample(source, words, first + n, str(uuid.UUID(int=source.getrandbits(128)))) for n in range(GROUP)
    ]


# --- reads


def questions(words: list[str], now: datetime) -> dict[str, Callable[[random.Random], LedgerQuery]]:
    """First pages, each with values drawn anew."""
    week = timedelta(days=7)
    failed = frozenset({SessionStatus.FAILED, SessionStatus.KILLED})
    return {
        "newest": lambda r: LedgerQuery(),
        "agent": lambda r: LedgerQuery(agent_id=f"agent-{r.randrange(20)}"),
        "model": lambda r: LedgerQuery(model_id=f"provider/model-{r.randrange(7)}"),
        "category": lambda r: LedgerQuery(category=r.choice(("review", "build", "triage"))),
        "status": lambda r: LedgerQuery(statuses=frozenset({r.choice(list(SessionStatus))})),
        "two statuses": lambda r: LedgerQuery(statuses=failed),
        "since": lambda r: LedgerQuery(since=now - week * r.randrange(1, 20)),
        "a word": lambda r: LedgerQuery(text=r.choice(words)),
        "two words": lambda r: LedgerQuery(text=" ".join(r.choices(words, k=2))),
        "a beginning": lambda r: LedgerQuery(text=r.choice(words)[:3]),
        "no match": lambda r: LedgerQuery(text=f"zzzq{r.randrange(1000)}"),
        "agent, status": lambda r: LedgerQuery(agent_id=f"agent-{r.randrange(20)}", statuses=failed),
        "agent, word": lambda r: LedgerQuery(agent_id="agent-1", text=r.choice(words)),
    }


class Reader:
    """One ledger that is asked."""

    def __init__(self, source: Path) -> None:
        self.connection = open_reader(source, busy_timeout=5)
        register(self.connection)
        self._now = midnight(None)
        self.sessions = int(self.connection.execute("SELECT count(*) FROM session_ledger").get)

    def ask(self, work: Callable[[SqliteTransaction], object]) -> float:
        """Milliseconds of one read."""
        self.connection.execute("BEGIN")
        began = time.perf_counter()
        work(SqliteTransaction(self.connection, self._now))
        spent = (time.perf_counter() - began) * 1000
        self.connection.execute("ROLLBACK")
        return spent


def reads(sources: list[Path], times: int) -> None:
    """Milliseconds of the first page of each filter, of a search, and of what `status` asks, at each size."""
    sides = [Reader(source) for source in sources]
    now = midnight(None)
    draw = random.Random(3)
    print("  median and p99 in ms at " + ", ".join(f"{side.sessions:,}" for side in sides))
    for name, make in questions(Samples(seed=1, total=1, until=now, days=1).words, now).items():
        works = [partial(_page, make(draw)) for _ in range(times)]
        _tell_read(name, sides, works, budget=10)
    _tell_read("status", sides, [_status] * times, budget=20)
    for side in sides:
        side.connection.close()


def _page(query: LedgerQuery, tx: SqliteTransaction) -> object:
    return tx.ledger.page(query)


def _tell_read(
    name: str, sides: list[Reader], works: Sequence[Callable[[SqliteTransaction], object]], *, budget: int
) -> None:
    for side in sides:
        side.ask(works[0])
    spent: list[list[float]] = [[] for _ in sides]
    for work in works:  # in turns, so that a noisy machine hits all of them
        for side, found in zip(sides, spent, strict=True):
            found.append(side.ask(work))
    figures = "  ".join(f"{share(found, 0.5):6.2f} {share(found, 0.99):6.2f}" for found in spent)
    steps = ", ".join(f"{share(two, 0.5) / share(one, 0.5):.1f}" for one, two in pairwise(spent))
    growth = f"  grows {steps} ×" if steps else ""
    print(f"  {name:14} {figures}  (p99 budget {budget}){growth}")


def _status(tx: SqliteTransaction) -> object:
    day = datetime.now(UTC) - timedelta(days=1)
    return tx.ledger.count(), tx.ledger.active(), tx.ledger.ended_since(day, 500), tx.tasks.counters()


# --- retention


async def retention(source: Path, folder: Path, limit: float) -> None:
    """Ingest alone, then beside the removal of half of everything, for a while."""
    path = folder / DATABASE
    shutil.copy(source, path)
    os.sync()  # gigabytes on their way to the disk would be waited for by the first commits
    store = SqliteStore(path, clock=SystemClock())
    new = Samples(seed=99, total=1_000_000, until=midnight(None), days=1)
    waits: list[float] = []

    async def ingest() -> None:
        number = 0
        while True:
            work = new.write(range(number, number + 1))
            number += 1
            began = time.perf_counter()
            await store.write(work)
            waits.append((time.perf_counter() - began) * 1000)
            await trio.sleep(0.005)

    def tell(name: str) -> None:
        print(
            f"  ingest {name}: p99 {share(waits, 0.99):.1f} ms, longest {max(waits):.1f} ms of {len(waits)}"
        )
        waits.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.wait_settled()
        oldest = await store.read(lambda tx: tx.ledger.page(LedgerQuery(limit=1)))
        before = oldest.rows[0].started_at - timedelta(days=90)
        async with trio.open_nursery() as beside:
            beside.start_soon(ingest)
            await trio.sleep(QUIET_SEC)
            tell("alone")
            removed = await _remove(store, before, limit)
            tell(f"beside the removal of {removed:,}, {removed / limit:,.0f}/s at least")
            await _give_back(store, limit)
            tell("beside giving back")
            beside.cancel_scope.cancel()
        await store.close()
    path.unlink()


async def _remove(store: SqliteStore, before: datetime, limit: float) -> int:
    place, total, end = ("", ""), 0, time.perf_counter() + limit
    while time.perf_counter() < end:
        behind = place
        step = await store.write(lambda tx: tx.retention.remove(before, BATCH, behind))  # noqa: B023 - called before the next turn
        if step.found.sessions == 0:
            break
        place, total = step.place, total + step.found.sessions
        await trio.sleep(REST_SEC)
    return total


async def _give_back(store: SqliteStore, limit: float) -> None:
    end = time.perf_counter() + limit
    while time.perf_counter() < end and await store.write(lambda tx: tx.retention.give_back(128)):
        await trio.sleep(REST_SEC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a small ledger, some seconds, for CI")
    parser.add_argument(
        "--state", type=Path, action="append", help="a directory that generate.py filled; the smallest first"
    )
    parser.add_argument("--parts", default="rate,reads,retention")
    parser.add_argument("--patience", type=float, default=BUSY_SEC, help="seconds of retention at most")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        states: list[Path] = chosen.state or []
        if not states:
            total = 2_000 if chosen.short else SMALL
            states = [folder / "state"]
            states[0].mkdir()
            samples = Samples(seed=1, total=total, until=midnight(None), days=180)
            trio.run(fill_state, states[0], samples, total)
        sources = [state / DATABASE for state in states]
        parts = chosen.parts.split(",")
        if "reads" in parts:
            reads(sources, 10 if chosen.short else READS)
        if "retention" in parts:
            trio.run(retention, sources[-1], folder, 2.0 if chosen.short else chosen.patience)
        if "rate" in parts:
            rate(sources[-1], sources[0], folder, SLICE if chosen.short else MEASURED_GROUPS)


if __name__ == "__main__":
    main()
