"""A membership that cannot be read is not a node that has left."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ambientd.app.push_parts import PushPart
from ambientd.core.membership import show_membership
from ambientd.host.membership_file import DiskMembershipFile
from ambientd.host.private_file import replace_private
from tests.pushkit import LOST, node_beside


async def test_what_waits_stays_while_the_membership_cannot_be_read_and_goes_with_it(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        rig.wire.always = LOST
        for _ in range(3):
            rig.later(60)
            await rig.sample()
        before = (await rig.service.count()).waiting
        assert before >= 3
        assert rig.file.current is not None
        path = tmp_path / "control_plane.json"
        replace_private(path, show_membership(rig.file.current))
        ground: Any = SimpleNamespace(store=rig.store, state_dir=tmp_path)

        async def started() -> None:
            """As a daemon that finds the file so."""
            file = DiskMembershipFile(tmp_path)
            file.load()
            assert file.current is None
            await PushPart(ground, file)._forget()

        path.chmod(0o644)
        await started()
        path.chmod(0o600)
        path.write_text("{torn")
        await started()
        rig.restart()
        await rig.service._enter()
        assert (await rig.service.count()).waiting == before
        path.unlink()
        await started()
        assert (await rig.store.read(lambda tx: tx.outbox.depth(0))).waiting == 0
