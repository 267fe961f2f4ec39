"""Fills a node's ledger with sessions, through the store that the node itself uses.

    python tests/bench/generate.py --sessions 100000 --state DIR [--seed 1] [--days 180] [--until 2026-11-20]

Each session has ten events and a usage row. The same seed and the same other arguments give the same rows:
session n depends on the seed and its number only, its times also on how many there are and on `--days`
and `--until` (today by default). Sessions lie evenly in the days before `--until`, in order. All of them
have ended. Called again on the same directory it goes on after the sessions that are there already.

A million sessions take about ten minutes on two cores and about 3 GB; each commit is durable.
"""

import argparse
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as day_time
from pathlib import Path
from typing import NamedTuple

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.records import NewEvent, NewSession, SessionChange, UsageRecord
from ambientd.host.clock import SystemClock
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricConfidence,
    MetricSource,
    SessionStatus,
)

DATABASE = "ambient.db"
EVENTS = 10
AGENTS = 20
MODELS = 7
CATEGORIES = ("review", "build", "triage", "summary", None)
STATUSES = (
    *[SessionStatus.SUCCESS] * 88,
    *[SessionStatus.FAILED] * 8,
    *[SessionStatus.KILLED] * 2,
    *[SessionStatus.CANCELLED] * 2,
)
TYPES = (EventType.MESSAGE, EventType.TOOL_CALL, EventType.METRIC)
WORDS = 3000
TITLE_WORDS, TASK_WORDS, EVENT_WORDS = 5, 20, 10
PER_WRITE = 64  # sessions of one call of `Store.write`: a few milliseconds
IN_FLIGHT = 2  # one is written while the next is made
USD_PER_TOKEN = 0.000004


class Sample(NamedTuple):
    """One session with everything that belongs to it."""

    session: NewSession
    end: SessionChange
    events: list[NewEvent]
    usage: UsageRecord


class Samples:
    """Session n of a seed, for any n below `total`."""

    def __init__(self, *, seed: int, total: int, until: datetime, days: float) -> None:
        self._total, self._until, self._days = total, until, days
        self._seed = seed
        self._step = timedelta(days=days) / max(total, 1)
        self._start = until - timedelta(days=days)
        self._source = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = [
            "".join(self._source.choices(letters, k=self._source.randint(3, 9))) for _ in range(WORDS)
        ]

    def of_seed(self, seed: int) -> "Samples":
        """Other sessions of the same times."""
        return Samples(seed=seed, total=self._total, until=self._until, days=self._days)

    def __getitem__(self, number: int) -> Sample:
        source = self._source
        source.seed((self._seed << 40) + number)
        session_id = str(uuid.UUID(int=source.getrandbits(128), version=4))
        words = source.choices(self.words, k=TITLE_WORDS + TASK_WORDS + EVENTS * EVENT_WORDS)
        agent, tokens = source.randrange(AGENTS), source.randrange(200, 60_000)
        at = self._start + self._step * number
        runtime_ms = source.randrange(500, 90_000)
        ended = at + timedelta(milliseconds=runtime_ms)
        session = NewSession(
            session_id=session_id,
            agent_id=f"agent-{agent}",
            agent_label=f"Agent {agent}",
            model_id=f"provider/model-{source.randrange(MODELS)}",
            task_title=" ".join(words[:TITLE_WORDS]),
            task_text=" ".join(words[TITLE_WORDS : TITLE_WORDS + TASK_WORDS]),
            task_category=source.choice(CATEGORIES),
            status=SessionStatus.RUNNING,
            started_at=at,
            source_version="generated/1",
        )
        end = SessionChange(status=source.choice(STATUSES), ended_at=ended, runtime_ms=runtime_ms)
        return Sample(session, end, _events(words, at), _usage(session_id, tokens, runtime_ms, ended, source))

    def write(self, numbers: range) -> Callable[[Transaction], None]:
        """A work for `Store.write` that adds these sessions."""
        samples = [self[number] for number in numbers]

        def work(tx: Transaction) -> None:
            for sample in samples:
                add(tx, sample)

        return work


def _events(words: list[str], at: datetime) -> list[NewEvent]:
    first = TITLE_WORDS + TASK_WORDS
    return [
        NewEvent(
            event_type=TYPES[n % len(TYPES)],
            at=at + timedelta(milliseconds=n * 40),
            payload={
                "stream": "stdout",
                "text": " ".join(words[first + n * EVENT_WORDS : first + (n + 1) * EVENT_WORDS]),
            },
        )
        for n in range(EVENTS)
    ]


