"""The policy cache over a real database: what comes in, what stays, what is written down."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambientd.core.policymerge import Outcome
from ambientd.core.policyrecords import PolicyQuery
from ambientd.core.rejection import Rejected
from ambientd.core.signeditem import SignedItem
from ambientd.flows.policycache import IDLE_AT_ONCE, IDLE_EVERY_MS, ItemReport, PolicyCache
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError
from ambientd.wire.enums import Connectivity
from tests.fakes.autonomy import FakeLinks, FakeTrustedClock
from tests.fakes.store import CrashError, TroubledStore
from tests.policykit import AT, NETWORK, Issuer
from tests.store.kit import AT as NOON
from tests.store.kit import opened, sql_of

ISSUER, STRANGER = Issuer(1), Issuer(2)
PEER = "edge-03"


class Rig:
    """A cache, and what is around it."""

    def __init__(self, store: Any, path: Path, *, max_items: int = 100) -> None:
        self.store = TroubledStore(store)
        self.path = path
        self.links = FakeLinks()
        self.clock = FakeTrustedClock(NOON)
        self.issuers = {ISSUER.public}
        self.told = 0
        self.stale = 0
        self.cache = self.again(max_items)

    def again(self, max_items: int = 100) -> PolicyCache:
        """As after a restart: nothing in memory."""

        def changed() -> None:
            self.told += 1

        def stale() -> None:
            self.stale += 1

        return PolicyCache(
            store=self.store,
            clock=self.clock,
            links=self.links,
            network=NETWORK,
            issuers=lambda: self.issuers,
            max_items=max_items,
            changed=changed,
            stale=stale,
        )

    async def bring(self, *items: SignedItem, **more: Any) -> list[str]:
        return words(await self.cache.bring(items, actor="uid:0", **more))

    async def update(self, *items: SignedItem) -> list[str]:
        found = await self.cache.update(items, actor="control_plane")
        assert not isinstance(found, Rejected)
        return words(found)

    async def take(self, *items: SignedItem, **more: Any) -> tuple[int, int, list[str]]:
        merge = await self.cache.take(PEER, items, **more)
        return merge.added, merge.kept, [code for _, code in merge.refused]

    async def allowed(self, destination: str) -> bool:
        return (await self.cache.check(destination)).allowed

    def audits(self) -> list[tuple[str, dict[str, Any]]]:
        rows = sql_of(self.path, "SELECT kind, detail_json FROM audit_records ORDER BY seq")
        return [(kind, json.loads(detail)) for kind, detail in rows]

    def dump(self) -> list[Any]:
        return [
            sql_of(self.path, f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608 - constants
            for table in ("policy_items", "policy_hosts", "policy_floors")
        ]


def words(reports: Sequence[ItemReport]) -> list[str]:
    return [report.code or report.outcome.value for report in reports]


@asynccontextmanager
async def rigged(folder: Path, **more: Any) -> AsyncIterator[Rig]:
    path = folder / "ambient.db"
    async with opened(path, run_sync=run_inline) as store:
        yield Rig(store, path, **more)


async def run(folder: Path, test: Any, **more: Any) -> None:
    async with rigged(folder, **more) as rig:
        await test(rig)


def test_two_new_and_one_known_are_two_added_and_the_local_one_stays(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert await rig.bring(ISSUER.policy("web", 1, "https://old.example")) == ["added"]
        before = rig.dump()
        newer = ISSUER.policy("web", 2, "https://new.example")
        assert await rig.take(newer, ISSUER.policy("a"), ISSUER.policy("b")) == (2, 1, [])
        assert await rig.allowed("https://old.example")
        assert not await rig.allowed("https://new.example")
        assert [row for row in rig.dump()[0] if row[4] == 1 and row[1] == "web"] == before[0]
        kind, detail = rig.audits()[-1]
        assert kind == "peer_sync_applied"
        assert (detail["sender"], detail["added"], detail["kept"], detail["refused"]) == (PEER, 2, 1, 0)

    trio.run(run, tmp_path, test)


def test_a_merge_of_nothing_is_written_down_too(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert await rig.take() == (0, 0, [])
        assert await rig.take(ISSUER.policy("a")) == (1, 0, [])
        assert await rig.take(ISSUER.policy("a")) == (0, 1, [])
        assert [(kind, detail["added"]) for kind, detail in rig.audits()] == [
            ("peer_sync_applied", 0),
            ("peer_sync_applied", 1),
            ("peer_sync_applied", 0),
        ]

    trio.run(run, tmp_path, test)


def test_what_is_refused_leaves_nothing_but_one_record(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("a"))
        before, ids = rig.dump(), rig.cache.ids()
        forged = SignedItem(ISSUER.policy("c").body, ISSUER.public, bytes(64))
        found = await rig.take(STRANGER.policy("b"), forged, ISSUER.policy("d", network="other"))
        assert found == (0, 0, ["untrusted_issuer", "bad_signature", "other_network"])
        assert (rig.dump(), rig.cache.ids()) == (before, ids)
        kind, detail = rig.audits()[-1]
        assert kind == "peer_sync_refused"
        assert detail["codes"] == {"untrusted_issuer": 1, "bad_signature": 1, "other_network": 1}
        # beside good ones, the bad ones alone are refused
        assert await rig.take(STRANGER.policy("b"), ISSUER.policy("e")) == (1, 0, ["untrusted_issuer"])
        assert rig.audits()[-1][0] == "peer_sync_applied"

    trio.run(run, tmp_path, test)


def test_a_removed_policy_is_not_brought_back_by_a_replay(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        old = ISSUER.policy("web")
        await rig.bring(old, ISSUER.tombstone("web"))
        assert not await rig.allowed("https://web.example")
        assert await rig.take(old) == (0, 0, ["removed"])
        rig.cache = rig.again()
        await rig.cache.load()
        assert await rig.take(old) == (0, 0, ["removed"])
        assert not await rig.allowed("https://web.example")

    trio.run(run, tmp_path, test)


@pytest.mark.parametrize("state", [Connectivity.OFFLINE, Connectivity.NO_UPSTREAM, Connectivity.UNKNOWN])
def test_while_not_online_policies_are_only_added(tmp_path: Path, state: Connectivity) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web"))
        rig.links.state = state
        before = rig.dump()
        refused = await rig.cache.update([ISSUER.policy("web", 2)], actor="control_plane")
        assert isinstance(refused, Rejected)
        assert refused.code == "POLICIES_READ_ONLY"
        assert state.value in refused.message
        assert rig.dump() == before
        brought = await rig.bring(ISSUER.policy("web", 2), ISSUER.tombstone("web", 3), ISSUER.policy("new"))
        assert brought == ["removed", "held", "added"]
        assert await rig.allowed("https://web.example")
        assert await rig.allowed("https://new.example")
        rig.links.state = Connectivity.ONLINE
        assert await rig.update(ISSUER.tombstone("web", 3)) == ["removed"]
        assert not await rig.allowed("https://web.example")

    trio.run(run, tmp_path, test)


def test_nodes_with_different_entries_tell_the_same_in_the_end(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        (tmp_path / "b").mkdir()
        async with rigged(tmp_path / "b") as other:
            await rig.bring(ISSUER.policy("web", 1), ISSUER.policy("only-a"))
            await other.bring(ISSUER.policy("web", 2), ISSUER.tombstone("gone", 4))
            assert rig.cache.ids() != other.cache.ids()
            for to, source in ((rig, other), (other, rig)):
                missing = sorted(source.cache.ids() - to.cache.ids())
                await to.take(*await source.cache.items(missing))
            assert rig.cache.ids() == other.cache.ids()
            assert len(rig.cache.ids()) == 3
            assert await rig.allowed("https://web.example")

    trio.run(run, tmp_path, test)


def test_everything_is_there_after_a_restart_while_offline(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web"), ISSUER.policy("db"))
        await rig.take(ISSUER.policy("web", 2))
        ids, facts = rig.cache.ids(), rig.cache.facts
        rig.links.state = Connectivity.OFFLINE
        rig.cache = rig.again()
        assert rig.cache.ids() == frozenset()
        await rig.cache.load()
        assert (rig.cache.ids(), rig.cache.facts) == (ids, facts)
        assert (facts.totals.policies, facts.totals.held, facts.totals.revision) == (2, 1, 1)
        assert await rig.allowed("https://web.example")

    trio.run(run, tmp_path, test)


def test_what_expires_goes_and_what_was_held_follows(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web", 1, not_after=AT + 1000), ISSUER.policy("db"))
        await rig.take(ISSUER.policy("web", 2, "https://web2.example"))
        assert rig.cache.due == AT + 1000
        assert not await rig.cache.sweep()
        rig.clock.move(seconds=1)
        assert (await rig.cache.check("https://web.example")).reason == "expired"
        assert await rig.cache.policy("web") is None
        assert await rig.cache.sweep() == 1
        assert await rig.allowed("https://web2.example")
        assert rig.audits()[-1] == ("policies_expired", {"policies": 1, "promoted": ["web"]})
        rig.clock.move(days=1000)
        assert rig.cache.ids() == frozenset()
        assert await rig.cache.sweep() == 2
        assert rig.dump() == [[], [], []]

    trio.run(run, tmp_path, test)


def test_a_wall_clock_that_is_wrong_for_a_minute_costs_nothing_that_is_kept(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        gone = ISSUER.policy("gone", 3)
        await rig.bring(ISSUER.policy("web"), gone)
        await rig.update(ISSUER.tombstone("gone", 3))
        before, ids = rig.dump(), rig.cache.ids()
        rig.clock.claim(days=9000)
        assert not await rig.allowed("https://web.example")
        assert rig.cache.ids() == frozenset()
        assert await rig.cache.sweep() == 0
        await rig.cache.load()
        assert rig.dump() == before
        rig.clock.claim()
        assert rig.cache.ids() == ids
        assert await rig.allowed("https://web.example")
        assert await rig.take(gone) == (0, 0, ["removed"])

    trio.run(run, tmp_path, test)


def test_what_has_expired_by_a_clock_in_doubt_only_is_overwritten_by_no_peer(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web", 1, not_after=AT + 1000))
        rig.clock.claim(seconds=60)
        assert await rig.take(ISSUER.policy("web", 2, "https://web2.example")) == (0, 1, [])
        rig.clock.claim()
        assert await rig.allowed("https://web.example")

    trio.run(run, tmp_path, test)


def test_a_peer_that_brings_nothing_again_and_again_does_not_fill_the_chain(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        strange = STRANGER.policy("evil")
        recorded = [(await rig.cache.take(PEER, [strange])).recorded for _ in range(2 * IDLE_AT_ONCE)]
        assert recorded == [True] * IDLE_AT_ONCE + [False] * IDLE_AT_ONCE
        assert len(rig.audits()) == IDLE_AT_ONCE
        assert (await rig.cache.take("other", [strange])).recorded
        assert (await rig.cache.take(PEER, [strange, ISSUER.policy("good")])).recorded
        assert rig.audits()[-1][1]["unrecorded"] == IDLE_AT_ONCE
        rig.clock.move(seconds=IDLE_EVERY_MS / 1000)
        assert (await rig.cache.take(PEER, [strange])).recorded
        assert "unrecorded" not in rig.audits()[-1][1]
        assert not (await rig.cache.take(PEER, [strange])).recorded

    trio.run(run, tmp_path, test)


def test_no_more_items_are_kept_than_are_wanted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        brought = await rig.bring(*(ISSUER.policy(f"p{number}") for number in range(5)))
        assert brought == ["added"] * 3 + ["full"] * 2
        assert len(rig.cache.ids()) == 3
        assert await rig.take(ISSUER.policy("p0", 2)) == (0, 0, ["full"])
        assert await rig.bring(ISSUER.policy("p0", 2)) == ["replaced"]

    trio.run(partial_run(max_items=3), tmp_path, test)


def partial_run(**more: Any) -> Any:
    async def with_more(folder: Path, test: Any) -> None:
        await run(folder, test, **more)

    return with_more


def test_an_issuer_who_is_not_trusted_any_more_counts_for_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web"))
        rig.issuers = {STRANGER.public}
        await rig.cache.load()
        assert rig.cache.ids() == frozenset()
        assert rig.cache.facts.totals.untrusted == 1
        assert (await rig.cache.check("https://web.example")).reason == "no_policy"
        assert await rig.bring(STRANGER.policy("web")) == ["added"]
        assert rig.cache.facts.totals.untrusted == 0

    trio.run(run, tmp_path, test)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web"))
        before, audits = rig.dump(), rig.audits()
        assert await rig.bring(ISSUER.policy("web", 2), ISSUER.policy("b"), dry_run=True) == [
            "replaced",
            "added",
        ]
        assert await rig.take(ISSUER.policy("web", 2), ISSUER.policy("b"), dry_run=True) == (1, 1, [])
        assert (rig.dump(), rig.audits()) == (before, audits)

    trio.run(run, tmp_path, test)


def test_when_the_disk_is_full_nothing_changes(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(ISSUER.policy("web"))
        before, ids = rig.dump(), rig.cache.ids()
        rig.store.trouble = StoreFullError("full")
        with pytest.raises(StoreFullError):
            await rig.take(ISSUER.policy("b"))
        assert (rig.dump(), rig.cache.ids()) == (before, ids)

    trio.run(run, tmp_path, test)


def test_what_was_committed_but_not_read_again_is_told(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        def crash() -> None:
            rig.store.trouble, rig.store.reads_too = StoreFullError("full"), True

        rig.store.after_write = crash
        with pytest.raises(StoreFullError):
            await rig.take(ISSUER.policy("b"))
        assert rig.stale == 1
        rig.store.trouble = None
        await rig.cache.load()
        assert len(rig.cache.ids()) == 1

    trio.run(run, tmp_path, test)


def test_a_crash_between_commit_and_answer_leaves_the_whole_merge(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        def crash() -> None:
            raise CrashError

        rig.store.after_write = crash
        with pytest.raises(CrashError):
            await rig.take(ISSUER.policy("b"), ISSUER.policy("c"))
        rig.store.after_write = None
        rig.cache = rig.again()
        await rig.cache.load()
        assert len(rig.cache.ids()) == 2
        assert await rig.take(ISSUER.policy("b"), ISSUER.policy("c")) == (0, 2, [])

    trio.run(run, tmp_path, test)


def test_a_destination_is_asked_of_all_policies_or_of_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        check = rig.cache.check
        assert (await check("https://a.example")).reason == "no_policy"
        wide = ISSUER.policy("wide", 1, "*.example.com:443", "10.1.0.0/16:443")
        await rig.bring(wide, ISSUER.policy("narrow", 1, "https://api.example.com:8443"))
        found = await check("https://api.example.com")
        assert (found.allowed, found.policy_id) == (True, "wide")
        assert (await check("https://api.example.com:8443")).policy_id == "narrow"
        assert (await check("https://10.1.2.3")).allowed
        assert (await check("https://api.example.com.evil.test")).reason == "not_listed"
        assert (await check("https://api.example.com", policy_id="narrow")).reason == "port_not_allowed"
        assert (await check("https://api.example.com", policy_id="none")).reason == "policy_unknown"
        assert (await check("https://api.example.com", address="10.9.9.9")).reason == "own_address"

    trio.run(run, tmp_path, test)


def test_policies_are_listed_by_id_and_state(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.bring(*(ISSUER.policy(f"p{number}") for number in range(4)), ISSUER.tombstone("gone"))
        await rig.take(ISSUER.policy("p1", 2))

        async def listed(**query: Any) -> list[tuple[str, int]]:
            page, _ = await rig.cache.page(PolicyQuery(**query))
            return [(records[0].policy_id, len(records)) for records in page]

        assert await listed() == [("gone", 1), ("p0", 1), ("p1", 2), ("p2", 1), ("p3", 1)]
        assert await listed(state="in_force", limit=2) == [("p0", 1), ("p1", 2)]
        assert await listed(state="in_force", after="p1") == [("p2", 1), ("p3", 1)]
        assert await listed(state="removed") == [("gone", 1)]
        assert await listed(state="held") == [("p1", 2)]
        assert await listed(text="p3") == [("p3", 1)]
        shown = await rig.cache.show("p1")
        assert [(record.in_force, record.way.value) for record in shown] == [
            (True, "operator"),
            (False, "peer"),
        ]

    trio.run(run, tmp_path, test)


def test_a_sender_that_steers_terminals_is_written_down_inert(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.cache.take("\x1b[2J<script>\u202e" + "x" * 10_000, [ISSUER.policy("a")])
        detail = rig.audits()[-1][1]
        assert len(detail["sender"]) == 128
        assert detail["sender"].isprintable()

    trio.run(run, tmp_path, test)


def test_the_same_item_twice_in_one_call_counts_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        item = ISSUER.policy("a")
        reports = await rig.cache.bring([item, item, ISSUER.policy("b")], actor="uid:0")
        assert sorted(report.outcome for report in reports) == sorted(
            (Outcome.ADDED, Outcome.KNOWN, Outcome.ADDED)
        )
        assert reports[2].policy_id == "b"

    trio.run(run, tmp_path, test)
