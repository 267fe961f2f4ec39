"""Links between nodes on virtual time: kept, compared, spread, refused (R1.57 to R1.67)."""

from datetime import timedelta
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.config.peers import PeerAddress
from ambientd.core.audit import RESTORED
from ambientd.core.ed25519 import show_key
from ambientd.core.peerbook import PeerBook, TrustedPeer
from ambientd.core.peers.floors import SendLine
from ambientd.core.records import AuditEntry
from ambientd.core.signeditem import issue
from ambientd.ports.errors import StoreError
from ambientd.services.peers.counting import STRIDE, Counting
from ambientd.services.peers.service import FAULTS
from ambientd.wire.enums import Connectivity
from tests.fakes.clock import EPOCH
from tests.fakes.identity import NamedIdentity, seed_of
from tests.fakes.peerlan import LATENCY_SEC
from tests.fakes.store import CrashError
from tests.services.peerrig import item, lan_of, until


async def test_what_one_has_all_have_over_one_link_for_each_pair(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b", "c") as rig:
        rig["a"].put(item(1), item(2))
        rig["b"].put(item(3))
        rig.start()
        await until(rig.is_meshed)
        await until(rig.agree)
        assert len(rig["c"].items.held) == 3
        await trio.sleep(300)
        for node in rig.all:
            assert len(node.service._links) == 2
        assert all(link.machine.agrees for node in rig.all for link in node.service.open.values())


async def test_a_change_is_told_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with lan_of(tmp_path, "a", "b", "c", "d") as rig:
        rig.start()
        await until(rig.is_meshed)
        await trio.sleep(30)
        rig["a"].put(item(1))
        assert await until(rig.agree) < 0.2
        assert await rig["b"].audit("peer_sync_refused") == []


async def test_items_pass_from_node_to_node_where_not_all_are_linked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b", "c") as rig:
        rig["a"].settings["static"] = (PeerAddress("b", 7946),)
        rig["b"].settings["static"] = ()
        rig["c"].settings["static"] = (PeerAddress("b", 7946),)
        rig.start()
        await until(lambda: len(rig["b"].linked) == 2)
        rig["a"].put(item(1))
        assert await until(rig.agree) < 1.0
        assert rig["a"].key not in rig["c"].linked


async def test_a_stranger_is_refused_seen_and_recorded_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].trusts = ("somebody else",)
        rig["b"].put(item(1))
        rig.start()
        await trio.sleep(500)
        assert not rig["a"].linked
        assert not rig["a"].items.held
        stranger = rig["a"].service.strangers[rig["b"].key]
        assert stranger.address.host == "b"
        (refused,) = await rig["a"].audit("peer_sync_refused")
        assert refused["reason"] == "not_trusted"
        assert rig["a"].host.offences
        await trio.sleep(700)
        _, summary = await rig["a"].audit("peer_sync_refused")
        assert summary["count"] > 1


async def test_trust_takes_effect_at_once_and_so_does_its_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].trusts = ()
        rig["b"].put(item(1))
        rig.start()
        await trio.sleep(60)
        service = rig["a"].service
        assert rig["a"].host.bound is None
        assert "no key is trusted" in str(service.listen_problem)
        key = show_key(rig["b"].key)
        peer = TrustedPeer(key=key, name="bee", added_at=EPOCH, added_by="uid:0")
        service.trust_changed(service.book.with_named([peer]))
        assert await until(lambda: rig["a"].linked) < 2
        await until(rig.agree)
        service.trust_changed(service.book.with_named([]))
        await until(lambda: not rig["a"].linked)
        await until(lambda: rig["a"].host.bound is None)
        assert rig["a"].items.held


async def test_a_trusted_key_that_ends_link_after_link_for_its_faults_has_to_wait(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].settings["static"] = ()
        rig.start()
        await until(rig.is_meshed)
        service, dials = rig["a"].service, rig["b"].service.dials
        assert dials is not None
        for _ in range(int(FAULTS.burst) + 10):
            assert len(rig["a"].host.offences) < 10
            (link,) = service.open.values()
            link.do(link.machine.received(b"what nobody would send", service.moment()))
            await until(lambda: not service.open)
            await trio.sleep(0.1)
            rig["b"].service.links_changed()
            await until(lambda: service.open)
        assert rig["a"].host.offences
        refused = await rig["a"].audit("peer_sync_refused")
        assert {one["reason"] for one in refused} == {"out_of_order"}


