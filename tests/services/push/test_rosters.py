"""A roster comes down: two nodes trust each other by it, and not longer than it says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from ambientd.core.ed25519 import show_key
from ambientd.core.peerbook import OPERATOR, ROSTER
from ambientd.core.roster import LIFE_MS, SKEW_MS
from ambientd.flows.peers import Trust, trust, untrust
from ambientd.wire.peer_messages import TrustAnswer, TrustRequest
from tests.api.fleet.kit import api_over
from tests.fakes.identity import NamedIdentity
from tests.pushkit import NodeRig, store_at
from tests.store.fleet.kit import SqlitePlace
from tests.store.kit import StillClock

OTHER = show_key(NamedIdentity("edge-2").public_key)


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[NodeRig]:
    """The first of two nodes that have joined a control plane which makes rosters."""
    for name in ("node", "plane"):
        (folder / name).mkdir()
    clock = StillClock()
    async with (
        store_at(folder / "node" / "ambient.db", clock) as store,
        api_over(SqlitePlace(folder / "plane"), clock=clock, rosters=True) as api,
    ):
        rig = NodeRig(store, api, "edge-1", await api.person("ann"))
        await rig.join()
        other = NodeRig(store, api, "edge-2", rig.owner)  # only its key matters
        await other.join()
        stranger = NodeRig(store, api, "else-1", await api.person("bob"))
        await stranger.join()
        await api.sweep()
        yield rig


async def told(rig: NodeRig, kind: str) -> list[Any]:
    found = await rig.store.read(lambda tx: tx.audit.records(0, 10_000))
    return [record for record in found if record.kind == kind]


def sources(rig: NodeRig) -> dict[str, str]:
    book = rig.trusting.book
    return {key: book.source(key) for key in book.all}


def trusting(rig: NodeRig) -> Trust:
    return Trust(store=rig.store, clock=rig.clock, peers=rig.trusting)


async def test_the_owners_other_nodes_are_trusted_and_it_is_written_down(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        result = await rig.sync()
        assert (result.policies.taken, result.policies.refused) == (1, 0)
        assert sources(rig) == {OTHER: ROSTER}
        assert rig.trusting.book.called(OTHER) == "edge-2"
        [record] = await told(rig, "peers.roster_taken")
        assert (record.actor, record.detail["gained"], record.detail["lost"]) == (
            "control-plane",
            [OTHER],
            [],
        )
        await rig.sync()
        assert len(await told(rig, "peers.roster_taken")) == 1


async def test_who_is_taken_out_is_trusted_no_longer(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        await rig.owner.delete("/nodes/edge-2")
        rig.later(30)
        await rig.api.sweep()
        await rig.sync()
        assert sources(rig) == {}
        assert (await told(rig, "peers.roster_taken"))[-1].detail["lost"] == [OTHER]


async def test_it_counts_again_after_a_boot_without_a_link_and_ends_in_time(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        rig.trusting.book = rig.trusting.book.with_listed({})
        rig.restart()
        await rig.intake.look()
        assert sources(rig) == {OTHER: ROSTER}
        assert rig.intake.look_in_ms() == LIFE_MS
        rig.later(LIFE_MS / 1000)
        await rig.intake.look()
        assert sources(rig) == {}
        [record] = await told(rig, "peers.roster_ended")
        assert (record.detail["reason"], record.detail["lost"]) == ("expired", [OTHER])


async def test_an_issuer_that_is_not_believed_any_more_ends_it(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        current = rig.file.current
        assert current is not None
        rig.file.current = msgspec.structs.replace(current, issuers=())
        await rig.intake.look()
        assert sources(rig) == {}
        rig.restart()
        await rig.intake.look()
        assert sources(rig) == {}
        assert set(rig.roster_refusals) == {"untrusted_issuer"}


async def test_leaving_ends_it_for_good(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        rig.file.current = None
        await rig.intake.look()
        assert sources(rig) == {}
        assert await rig.store.read(lambda tx: tx.peers.roster()) is None


async def test_what_the_operator_says_wins(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        answer = await untrust("edge-2", trusting(rig), actor="uid:0")
        assert isinstance(answer, TrustAnswer)
        assert answer.key == OTHER
        assert sources(rig) == {}
        await rig.owner.post("/join-tokens", {}, status=201)
        third = NodeRig(rig.store, rig.api, "edge-3", rig.owner)
        await third.join()
        rig.later(30)
        await rig.api.sweep()
        await rig.sync()  # a newer roster that names it still
        assert OTHER not in sources(rig)
        assert len(sources(rig)) == 1
        assert isinstance(await trust(TrustRequest(key=OTHER), trusting(rig), actor="uid:0"), TrustAnswer)
        assert sources(rig)[OTHER] == OPERATOR
        refused = await rig.store.read(lambda tx: tx.peers.distrusted())
        assert refused == []


async def test_an_older_roster_changes_nothing(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        await rig.sync()
        first = await rig.store.read(lambda tx: tx.peers.roster())
        assert first is not None
        await rig.owner.delete("/nodes/edge-2")
        rig.later(30)
        await rig.api.sweep()
        await rig.sync()
        outcome = await rig.intake.take([first])
        assert (outcome.taken, outcome.refused) == (0, 0)
        assert sources(rig) == {}


async def test_a_node_that_takes_none_goes_by_the_newest_once_it_does(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        rig.rosters_wanted = False
        await rig.sync()
        assert sources(rig) == {}
        assert (await told(rig, "peers.roster_taken"))[0].detail["gained"] == []
        rig.rosters_wanted = True
        await rig.intake.look()
        assert sources(rig) == {OTHER: ROSTER}


async def test_a_clock_that_is_behind_only_delays_it(tmp_path: Path) -> None:
    async with two(tmp_path) as rig:
        behind = 3_600_000
        now_ms, rig.intake._now_ms = rig.intake._now_ms, lambda: now_ms() - behind
        await rig.sync()
        assert sources(rig) == {}
        assert rig.roster_refusals == ["issued_in_future"]
        await rig.intake.look()
        assert rig.intake.look_in_ms() == behind - SKEW_MS
        rig.intake._now_ms = now_ms
        await rig.intake.look()
        assert sources(rig) == {OTHER: ROSTER}
