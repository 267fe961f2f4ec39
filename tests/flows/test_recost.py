"""New prices on old rows: an order, in stretches, the same again changes nothing (R3.180)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ambientd.config.schema import ModelPrices, PricingConfig
from ambientd.core.contracts.canonical import CanonicalIngest, CanonicalSession, CanonicalUsage
from ambientd.core.pricing import named_table
from ambientd.core.rejection import Rejected
from ambientd.flows.ingest import apply
from ambientd.flows.recost import BATCH_ROWS, Recosting, recost
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from ambientd.wire.recost_messages import ROWS_MAX, RecostAnswer, RecostRequest
from tests.store.kit import AT, StillClock, opened, sql_of


def flat(price: str) -> ModelPrices:
    return ModelPrices(input=Decimal(price), output=Decimal(price))


PRICING = PricingConfig(
    current="new",
    versions={
        "old": {"m/1": flat("1"), "m/2": flat("1")},
        "new": {"m/1": flat("2"), "m/3": flat("2")},
    },
)
OLD = named_table(PRICING, "old")


def session(name: str, *, day: int = 0, model: str = "m/1", **usage: Any) -> CanonicalIngest:
    said = {"prompt_tokens": 1_000_000, "completion_tokens": 0} | usage
    start = AT + timedelta(days=day)
    return CanonicalIngest(
        source="test",
        session=CanonicalSession(
            session_id=name,
            agent_id="a",
            status=SessionStatus.SUCCESS,
            started_at=start,
            ended_at=start + timedelta(seconds=5),
            model_id=model,
        ),
        usage=CanonicalUsage(**said),
    )


class Bench:
    """A ledger with prices."""

    def __init__(self, path: Path, store: SqliteStore) -> None:
        self.path = path
        self.store = store
        self.pricing = PRICING

    async def take(self, *ingests: CanonicalIngest) -> None:
        def work(tx: Transaction) -> None:
            for ingest in ingests:
                assert not isinstance(apply(tx, ingest, AT, prices=OLD), Rejected)

        await self.store.write(work)

    async def recost(self, **order: Any) -> RecostAnswer | Rejected:
        recosting = Recosting(store=self.store, clock=StillClock(), pricing=lambda: self.pricing)
        return await recost(recosting, RecostRequest(**order), actor="uid:0")

    async def done(self, **order: Any) -> RecostAnswer:
        answer = await self.recost(**order)
        assert isinstance(answer, RecostAnswer), answer
        return answer

    def rows(self, sql: str) -> list[Any]:
        return sql_of(self.path, sql)

    def costs(self) -> dict[str, tuple[float | None, str | None]]:
        found = self.rows("SELECT session_id, cost_usd, pricing_version FROM session_usage")
        return {name: (cost, version) for name, cost, version in found}


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with opened(folder / "ambient.db") as store:
        yield Bench(folder / "ambient.db", store)


async def test_estimates_get_the_new_price_and_reports_stay(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(
            session("estimated"),
            session("reported", cost_usd=7.0),
            session("unpriced", model="m/2"),
            session("newly-priced", model="m/3"),
            session("no-tokens", prompt_tokens=None, completion_tokens=None),
            session("unknown-model", model="x"),
        )
        assert node.costs()["estimated"] == (1.0, "old")
        assert node.costs()["newly-priced"] == (None, None)
        answer = await node.done()
        assert node.costs() == {
            "estimated": (2.0, "new"),
            "reported": (7.0, "provider_native"),
            "unpriced": (1.0, "old"),
            "newly-priced": (2.0, "new"),
            "no-tokens": (None, None),
            "unknown-model": (None, None),
        }
        assert (answer.version, answer.read, answer.changed, answer.unchanged, answer.unpriced) == (
            "new",
            4,
            2,
            0,
            2,
        )
        assert (answer.cost_before_usd, answer.cost_after_usd) == (1.0, 4.0)
        assert answer.next is None


async def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"))
        await node.done()
        before = node.rows("SELECT * FROM session_usage_rows"), node.rows("SELECT * FROM audit_records")
        again = await node.done()
        assert (again.changed, again.unchanged) == (0, 1)
        assert (
            node.rows("SELECT * FROM session_usage_rows"),
            node.rows("SELECT * FROM audit_records"),
        ) == before


async def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"), session("t", model="m/3"))
        before = node.costs()
        tried = await node.done(dry_run=True)
        assert node.costs() == before
        assert node.rows("SELECT * FROM audit_records") == []
        done = await node.done()
        assert (tried.changed, tried.cost_after_usd) == (done.changed, done.cost_after_usd)


async def test_an_older_table_can_be_named(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"))
        await node.done()
        assert (await node.done(version="old")).version == "old"
        assert node.costs() == {"s": (1.0, "old")}


async def test_a_change_leaves_an_audit_record(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"))
        await node.done()
        rows = node.rows("SELECT kind, actor, detail_json FROM audit_records")
        assert rows == [("ledger.recost", "uid:0", '{"changed":1,"read":1,"version":"new"}')]


async def test_aggregates_follow_in_the_same_step(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"), session("t"), session("r", cost_usd=1.0))
        sums = "SELECT sum(cost_usd_total), sum(runs_total) FROM daily_usage_agg"
        assert node.rows(sums) == [(3.0, 3)]
        await node.done()
        assert node.rows(sums) == [(5.0, 3)]


async def test_the_start_bounds_what_is_costed(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(*(session(f"s{day}", day=day) for day in range(4)))
        await node.done(since="2026-11-21T12:00:00Z", until="2026-11-23T12:00:00Z")
        changed = {name for name, (_, version) in node.costs().items() if version == "new"}
        assert changed == {"s1", "s2"}


async def test_stretches_together_are_the_whole(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        many = BATCH_ROWS + 30
        await node.take(*(session(f"s{number}") for number in range(many)))
        after, read, calls = 0, 0, 0
        for _ in range(10):
            answer = await node.done(after=after, rows=100)
            read, calls = read + answer.read, calls + 1
            assert answer.read <= 100
            if answer.next is None:
                break
            after = answer.next
        assert (read, calls) == (many, 3)
        assert set(node.costs().values()) == {(2.0, "new")}


async def test_a_retention_in_between_is_no_trouble(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(session("s"), session("gone"))
        read = node.store.read

        async def read_and_lose(work: Any) -> Any:
            found = await read(work)
            sql_of(node.path, "DELETE FROM session_usage_rows WHERE session_key = 2")
            return found

        node.store.read = read_and_lose  # type: ignore[method-assign]
        await node.done()
        assert node.costs() == {"s": (2.0, "new")}


@pytest.mark.parametrize(
    ("order", "fields"),
    [
        ({"version": "never"}, ["version"]),
        ({"since": "yesterday", "until": "2026"}, ["since", "until"]),
        ({"rows": 0}, ["rows"]),
        ({"rows": ROWS_MAX + 1, "after": -1}, ["after", "rows"]),
        ({"after": 2**63}, ["after"]),
    ],
)
async def test_a_bad_order_is_refused_with_all_its_fields(
    tmp_path: Path, order: dict[str, Any], fields: list[str]
) -> None:
    async with bench(tmp_path) as node:
        answer = await node.recost(**order)
        assert isinstance(answer, Rejected)
        assert [detail.field for detail in answer.details] == fields


async def test_without_a_current_table_one_must_be_named(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        node.pricing = PricingConfig(versions=PRICING.versions)
        answer = await node.recost()
        assert isinstance(answer, Rejected)
        assert "pricing.current" in answer.details[0].message
        assert (await node.done(version="old")).read == 0
