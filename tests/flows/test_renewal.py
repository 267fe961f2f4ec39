"""A credential is exchanged, whatever is lost on the way; the control plane behind it is real."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ambientd.core.membership import Membership
from ambientd.core.rejection import Rejected
from ambientd.flows.membership import Joining
from ambientd.flows.renewal import renew
from ambientd.services.push import DeviceLink
from ambientd.wire.fleet_messages import CapabilitiesBody
from ambientd.wire.outbox_messages import MembershipView
from tests.pushkit import LOST, OK, UNHEARD, NodeRig, node_beside


async def renewed(rig: NodeRig) -> MembershipView | Rejected:
    joining = Joining(
        store=rig.store,
        clock=rig.clock,
        identity=rig.identity,
        file=rig.file,
        open_transport=lambda _: rig.wire,
        node_name=rig.name,
        network=lambda: "default",
        allow_plain=lambda: False,
        interval=lambda: 60.0,
        timeout=lambda: 10.0,
        offline=lambda: "",
        capabilities=lambda: CapabilitiesBody(bandwidth_mbps=1, cpu_cores=1, memory_gb=1),
    )

    @asynccontextmanager
    async def link(membership: Membership) -> AsyncIterator[DeviceLink]:
        yield rig._link(membership)

    return await renew(joining, link, actor="uid:0")


def good(rig: NodeRig) -> int:
    rows = rig._rows("SELECT count(*) FROM device_credentials WHERE revoked_at IS NULL")
    return int(rows[0][0])


async def test_a_new_credential_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.record(3)
        await rig.drain()
        old = rig.file.current
        view = await renewed(rig)
        assert isinstance(view, MembershipView)
        assert view.credential_id == getattr(rig.file.current, "credential_id", None) != old
        assert good(rig) == 1
        await rig.record(2)
        await rig.drain()
        assert rig.there() == await rig.here()


@pytest.mark.parametrize("fault", [LOST, UNHEARD])
@pytest.mark.parametrize("place", [0, 1])
async def test_whatever_is_lost_a_credential_counts_and_it_may_be_repeated(
    tmp_path: Path, place: int, fault: str
) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        rig.wire.faults = [*[OK] * place, fault]
        lost = await renewed(rig)
        assert isinstance(lost, Rejected)
        assert lost.code == "CONTROL_UNREACHABLE"
        assert ("still counts" in lost.message) is (place == 1)
        await rig.record(1)
        await rig.drain()
        assert isinstance(await renewed(rig), MembershipView)
        assert good(rig) == 1
        await rig.drain()
        assert rig.there() == await rig.here()


async def test_a_revoked_credential_renews_nothing(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        before = rig.file.current
        await rig.owner.delete(f"/nodes/{rig.name}/credential")
        found = await renewed(rig)
        assert isinstance(found, Rejected)
        assert (found.code, rig.file.current) == ("NOT_AUTHENTICATED", before)
        rig.file.current = None
        assert isinstance(none := await renewed(rig), Rejected)
        assert none.code == "NO_CONTROL_PLANE"