def _usage(session_id: str, tokens: int, runtime_ms: int, at: datetime, source: random.Random) -> UsageRecord:
    """Most costs are estimates; one session in ten has none."""
    known = source.random() < 0.9
    return UsageRecord(
        session_id=session_id,
        prompt_tokens=tokens // 3,
        completion_tokens=tokens - tokens // 3,
        total_tokens=tokens,
        runtime_ms=runtime_ms,
        cost_usd=round(tokens * USD_PER_TOKEN, 6) if known else None,
        cost_confidence=CostConfidence.ESTIMATED if known else CostConfidence.UNKNOWN,
        cost_source=CostSource.ESTIMATED_FROM_PRICING if known else CostSource.UNKNOWN,
        cost_confidence_level=MetricConfidence.MEDIUM if known else MetricConfidence.UNKNOWN,
        token_source=MetricSource.PROVIDER_REPORTED,
        token_confidence=MetricConfidence.HIGH,
        runtime_source=MetricSource.DERIVED,
        runtime_confidence=MetricConfidence.HIGH,
        provider="provider",
        pricing_version="2026-01" if known else None,
        computed_at=at,
    )


def add(tx: Transaction, sample: Sample) -> None:
    """Writes one session as a node's own session is written: accepted, ended, its usage known, accounted."""
    add_rows(tx, sample)
    tx.usage.account(sample.session.session_id)


def add_rows(tx: Transaction, sample: Sample) -> None:
    """The same without the daily sums."""
    session_id = sample.session.session_id
    tx.ledger.add(sample.session)
    tx.ledger.append(session_id, sample.events)
    tx.ledger.change(session_id, sample.end)
    tx.usage.put(sample.usage)


class Progress:
    """A line every few seconds: how many, how fast lately, how long still."""

    EVERY_SEC = 10.0

    def __init__(self, first: int, total: int) -> None:
        self._total = total
        self._began = self._last = time.perf_counter()
        self._first = self._at_last = first

    def tell(self, done: int) -> None:
        """Prints when a line is due."""
        now = time.perf_counter()
        if now - self._last < self.EVERY_SEC:
            return
        rate = (done - self._at_last) / (now - self._last)
        left = (self._total - done) / rate if rate else float("inf")
        print(f"  {done:>9,} of {self._total:,}  {rate:6,.0f}/s  eta {left / 60:.1f} min", flush=True)
        self._last, self._at_last = now, done

    def end(self, store: SqliteStore) -> None:
        """The last line."""
        spent = time.perf_counter() - self._began
        added = self._total - self._first
        size = store.facts().size_bytes
        print(
            f"{added:,} sessions in {spent:.1f} s, {added / max(spent, 1e-9):,.0f}/s; "
            f"{size / 2**20:,.0f} MiB, {size / max(self._total, 1):,.0f} bytes each",
            flush=True,
        )


async def generate(store: SqliteStore, samples: Samples, total: int) -> None:
    """Adds what is missing up to `total`; the store runs already."""
    first = await store.read(lambda tx: tx.ledger.count())
    progress = Progress(first, total)
    done = first
    parts: Iterator[int] = iter(range(first, total, PER_WRITE))

    async def fill() -> None:
        nonlocal done
        for start in parts:  # shared by all: each takes the next part
            numbers = range(start, min(start + PER_WRITE, total))
            await store.write(samples.write(numbers))
            done += len(numbers)
            progress.tell(done)

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(fill)
    progress.end(store)


async def fill_state(state: Path, samples: Samples, total: int) -> None:
    """Opens the ledger of a state directory (no node may have it open) and fills it."""
    store = SqliteStore(state / DATABASE, clock=SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.wait_settled()
        await generate(store, samples, total)
        await store.close()


def midnight(text: str | None) -> datetime:
    """The UTC day given, or today."""
    day = date.fromisoformat(text) if text else datetime.now(UTC).date()
    return datetime.combine(day, day_time(), UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="state directory, made when missing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=float, default=180.0)
    parser.add_argument("--until", default=None, help="UTC day before which all sessions lie [today]")
    chosen = parser.parse_args()
    chosen.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    samples = Samples(seed=chosen.seed, total=chosen.sessions, until=midnight(chosen.until), days=chosen.days)
    trio.run(fill_state, chosen.state, samples, chosen.sessions)


if __name__ == "__main__":
    main()
