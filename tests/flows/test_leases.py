"""Leases over a real database: used once, ended for good, metered, and safe whatever the clocks do."""

from pathlib import Path

import pytest
import trio

from ambientd.core.denials import WINDOW_SEC
from ambientd.core.lease import LIFE_MAX_MS, REASONS
from ambientd.core.records import SessionChange
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import from_ms
from ambientd.flows.audit import restored_entry
from ambientd.flows.leases import FORGET_AFTER_MS, METERED_SEC, Activated, Ended, Revoked
from ambientd.ports.errors import StoreFullError
from ambientd.store.idle import append_audit
from ambientd.wire.enums import Connectivity, SessionStatus
from tests.fakes.trustedtime import START_MS, HandTime
from tests.flows.leaserig import ALLOWED, LEASES, POLICIES, STRANGER, leased
from tests.leasekit import DAY, HOUR, LeaseIssuer
from tests.store.kit import StillClock, ingest

MB = 1_000_000


async def test_a_lease_lets_its_session_out_and_ends_with_its_duration(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        assert await rig.code(session_id="ses-1") == "no_lease"
        found = await rig.leases.activate(LEASES.lease(), "uid:7")
        assert isinstance(found, Activated)
        assert await rig.code(session_id="ses-1") == "allowed"
        assert await rig.code(lease_id="lease-1") == "allowed"
        assert await rig.code(lease_id="lease-1", session_id="ses-2") == "other_session"
        assert await rig.code("https://other.example", lease_id="lease-1") == "not_listed"
        assert await rig.code(lease_id="lease-2") == "lease_unknown"
        assert await rig.meter(600_000) == "allowed"
        rig.source.run(HOUR)
        assert await rig.code(session_id="ses-1") == "duration"
        assert await rig.leases.sweep() is None
        assert await rig.state() == "duration"
        assert await rig.code(lease_id="lease-1") == "lease_ended"
        (_, jti, begun), *_, (_, _, over) = rig.audits("session_activated", "session_terminated")
        assert (jti, begun["session"], begun["issuer"]) == ("lease-1", "ses-1", LEASES.name)
        assert over == {
            "reason": "duration",
            "session": "ses-1",
            "bytes": 600_000,
            "elapsed_ms": HOUR,
            "denied": 2,
        }


async def test_a_lease_works_once_even_after_its_duration_and_a_restart(tmp_path: Path) -> None:
    """W5: an ended lease that is activated again would start its counters anew."""
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig:
        assert await rig.activate(LEASES.lease()) == "ok"
        assert await rig.activate(LEASES.lease()) == "used"
        source.run(HOUR)
        await rig.leases.sweep()
        assert await rig.activate(LEASES.lease()) == "used"
    async with leased(tmp_path / "a.db", source) as rig:
        assert await rig.activate(LEASES.lease()) == "used"
        assert await rig.activate(LEASES.lease("lease-2")) == "ok"


async def test_two_at_once_are_one(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        found: list[str] = []

        async def bring(jti: str) -> None:
            found.append(await rig.activate(LEASES.lease(jti)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bring, "lease-1")
            nursery.start_soon(bring, "lease-1")
            nursery.start_soon(bring, "lease-2")
        rows = await rig.leases.page(active=True, limit=10)
        assert len(rows) == 1
        assert found.count("ok") in (1, 2)
        assert set(found) <= {"ok", "used", "session_busy"}


async def test_every_refusal_is_audited_and_leaves_nothing(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        cases = {
            "untrusted_issuer": LeaseIssuer(3).lease(),
            "other_network": LEASES.lease(network="other"),
            "other_node": LEASES.lease(node=LEASES.name),
            "other_kind": LEASES.revocation(),
            "policy_unknown": LEASES.lease(policy_id="none"),
            "protocol_exceeds_policy": LEASES.lease(protocols=("https", "udp")),
            "not_yet_valid": LEASES.lease(nbf=START_MS + 10 * HOUR),
            "expired": LEASES.lease(exp=START_MS),
            "issued_in_future": LEASES.lease(issued_at=START_MS + HOUR),
        }
        for expected, item in cases.items():
            assert await rig.activate(item) == expected
        told = rig.audits("lease_refused")
        assert [detail["reason"] for _, _, detail in told] == list(cases)
        assert await rig.leases.page(active=None, limit=10) == []
        assert await rig.activate(LEASES.lease()) == "ok"


@pytest.mark.parametrize(
    ("state", "code"), [(Connectivity.NO_UPSTREAM, "no_upstream"), (Connectivity.UNKNOWN, "not_probed")]
)
async def test_without_upstream_nothing_is_activated_or_goes_out(
    tmp_path: Path, state: Connectivity, code: str
) -> None:
    async with leased(tmp_path / "a.db") as rig:
        assert await rig.activate(LEASES.lease()) == "ok"
        rig.links.state = state
        assert await rig.activate(LEASES.lease("lease-2")) == code
        assert await rig.code() == code
        assert await rig.code(session_id="ses-1") == code
        assert await rig.meter(1) == code
        assert (await rig.check()).reason == f"{REASONS[code]}: {state.value}"
        rig.links.state = Connectivity.OFFLINE
        assert await rig.code() == "allowed"
        assert await rig.code(session_id="ses-1") == "allowed"
        assert await rig.meter(1) == "allowed"


async def test_a_node_without_identity_takes_no_lease(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        rig.node = None
        assert await rig.activate(LEASES.lease()) == "no_identity"


async def test_a_second_lease_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        await rig.meter(10)
        assert await rig.activate(LEASES.lease("lease-2", policy_id="none")) == "policy_unknown"
        assert await rig.code(lease_id="lease-1") == "allowed"
        assert await rig.activate(LEASES.lease("lease-2")) == "ok"
        assert await rig.state("lease-1") == "replaced"
        assert await rig.code(lease_id="lease-1") == "lease_ended"
        found = await rig.check(session_id="ses-1")
        assert (found.lease_id, found.bytes) == ("lease-2", 0)


# --- revoking and ending


async def test_a_revocation_ends_an_active_lease_and_bars_one_to_come(tmp_path: Path) -> None:
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig:
        await rig.activate(LEASES.lease())
        rig.links.state = Connectivity.NO_UPSTREAM
        found = await rig.leases.revoke(LEASES.revocation(), "uid:0")
        assert isinstance(found, Revoked)
        assert (found.ended, found.known) == (True, False)
        again = await rig.leases.revoke(LEASES.revocation(), "uid:0")
        assert isinstance(again, Revoked)
        assert (again.ended, again.known) == (False, True)
        assert await rig.state() == "revoked"
        await rig.leases.revoke(LEASES.revocation("lease-2"), "uid:0")
        rig.links.state = Connectivity.ONLINE
    async with leased(tmp_path / "a.db", source) as rig:
        assert await rig.activate(LEASES.lease("lease-2")) == "revoked"
        assert await rig.activate(LEASES.lease()) == "revoked"


async def test_a_revocation_of_an_issuer_whose_clock_stands_in_1970_is_not_forgotten(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        revoked = await rig.leases.revoke(LEASES.revocation("lease-2", issued_at=0), "uid:0")
        assert not isinstance(revoked, Rejected)
        assert await rig.activate(LEASES.lease()) == "ok"
        rig.source.run(HOUR)
        await rig.leases.sweep()
        assert await rig.state() == "duration"
        assert await rig.activate(LEASES.lease("lease-2")) == "revoked"


async def test_only_its_own_issuer_revokes_a_lease(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        found = await rig.leases.revoke(STRANGER.revocation(), "uid:0")
        assert isinstance(found, Revoked)
        assert not found.ended
        assert await rig.code(lease_id="lease-1") == "allowed"
        refused = await rig.leases.revoke(LeaseIssuer(3).revocation(), "uid:0")
        assert isinstance(refused, Rejected)
        refused = await rig.leases.revoke(LEASES.lease("x"), "uid:0")
        assert isinstance(refused, Rejected)
        assert refused.details[0].issue == "other_kind"


async def test_an_operator_ends_a_lease_by_a_part_of_its_id(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease("aaa-1"))
        await rig.activate(LEASES.lease("aaa-2", session_id="ses-2"))
        found = await rig.leases.end("aaa", "uid:0")
        assert isinstance(found, Rejected)
        assert (found.code, [one.message for one in found.details]) == ("AMBIGUOUS", ["aaa-1", "aaa-2"])
        ended = await rig.leases.end("-1", "uid:0")
        assert isinstance(ended, Ended)
        assert (ended.row.lease.jti, ended.row.end_reason) == ("aaa-1", "operator")
        over = await rig.leases.end("aaa-1", "uid:0")
        assert isinstance(over, Rejected)
        assert over.code == "LEASE_OVER"
        unknown = await rig.leases.end("zzz", "uid:0")
        assert isinstance(unknown, Rejected)
        assert unknown.code == "NOT_FOUND"


async def test_a_lease_ends_with_its_session(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.store.write(lambda tx: ingest(tx, "ses-1"))
        await rig.activate(LEASES.lease())
        await rig.leases.sweep()
        assert await rig.state() is None
        over = SessionChange(status=SessionStatus.KILLED, ended_at=from_ms(START_MS))
        assert await rig.store.write(lambda tx: tx.ledger.change("ses-1", over))
        await rig.leases.sweep()
        assert await rig.state() == "session_over"


# --- metering


async def test_bytes_are_bound_by_the_rate_and_the_sum(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease(max_bytes=5 * MB))
        assert await rig.meter(MB) == "allowed"
        assert await rig.meter(1) == "bandwidth"
        assert await rig.code(lease_id="lease-1") == "bandwidth"
        rig.source.run(2_000)
        assert await rig.meter(MB + 1) == "bandwidth"
        assert await rig.meter(MB) == "allowed"
        rig.source.run(HOUR - 3_000)
        assert await rig.meter(3 * MB) == "allowed"
        assert await rig.meter(1) == "bandwidth"
        found = await rig.check(lease_id="lease-1")
        assert (found.bytes, found.allowance) == (5 * MB, 5 * MB)


async def test_what_the_disk_refused_does_not_count(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        rig.store.trouble = StoreFullError("full")
        with pytest.raises(StoreFullError):
            await rig.meter(10)
        rig.store.trouble = None
        assert (await rig.check(lease_id="lease-1")).bytes == 0


async def test_a_crash_never_gives_bytes_back(tmp_path: Path) -> None:
    """Five seconds' worth are accounted for in one write; an orderly end has the exact figure."""
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig:
        await rig.activate(LEASES.lease())
        for _ in range(100):
            assert await rig.meter(1_000) == "allowed"
        rig.again()
        source.run(1_000)
        found = await rig.check(lease_id="lease-1")
        assert found.bytes is not None
        assert 100_000 <= found.bytes <= 100_000 + 5 * MB
        await rig.leases.end("lease-1", "uid:0")
        rows = await rig.leases.page(active=False, limit=1)
        assert rows[0].held.bytes == found.bytes


async def test_a_thousand_messages_are_a_few_writes_and_one_record(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        writes = 0

        def count() -> None:
            nonlocal writes
            writes += 1

        rig.store.after_write = count
        for _ in range(1_000):
            rig.source.run(1)
            assert await rig.meter(500) == "allowed"
        assert writes <= 2
        rig.source.run(int(METERED_SEC * 1000))
        await rig.leases.sweep()
        ((_, jti, detail),) = rig.audits("traffic_metered")
        assert (jti, detail) == ("lease-1", {"bytes": 500_000, "total": 500_000, "calls": 1_000})
        await rig.leases.sweep()
        assert len(rig.audits("traffic_metered")) == 1


async def test_denied_traffic_is_audited_once_and_then_counted(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        secret = "https://evil.example/?token=abc"
        for _ in range(500):
            assert await rig.meter(1, destination=secret) == "not_listed"
        ((_, jti, first),) = rig.audits("egress_denied")
        assert (jti, first) == (
            "lease-1",
            {"reason": "not_listed", "host": "https://evil.example:443", "count": 1},
        )
        rig.source.run(int(WINDOW_SEC * 1000))
        await rig.leases.sweep()
        assert [detail["count"] for _, _, detail in rig.audits("egress_denied")] == [1, 499]
        rig.store.trouble = StoreFullError("full")
        assert await rig.meter(1, destination="https://other.example") == "not_listed"


@pytest.mark.parametrize(
    ("destination", "protocol", "code"),
    [
        ("https://web.example.evil.test/", None, "not_listed"),
        ("https://web.example@evil.test/", None, "destination_invalid"),
        ("http://web.example/", None, "protocol_not_in_lease"),
        ("web.example", "quic", "protocol_not_in_lease"),
        ("web.example", "gopher", "protocol_unknown"),
        ("", None, "destination_invalid"),
    ],
)
async def test_destinations_are_compared_part_by_part(
    tmp_path: Path, destination: str, protocol: str | None, code: str
) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        assert await rig.code(destination, protocol=protocol, lease_id="lease-1") == code


async def test_a_lease_is_bound_to_its_policy_and_stops_with_it(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.policies.bring([POLICIES.policy("more")], actor="uid:0")
        await rig.activate(LEASES.lease())
        assert await rig.code("https://more.example") == "allowed"
        assert await rig.code("https://more.example", lease_id="lease-1") == "not_listed"
        await rig.policies.bring([POLICIES.tombstone("web", 2)], actor="uid:0")
        assert await rig.code(lease_id="lease-1") == "policy_unknown"


# --- clocks


async def test_a_clock_set_back_keeps_what_has_expired_expired(tmp_path: Path) -> None:
    """W7: by the wall clock alone a session set back would never expire."""
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease(exp=START_MS + HOUR, max_duration_ms=2 * HOUR))
        rig.source.run(HOUR - 1_000)
        rig.source.wall_ms -= 4_990_000
        assert await rig.code(lease_id="lease-1") == "allowed"
        rig.source.run(1_000)
        assert await rig.code(lease_id="lease-1") == "expired"
        assert await rig.activate(LEASES.lease("lease-2", exp=START_MS + HOUR)) == "expired"
        await rig.leases.sweep()
        assert await rig.state() == "expired"
        found = await rig.check(session_id="ses-1")
        assert found.clock_doubt == "the wall clock is 1 h behind what this node has seen"


async def test_a_day_ahead_ends_what_expires_within_it_and_setting_it_back_brings_nothing(
    tmp_path: Path,
) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease(exp=START_MS + HOUR))
        rig.source.wall_ms += DAY
        assert await rig.code(lease_id="lease-1") == "expired"
        rig.source.wall_ms -= DAY
        assert await rig.code(lease_id="lease-1") == "expired"
        await rig.leases.sweep()
        assert await rig.activate(LEASES.lease()) == "used"


async def test_ten_years_ahead_refuse_while_they_last_and_end_nothing(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        rig.source.wall_ms += 3650 * DAY
        assert await rig.code(lease_id="lease-1") == "clock_in_doubt"
        assert await rig.activate(LEASES.lease("lease-2")) == "clock_in_doubt"
        await rig.leases.sweep()
        assert await rig.state() is None
        rig.source.wall_ms -= 3650 * DAY
        rig.again()
        assert await rig.code(lease_id="lease-1") == "allowed"


async def test_a_boot_in_1970_allows_nothing_until_the_clock_is_set(tmp_path: Path) -> None:
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig:
        await rig.activate(LEASES.lease())
        source.run(60_000)
        await rig.leases.sweep()
        rig.again()
    source.reboot()
    right, source.wall_ms = source.wall_ms + 5 * 60_000, 1_000
    async with leased(tmp_path / "a.db", source) as rig:
        assert await rig.code(session_id="ses-1") == "clock_in_doubt"
        assert await rig.activate(LEASES.lease("lease-2", session_id="ses-2")) == "clock_in_doubt"
        await rig.leases.sweep()
        assert await rig.state() is None
        source.wall_ms = right
        found = await rig.check(session_id="ses-1")
        assert (found.code, found.clock_doubt) == ("allowed", None)
        (row,) = await rig.leases.page(active=True, limit=5)
        assert row.held.elapsed_ms == 6 * 60_000


async def test_a_machine_that_slept_wakes_to_ended_leases(tmp_path: Path) -> None:
    """The boot clock counts suspend."""
    async with leased(tmp_path / "a.db") as rig:
        await rig.activate(LEASES.lease())
        rig.source.run(30 * DAY)
        assert await rig.code(lease_id="lease-1") == "expired"
        await rig.leases.sweep()
        assert await rig.state() == "expired"


async def test_durations_go_on_over_restarts_and_starts_of_the_machine(tmp_path: Path) -> None:
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig:
        await rig.activate(LEASES.lease())
        source.run(20 * 60_000)
    async with leased(tmp_path / "a.db", source) as rig:
        (row,) = await rig.leases.page(active=True, limit=5)
        assert row.held.elapsed_ms == 20 * 60_000
    source.reboot(30 * 60_000)
    async with leased(tmp_path / "a.db", source) as rig:
        (row,) = await rig.leases.page(active=True, limit=5)
        assert row.held.elapsed_ms == 50 * 60_000
        source.run(10 * 60_000)
        assert await rig.code(lease_id="lease-1") == "duration"


async def test_what_was_used_is_remembered_until_long_after_it_expired(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        await rig.policies.bring([POLICIES.policy("web", 2, not_after=START_MS + 390 * DAY)], actor="uid:0")
        await rig.activate(LEASES.lease())
        rig.source.run(HOUR)
        await rig.leases.sweep()
        for _ in range(2):
            rig.source.run(DAY + FORGET_AFTER_MS // 2)
            await rig.activate(
                LEASES.lease(f"l{_}", issued_at=rig.source.wall_ms, exp=rig.source.wall_ms + DAY)
            )
            rig.source.run(HOUR)
            await rig.leases.sweep()
        assert [row.lease.jti for row in await rig.leases.page(active=None, limit=9)] == ["l1", "l0"]
        # Even an operator who sets the clock back by a month brings no used lease back.
        rig.source.wall_ms = START_MS
        await rig.time.accept(rig.store, "uid:0")
        assert await rig.activate(LEASES.lease()) == "expired"
        assert await rig.activate(LEASES.lease("new", exp=START_MS + DAY + 1)) == "ok"


async def test_a_revocation_outlives_every_lease_that_it_may_mean(tmp_path: Path) -> None:
    assert LIFE_MAX_MS >= 400 * DAY
    async with leased(tmp_path / "a.db") as rig:
        await rig.leases.revoke(LEASES.revocation(), "uid:0")
        rig.source.run(390 * DAY)
        await rig.policies.bring(
            [POLICIES.policy("web", 2, issued_at=rig.source.wall_ms, not_after=rig.source.wall_ms + DAY)],
            actor="uid:0",
        )
        await rig.activate(LEASES.lease("x", issued_at=rig.source.wall_ms, exp=rig.source.wall_ms + DAY))
        rig.source.run(HOUR)
        await rig.leases.sweep()
        item = LEASES.lease(issued_at=START_MS, exp=START_MS + LIFE_MAX_MS)
        assert await rig.activate(item) == "revoked"


async def test_a_lost_record_bars_what_was_issued_before(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with leased(path) as rig:
        await rig.activate(LEASES.lease())
    path.write_bytes(b"")
    source = HandTime()
    source.run(60_000)
    async with leased(path, source) as rig:
        assert await rig.activate(LEASES.lease()) == "record_lost"
        assert await rig.activate(LEASES.lease("new", issued_at=source.wall_ms)) == "ok"


async def test_a_backup_put_back_does_not_make_used_leases_new(tmp_path: Path) -> None:
    source = HandTime()
    path = tmp_path / "a.db"
    async with leased(path, source) as rig:
        assert await rig.code() == "allowed"
    backup = path.read_bytes()
    async with leased(path, source) as rig:
        assert await rig.activate(LEASES.lease()) == "ok"
    path.write_bytes(backup)
    source.run(60_000)
    entry = restored_entry(at=from_ms(source.wall_ms), actor="uid:0", made_at="", records=0, former=None)
    append_audit(path, entry, StillClock())
    for _ in range(2):
        async with leased(path, source) as rig:
            assert await rig.activate(LEASES.lease()) == "record_lost"
    async with leased(path, source) as rig:
        assert await rig.activate(LEASES.lease("new", issued_at=source.wall_ms)) == "ok"


async def test_a_check_without_a_lease_asks_the_policies_alone(tmp_path: Path) -> None:
    async with leased(tmp_path / "a.db") as rig:
        found = await rig.check(ALLOWED)
        assert (found.allowed, found.policy_id, found.lease_id) == (True, "web", None)
        assert found.state is Connectivity.ONLINE
        assert rig.audits("egress_denied") == []