async def test_a_node_with_a_new_key_leaves_before_anybody_calls_it_a_forger(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.start()
        await until(rig.is_meshed)
        rig["a"].service.identity = NamedIdentity("another")
        rig["a"].service.key_changed()
        await until(lambda: not rig["a"].linked and not rig["b"].linked, 1.0)
        await trio.sleep(300)
        reasons = {one["reason"] for node in rig.all for one in await node.audit("peer_sync_refused")}
        assert reasons == {"not_trusted"}


async def test_imports_that_the_audit_leaves_out_are_told_in_sums(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].items.recorded = False
        rig.start()
        await until(rig.is_meshed)
        for number in range(9):
            rig["b"].put(issue(seed_of("nobody"), NamedIdentity("nobody").public_key, b"%d" % number))
            await trio.sleep(2)
        await trio.sleep(700)
        told = await rig["a"].audit("peer_sync_refused")
        assert {one["reason"] for one in told} == {"nothing_new"}
        assert sum(one["count"] for one in told) >= 9
        assert len(told) == 2


async def test_an_end_of_trust_counts_for_a_link_that_is_just_beginning(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].settings["static"] = ()
        rig["a"].trusts = ("b", "c")
        rig["b"].put(item(1))
        rig.start()
        service = rig["a"].service
        while not service._links:
            await trio.sleep(LATENCY_SEC / 10)
        assert not service.open
        service.trust_changed(PeerBook((show_key(NamedIdentity("c").public_key),)))
        await trio.sleep(5)
        assert not rig["a"].linked
        assert not rig["a"].items.held


async def test_without_an_upstream_a_node_receives_and_does_not_send(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["a"].view.state = Connectivity.NO_UPSTREAM
        rig["a"].put(item(1))
        rig["b"].put(item(2))
        rig.start()
        await until(lambda: len(rig["a"].items.held) == 2)
        await trio.sleep(300)
        assert len(rig["b"].items.held) == 1
        rig["a"].put(item(3))
        await trio.sleep(300)
        assert len(rig["b"].items.held) == 1
        rig["a"].view.state = Connectivity.OFFLINE
        rig["a"].service.links_changed()
        assert await until(rig.agree) < 5


async def test_the_configuration_may_let_it_send_all_the_same(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b", send_without_upstream=True) as rig:
        rig["a"].view.state = Connectivity.NO_UPSTREAM
        rig["a"].put(item(1))
        rig.start()
        await until(rig.agree)


async def test_a_cut_is_healed_within_two_intervals(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with lan_of(tmp_path, "a", "b", "c", interval=120.0) as rig:
        rig.start()
        await until(rig.is_meshed)
        rig.lan.cut("a", "b")
        rig.lan.cut("a", "c")
        rig["a"].put(item(1))
        rig["b"].put(item(2))
        await trio.sleep(1000)
        assert not rig["a"].linked
        assert len(rig["c"].items.held) == 1
        rig.lan.heal()
        assert await until(rig.agree, 240) < 60


async def test_when_the_links_change_everybody_is_tried_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.lan.cut("a", "b")
        rig.start()
        await trio.sleep(1000)
        rig.lan.heal()
        rig["a"].service.links_changed()
        assert await until(rig.is_meshed) < 0.6


async def test_a_restarted_peer_is_linked_again_whoever_had_dialled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Also when its end came without a word: the old link stands here, and the new one takes its place."""
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.start()
        for name in ("a", "b"):
            await until(rig.is_meshed)
            rig.lan.cut("a", "b")
            node = rig[name]
            await node.stop()
            rig.lan.heal()
            node.put(item(7))
            node.start()
            await until(rig.is_meshed, 200)
            await until(rig.agree, 200)
            await trio.sleep(60)
            assert rig.is_meshed()


async def test_a_crash_never_leaves_an_item_without_its_number(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """FAULTS P12: the process dies when the number is durable; what comes again has a higher one."""
    async with lan_of(tmp_path, "a", "b") as rig:
        node, floors = rig["b"], []

        async def floor() -> int:
            kept = await node.real_store.read(lambda tx: (tx.peers.floors(),))
            assert kept[0] is not None
            lines = kept[0].of(rig["a"].key).lines
            return lines[-1].sequence if lines else 0

        def die() -> None:
            raise CrashError

        rig.start()
        await until(rig.is_meshed)
        for number in range(5):
            node.items.after_first = die
            rig["a"].put(item(number))
            await until(lambda: node.crashes > 0)
            node.crashes = 0
            assert item(number).item_id not in node.items.held
            floors.append(await floor())
            node.items.after_first = lambda: None
            node.start()
            await until(rig.agree)
            floors.append(await floor())
        assert floors == sorted(set(floors))


async def test_a_store_that_is_away_costs_the_link_and_no_change(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.start()
        await until(rig.is_meshed)
        rig["b"].store.trouble = StoreError("the disk is gone")
        rig["a"].put(item(1))
        await trio.sleep(100)
        assert not rig["b"].items.held
        rig["b"].store.trouble = None
        await until(rig.agree, 200)


async def test_a_round_on_demand_tells_what_moved_and_a_dry_one_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        forged = issue(seed_of("a thief"), NamedIdentity("a thief").public_key, b"{}")
        rig["b"].view.state = Connectivity.NO_UPSTREAM
        rig["b"].items.held = {item(0).item_id: item(0)}
        rig.start()
        await until(rig.is_meshed)
        (nothing,) = await rig["a"].service.compare(dry_run=True, seconds=20)
        assert nothing.ended is not None
        assert nothing.ended.outcome == "not_now"
        rig["b"].view.state = Connectivity.OFFLINE
        rig["b"].service.links_changed()
        await until(rig.agree)
        await trio.sleep(5)
        # Held without a word to anybody, so that there is something left to compare.
        rig["b"].items.held |= {one.item_id: one for one in (item(1), forged)}
        rig["b"].service.holdings.refresh()
        (dry,) = await rig["a"].service.compare(dry_run=True, seconds=20)
        assert dry.ended is not None
        assert (dry.ended.added, dry.ended.refused) == (1, 1)
        assert dry.refused == ((forged.item_id.hex(), "bad_signature"),)
        assert list(rig["a"].items.held) == [item(0).item_id]
        (real,) = await rig["a"].service.compare(dry_run=False, seconds=20)
        assert real.ended is not None
        assert real.ended.added == 1
        assert list(rig["a"].items.held) == [item(0).item_id, item(1).item_id]


async def test_a_sleeper_does_not_accuse_others(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What came while the loop stood still is heard before anybody is called silent."""
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.start()
        await until(rig.is_meshed)
        (link,) = rig["a"].service.open.values()
        link.machine._heard -= 1_000
        await trio.sleep(1)
        rig["b"].put(item(1))
        await trio.sleep(60)
        assert rig.is_meshed()
        assert rig["a"].service.open[rig["b"].key] is link


async def test_peers_that_hold_the_same_from_the_start_are_told_as_compared(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig.start()
        await until(rig.is_meshed)
        await trio.sleep(5)
        service, text = rig["a"].service, show_key(rig["b"].key)
        (link,) = service.open.values()
        told = service.synced_at(link, service.seen.get(text))
        assert told is not None
        assert timedelta(0) <= service.at(trio.current_time()) - told < timedelta(minutes=1)
        await rig["b"].stop()
        await until(lambda: not service.open)
        kept = service.seen[text].synced_at
        assert kept is not None
        assert abs(kept - told) < timedelta(minutes=1)


async def test_peers_are_remembered_over_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with lan_of(tmp_path, "a", "b") as rig:
        rig["b"].put(item(1))
        rig.start()
        await until(rig.agree)
        await trio.sleep(5)
        await rig["a"].stop()
        await rig["b"].stop()
        rig["a"].start()
        await trio.sleep(1)
        seen = rig["a"].service.seen[show_key(rig["b"].key)]
        assert seen.name == "b"
        assert seen.seen_at is not None
        assert seen.seen_at > EPOCH
        assert seen.synced_at is not None
        assert seen.synced_at - seen.seen_at < timedelta(seconds=10)


async def test_no_number_is_given_twice_over_crashes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with lan_of(tmp_path, "a") as rig:
        given: list[tuple[str, int]] = []
        for _ in range(4):
            counting = Counting(rig["a"].store, rig["a"]._bytes)
            await counting.load(1)
            given += [await counting.take() for _ in range(STRIDE + 3)]
        assert len(set(given)) == len(given)
        assert len({line for line, _ in given}) == 1
        kept = await rig["a"].real_store.read(lambda tx: (tx.peers.own_line(), tx.peers.floors()))
        assert isinstance(kept[0], SendLine)
        assert kept[0].next > max(number for _, number in given)
        assert kept[1] is not None
        assert kept[1].since == 1


async def test_a_backup_that_was_put_back_gives_no_number_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with lan_of(tmp_path, "a") as rig:
        restored = AuditEntry(kind=RESTORED, at=EPOCH, actor="uid:0", subject="node", detail={})
        lines = []
        for was_restored in (False, True, False, True):
            if was_restored:
                await rig["a"].real_store.write(lambda tx: tx.audit.append(restored))
            counting = Counting(rig["a"].store, rig["a"]._bytes)
            await counting.load(1)
            lines.append((await counting.take())[0])
        assert lines[0] != lines[1] == lines[2] != lines[3]


@pytest.mark.parametrize("size", [5])
async def test_all_splits_of_five_heal(tmp_path: Path, autojump_clock: MockClock, size: int) -> None:
    """FAULTS N1, in memory: all 15 ways to split five nodes in two."""
    names = "abcde"[:size]
    async with lan_of(tmp_path, *names, interval=120.0) as rig:
        rig.start()
        await until(rig.is_meshed, 200)
        for mask in range(1, 2 ** (size - 1)):
            one = {names[place] for place in range(size) if mask >> place & 1}
            for left in one:
                for right in set(names) - one:
                    rig.lan.cut(left, right)
            for name in names:
                rig[name].put(item(mask, name))
            await trio.sleep(500)
            assert not rig.agree()
            rig.lan.heal()
            assert await until(rig.agree, 300) <= 240
            await until(rig.is_meshed, 300)
