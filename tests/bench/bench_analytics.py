"""What usage and the matrix over 90 days cost, against adding up the sessions in the same run.

    python tests/bench/bench_analytics.py [--short | --size N] [--state DIR]

`--state` is a directory that `generate.py` filled; it is copied, never changed, and brought to the current
schema. Without it a ledger of `--size` sessions (100,000; with `--short` 5,000) is made in a temporary place.
Ratios are medians of ours over medians of the plain `GROUP BY`, taken in turns; below 1 is faster.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.analytics import MatrixQuery, Scope, UsageQuery
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.analytics import Analytics, matrix, repair, usage
from ambientd.host.clock import SystemClock
from ambientd.host.zones import find_zone
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import MatrixSplit, UsageGroup
from tests.bench.generate import DATABASE, Samples, add_rows, fill_state, midnight

DEFAULT, SHORT = 100_000, 5_000
DAYS_FILLED, DAYS_ASKED = 180.0, 90
ROUNDS = 7
WRITES = 200
ENDED = "l.status IN ('success', 'failed', 'killed', 'cancelled')"
PLAIN = f"""
SELECT {{key}}, count(*), sum(u.total_tokens), sum(l.runtime_ms), sum(u.cost_usd)
FROM session_ledger AS l LEFT JOIN session_usage_rows AS u USING (session_key)
WHERE l.started_at >= ? AND +{ENDED} GROUP BY 1"""  # noqa: S608 - constants
KEYS = {
    UsageGroup.DAY: "substr(l.started_at, 1, 10)",
    UsageGroup.AGENT: "l.agent_id",
    UsageGroup.MODEL: "l.model_id",
    UsageGroup.TASK: "l.task_category",
}

Work = Callable[[Transaction], Any]


def plain(key: str, since: datetime) -> Work:
    """The same sums, added up from the sessions. The bench looks behind the port for it."""
    sql = PLAIN.format(key=key)
    return lambda tx: tx._connection.execute(sql, (rfc3339_ms(since),)).fetchall()  # type: ignore[attr-defined]


async def timed(store: SqliteStore, work: Work) -> float:
    began = time.perf_counter()
    await store.read(work)
    return (time.perf_counter() - began) * 1000


async def compare(store: SqliteStore, name: str, ours: Work, theirs: Work) -> None:
    """One line: both medians in milliseconds, and their ratio."""
    mine, other = [], []
    for _ in range(ROUNDS):
        mine.append(await timed(store, ours))
        other.append(await timed(store, theirs))
    a, b = statistics.median(mine), statistics.median(other)
    print(f"  {name:34} {a:9.2f} ms  plain {b:9.1f} ms  ratio {a / b:6.3f}", flush=True)


async def measure_usage(store: SqliteStore, since: datetime) -> None:
    scope = Scope(since=since)
    for group, key in KEYS.items():
        query = UsageQuery(scope=scope, group_by=group)
        await compare(store, f"usage by {group.value}", _series(query), plain(key, since))
    one = UsageQuery(scope=Scope(since=since, agent_id="agent-1"))
    await compare(store, "usage by day of one agent", _series(one), plain(KEYS[UsageGroup.DAY], since))
    cut = UsageQuery(scope=Scope(since=since + timedelta(hours=5)))
    await compare(store, "usage from within a day", _series(cut), plain(KEYS[UsageGroup.DAY], since))


def _series(query: UsageQuery) -> Work:
    return lambda tx: tx.usage.series(query)


def _matrix(query: MatrixQuery, tx: Transaction) -> object:
    return tx.performance.matrix(query)


async def measure_matrix(store: SqliteStore, analytics: Analytics, since: datetime) -> None:
    baseline = plain("l.model_id", since)
    for split in (MatrixSplit.NONE, MatrixSplit.TASK):
        query = MatrixQuery(scope=Scope(since=since), split=split)
        name = "matrix" if split is MatrixSplit.NONE else "matrix by task"
        await compare(store, f"{name}, computed", partial(_matrix, query), baseline)
        await matrix(analytics, query)
        spent = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await matrix(analytics, query)
            spent.append((time.perf_counter() - began) * 1000)
        plainly = statistics.median([await timed(store, baseline) for _ in range(ROUNDS)])
        again = statistics.median(spent)
        line = f"{again:9.2f} ms  plain {plainly:9.1f} ms  ratio {again / plainly:6.3f}"
        print(f"  {name + ', repeated':34} {line}", flush=True)


async def measure_whole(analytics: Analytics, since: datetime) -> None:
    """As the route answers."""
    for query in ({}, {"groupBy": "week"}, {"groupBy": "model"}, {"tz": "Europe/Berlin"}):
        asked = {"from": rfc3339_ms(since), **query}
        spent = []
        for _ in range(3):
            began = time.perf_counter()
            await usage(analytics, asked)
            spent.append((time.perf_counter() - began) * 1000)
        what = ", ".join(f"{name}={value}" for name, value in query.items()) or "by day"
        print(f"  answer {what:27} {statistics.median(spent):9.2f} ms", flush=True)


async def measure_accounting(store: SqliteStore, samples: Samples, total: int) -> None:
    """What keeping the sums costs a session that ends: one transaction each, undone at the end."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    others = samples.of_seed(97)  # a ledger that was filled has those of the usual one

    def work(tx: Transaction) -> None:
        for place in range(WRITES):
            sample = others[total + place]
            name = sample.session.session_id
            began = time.perf_counter()
            add_rows(tx, sample)
            between = time.perf_counter()
            tx.usage.account(name)
            spent[False].append(between - began)
            spent[True].append(time.perf_counter() - between)
        raise _UndoError

    with suppress(_UndoError):
        await store.write(work)
    rest, accounting = (statistics.median(spent[key]) * 1e6 for key in (False, True))
    print(f"  accounting a session {accounting:.0f} us, beside {rest:.0f} us for the rest of it", flush=True)


class _UndoError(Exception):
    """Rolls the trial back."""


async def run(state: Path, samples: Samples, total: int) -> None:
    store = SqliteStore(state / DATABASE, clock=SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await store.wait_settled()
        analytics = Analytics(store=store, clock=SystemClock(), find_zone=find_zone)
        began = time.perf_counter()
        days = await repair(analytics, 1_000_000)
        spent = time.perf_counter() - began
        count = await store.read(lambda tx: tx.ledger.count())
        print(f"{count:,} sessions; {len(days)} days of sums built in {spent:.1f} s", flush=True)
        extent = await store.read(lambda tx: tx.usage.extent())
        if extent is None:
            raise SystemExit("the ledger is empty")
        last = datetime.combine(extent[1].date() + timedelta(days=1), datetime.min.time(), UTC)
        since = last - timedelta(days=DAYS_ASKED)
        await measure_usage(store, since)
        await measure_matrix(store, analytics, since)
        await measure_whole(analytics, since)
        await measure_accounting(store, samples, total)
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true")
    size.add_argument("--size", type=int, default=DEFAULT)
    parser.add_argument("--state", type=Path, help="a filled state directory [made anew]")
    chosen = parser.parse_args()
    total = SHORT if chosen.short else chosen.size
    samples = Samples(seed=1, total=total, until=midnight(None), days=DAYS_FILLED)
    with tempfile.TemporaryDirectory(prefix="bench-analytics-") as folder:
        state = Path(folder)
        if chosen.state is None:
            trio.run(fill_state, state, samples, total)
        else:
            shutil.copy(chosen.state / DATABASE, state / DATABASE)
        trio.run(run, state, samples, total)


if __name__ == "__main__":
    main()
