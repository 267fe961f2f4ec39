"""What a node did lately, from a real ledger and a real audit chain."""

from datetime import timedelta
from pathlib import Path

import pytest

from ambientd.core.connectivity import Changed
from ambientd.core.records import AuditEntry, SessionChange
from ambientd.flows.activity import recent_activity
from ambientd.flows.connectivity import Noted, record_change
from ambientd.ports.store import Transaction
from ambientd.store import activity
from ambientd.wire.enums import Connectivity, SessionStatus
from tests.store.kit import AT, new_session, opened


def change(second: int, after: Connectivity, *, lost: int = 0) -> Noted:
    changed = Changed(Connectivity.ONLINE, after, "connect timeout")
    return Noted(changed=changed, at=AT + timedelta(seconds=second), lost=lost)


def sessions(tx: Transaction) -> None:
    tx.ledger.add(new_session("ses-old", second=-200_000))
    ended = SessionChange(status=SessionStatus.FAILED, ended_at=AT, runtime_ms=1, error_code="timeout")
    tx.ledger.change("ses-old", ended)
    tx.ledger.add(new_session("ses-now", second=30))
    tx.audit.append(AuditEntry(kind="control.spawn", at=AT, actor="uid:0", subject="ses-now"))


async def test_sessions_and_changes_of_the_links_are_told_newest_first(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        await store.write(sessions)
        assert await record_change(store, change(10, Connectivity.OFFLINE)) == 2
        await record_change(store, change(20, Connectivity.NO_UPSTREAM, lost=3))
        page = await recent_activity(store, AT + timedelta(seconds=60), 100)
        assert [(event.event, event.session_id) for event in page.events] == [
            ("session_started", "ses-now"),
            ("node_state_transition", None),
            ("node_state_transition", None),
            ("session_ended", "ses-old"),
        ], "the start of two days ago is left out"
        assert page.events[1].detail == {
            "from": "OnlineControlPlane",
            "to": "NoUpstream",
            "reason": "connect timeout",
            "lost": 3,
        }
        assert (page.events[1].audit_seq, page.events[2].audit_seq) == (3, 2)
        assert page.events[3].detail == {"status": "failed", "error_code": "timeout"}
        assert len((await recent_activity(store, AT + timedelta(seconds=60), 2)).events) == 2
        assert (await recent_activity(store, AT + timedelta(days=9), 100)).events == []


async def test_an_empty_node_has_done_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "ambient.db") as store:
        assert (await recent_activity(store, AT, 100)).events == []


async def test_the_chain_is_walked_back_only_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "WALKED_MAX", 5)
    async with opened(tmp_path / "ambient.db") as store:
        await record_change(store, change(0, Connectivity.OFFLINE))

        def many(tx: Transaction) -> None:
            for _ in range(4):
                tx.audit.append(AuditEntry(kind="traffic_metered", at=AT, actor="node", subject="x"))

        await store.write(many)
        assert len((await recent_activity(store, AT, 100)).events) == 1
        await store.write(many)
        assert (await recent_activity(store, AT, 100)).events == []
