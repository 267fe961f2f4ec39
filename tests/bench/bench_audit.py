"""What a long audit chain costs: an append, a signed head, a verification, at two lengths in one run.

    python tests/bench/bench_audit.py [--short] [--records N]

Two databases are filled through the repository itself, a short chain and one of N records with a checkpoint
every hundred. Then both take on records in turns: inside one transaction, where only the append counts, and
each in a durable commit of its own. The longer one is verified as `ambientctl audit verify` does it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.audit import BEGINNING
from ambientd.core.records import AuditEntry
from ambientd.flows.audit import own_keys, sign_head, verify_stretch
from ambientd.host.clock import SystemClock
from ambientd.host.identity import FileIdentity
from ambientd.store.connection import make_durable
from ambientd.store.migrate import default_folder, known_migrations, migrate
from ambientd.store.recover import open_database
from ambientd.store.search import register
from ambientd.store.unit import SqliteTransaction
from ambientd.store.writer import Job, Writer

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
SHORT_CHAIN = 1_000
LONG_CHAIN = 1_000_000
EVERY = 100
PER_FILL = 5_000
ROUNDS, PER_ROUND = 60, 200


class Chain:
    """A database with a chain in it."""

    def __init__(self, folder: Path, name: str, identity: FileIdentity) -> None:
        known = known_migrations(default_folder())
        path = folder / f"{name}.db"
        connection = open_database(path, clock=SystemClock(), busy_timeout=5, newest=len(known))
        migrate(connection, known, SystemClock())
        register(connection)
        make_durable(connection)
        self.writer = Writer(connection, path)
        self.identity = identity
        self.place = BEGINNING

    def fill(self, records: int) -> None:
        while (left := records - self.writer.audit_seq) > 0:
            self.run(lambda tx: self.grow(tx, min(PER_FILL, left)))
            self.writer.checkpoint()

    def grow(self, tx: SqliteTransaction, count: int) -> None:
        for _ in range(count):
            seq = append(tx)
            if seq % EVERY == 0:
                self.sign(tx)

    def sign(self, tx: SqliteTransaction) -> None:
        made = sign_head(tx, self.place, self.identity, AT)
        assert made is not None
        self.place = tx.audit.head()

    def run(self, work: Callable[[SqliteTransaction], object]) -> None:
        job = Job(work)
        self.writer.commit([job], AT)
        job.result()


def append(tx: SqliteTransaction) -> int:
    entry = AuditEntry(
        kind="control.spawn",
        at=AT,
        actor="uid:1000",
        subject="ses_01JD0000000000000000000000",
        detail={"agent": "reviewer", "model": "provider/model-1"},
    )
    return tx.audit.append(entry)


def appends_us(chain: Chain, count: int) -> float:
    """Of one append inside a transaction."""
    took = 0.0

    def work(tx: SqliteTransaction) -> None:
        nonlocal took
        began = time.perf_counter()
        for _ in range(count):
            append(tx)
        took = time.perf_counter() - began

    chain.run(work)
    return took / count * 1e6


def commits_us(chain: Chain, count: int) -> float:
    """Of one append in a durable commit of its own."""
    began = time.perf_counter()
    for _ in range(count):
        chain.run(append)
    return (time.perf_counter() - began) / count * 1e6


def compare(
    what: str, measure: Callable[[Chain, int], float], chains: Sequence[Chain], count: int, rounds: int
) -> None:
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            found[place].append(measure(chains[place], count))
    short, long = (median(times) for times in found)
    print(f"{what:<34} {short:9.1f} us {long:9.1f} us   x {long / short:.2f}")


def verification(chain: Chain) -> None:
    """One stretch after the other, as the daemon does it for the command."""
    connection = chain.writer._connection
    place, checked, checkpoints, longest = BEGINNING, 0, 0, 0.0
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        tx = SqliteTransaction(connection, AT)
        found = verify_stretch(tx, place, keys=own_keys(tx, chain.identity.known_key))
        assert found.bad is None, found
        longest = max(longest, time.perf_counter() - start)
        checked, checkpoints, place = checked + found.checked, checkpoints + found.checkpoints, found.place
        if found.ended:
            break
    took = time.perf_counter() - began
    print(
        f"verify {checked:,} records, {checkpoints:,} checkpoints: {took:.2f} s,"
        f" {checked / took:,.0f} records/s, longest stretch {longest * 1000:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="some seconds, for CI")
    parser.add_argument("--records", type=int, default=LONG_CHAIN, help="of the longer chain")
    chosen = parser.parse_args()
    long, rounds = (20_000, 10) if chosen.short else (chosen.records, ROUNDS)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        identity = FileIdentity(folder, host_id="sha256:" + "0" * 64, environ={})
        identity.load()
        chains = [Chain(folder, "short", identity), Chain(folder, "long", identity)]
        began = time.perf_counter()
        for chain, records in zip(chains, (SHORT_CHAIN, long), strict=True):
            chain.fill(records)
        took = time.perf_counter() - began
        size = (folder / "long.db").stat().st_size / long
        print(f"filled in {took:.1f} s, {size:.0f} bytes a record with its checkpoints")
        print(f"{'':<34} {SHORT_CHAIN:>9,}    {long:>9,}")
        compare("an append", appends_us, chains, PER_ROUND, rounds)
        compare("an append and its durable commit", commits_us, chains, PER_ROUND // 10, rounds)
        verification(chains[1])


if __name__ == "__main__":
    main()
