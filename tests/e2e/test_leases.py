"""Session leases from an issuer's key to the end, with the programs that people use, and under odd clocks."""

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.leasekit import ALLOWED, DAY, Leased, faketime
from tests.e2e.linkskit import NO_UPSTREAM, OFFLINE, ONLINE, UNKNOWN
from tests.e2e.sessionkit import spawn, wait_ended

Make = Callable[..., Leased]
needs_clock = pytest.mark.skipif(faketime() is None, reason="libfaketime is not installed")


@pytest.fixture
def make(tmp_path: Path, failed: Callable[[], bool]) -> Iterator[Make]:
    made: list[Leased] = []

    def build(**options: bool) -> Leased:
        found = Leased(tmp_path, **options)
        made.append(found)
        return found

    yield build
    for one in made:
        one.node.close(keep=failed())


def test_a_lease_from_its_issuer_to_its_end(make: Make) -> None:
    found = make()
    node = found.node
    assert found.code(session_id="ses-1") == "no_lease"
    assert "leases " not in node.ctl("status").stdout
    file = found.sign("lease-1", max_duration="30m", bytes="4MiB")
    done = node.ctl("lease", "activate", file)
    assert done.returncode == 0, done
    assert "Lease lease-1 is active, for 30m00s at most." in done.stdout
    assert "leases   ▶ 1 active, 0 B metered" in node.ctl("status").stdout
    assert found.json("policy", "check", ALLOWED, "--lease", "lease-1")["leaseId"] == "lease-1"
    assert found.json("policy", "check", ALLOWED, "--session", "ses-1")["allowed"] is True
    refused = found.json("policy", "check", "https://api.example.com.evil.test", "--lease", "lease-1", code=6)
    assert refused["reason"] == "not_listed"
    assert found.json("policy", "check", ALLOWED, "--session", "ses-2", code=6)["reason"] == "no_lease"

    for state, code in (
        (OFFLINE, "allowed"),
        (NO_UPSTREAM, "no_upstream"),
        (UNKNOWN, "not_probed"),
        (ONLINE, "allowed"),
    ):
        found.links.set(state)
        assert found.code(lease_id="lease-1") == code
        assert found.code() == code

    meter = "/api/v1/node/leases/lease-1/meter"
    first = node.post(meter, {"destination": ALLOWED, "bytes": 700_000}).json
    assert (first["allowed"], first["bytes"]) == (True, 700_000)
    assert node.post(meter, {"destination": ALLOWED, "bytes": 9_000_000}).json["code"] == "bandwidth"
    assert node.status()["leases"] == {"active": 1, "bytes": 700_000}

    listed = found.json("lease", "list")["items"]
    assert [(item["jti"], item["state"], item["bytes"]) for item in listed] == [
        ("lease-1", "active", 700_000)
    ]
    assert "lease-1" in node.ctl("lease", "list").stdout
    shown = node.ctl("lease", "show", "lease-1").stdout
    assert "policy   web, https" in shown
    assert node.ctl("lease", "end", "lease-1").returncode == 0
    assert found.code(lease_id="lease-1") == "lease_ended"
    again = node.ctl("lease", "activate", file)
    assert again.returncode == 6
    assert "it was used before; a lease works once" in again.stderr
    ((_, _, over),) = found.audits("session_terminated")
    assert (over["reason"], over["bytes"], over["denied"]) == ("operator", 700_000, 4)
    assert [kind for kind, _, _ in found.audits("session_activated", "lease_refused")] == [
        "session_activated",
        "lease_refused",
    ]


def test_what_is_refused_says_why_and_by_its_exit_code(make: Make, tmp_path: Path) -> None:
    found = make()
    node = found.node
    other = found.sign("other", node="ed25519:" + "1" * 64)
    wrong = node.ctl("lease", "activate", other)
    assert (wrong.returncode, "it is bound to another node" in wrong.stderr) == (1, True)
    broken = tmp_path / "broken.json"
    broken.write_text(Path(found.sign("x")).read_text().replace("ses-1", "ses-2"))
    assert found.activate(str(broken)) == "bad_signature"
    broken.write_text("{}")
    assert "no signed item" in node.ctl("lease", "activate", str(broken)).stderr
    found.links.set(NO_UPSTREAM)
    away = node.ctl("lease", "activate", found.sign("y"))
    assert (away.returncode, NO_UPSTREAM in away.stderr) == (6, True)
    found.links.set(ONLINE)
    assert node.ctl("lease", "show", "nothing").returncode == 5


def test_a_revocation_holds_before_and_after(make: Make) -> None:
    found = make()
    assert found.activate(found.sign("one")) == "ok"
    revoked = found.json("lease", "revoke", found.revoke_file("one"))
    assert (revoked["ended"], revoked["known"]) == (True, False)
    assert found.lease("one")["end_reason"] == "revoked"
    assert found.node.ctl("lease", "revoke", found.revoke_file("two")).returncode == 0
    assert found.activate(found.sign("two")) == "revoked"


def test_a_lease_is_used_once_over_kill_9_and_its_bytes_are_not_given_back(make: Make) -> None:
    found = make()
    file = found.sign("lease-1")
    assert found.activate(file) == "ok"
    meter = {"destination": ALLOWED, "bytes": 900_000}
    assert found.node.post("/api/v1/node/leases/lease-1/meter", meter).json["allowed"]
    found.node.kill9()
    found.node.start()
    assert found.activate(file) == "used"
    assert found.code(session_id="ses-1") in ("allowed", "bandwidth")
    lease = found.lease("lease-1")
    assert lease["state"] == "active"
    assert lease["bytes"] >= 900_000


@needs_clock
def test_a_day_forth_and_back_lets_nothing_expired_through(make: Make) -> None:
    found = make(clock=True)
    assert found.activate(found.sign("short", "ses-1")) == "ok"
    assert found.activate(found.sign("long", "ses-2", valid_for="3d")) == "ok"
    began = found.lease("long")["elapsed_ms"]
    late = found.sign("late", "ses-3")

    found.shift(DAY)
    assert found.code(lease_id="short") == "expired"
    assert found.code(lease_id="long") == "allowed"
    assert found.activate(late) == "expired"
    found.shift(0)
    assert found.code(lease_id="short") in ("expired", "lease_ended")
    assert found.activate(late) == "expired"
    assert found.code(lease_id="long") == "allowed"
    found.shift(-DAY)
    assert found.code(lease_id="short") in ("expired", "lease_ended")
    assert found.code(lease_id="long") == "allowed"
    assert "clock is 2 d behind" in found.node.ctl("status").stdout
    # doctor gives the daemon a second and a half, which a busy machine may not keep
    found.node.wait_for(lambda: "2 d behind" in found.node.ctl("doctor", "--only", "clock").stdout)
    # durations are of the boot clock
    assert began <= found.lease("long")["elapsed_ms"] < 120_000

    found.node.stop()
    found.node.start()
    assert found.code(lease_id="short") in ("expired", "lease_ended")
    found.shift(0)
    clock = found.json("clock", "accept")
    assert clock["confirmed"] is True
    assert "behind" not in found.node.ctl("status").stdout
    assert found.code(lease_id="short") in ("expired", "lease_ended")
    assert len(list(found.audits("clock_accepted"))) == 1


@needs_clock
def test_ten_years_ahead_refuse_while_they_last(make: Make) -> None:
    found = make(clock=True)
    assert found.activate(found.sign("one")) == "ok"
    found.shift(3650 * DAY)
    assert found.code(lease_id="one") == "clock_in_doubt"
    found.shift(0)
    assert found.code(lease_id="one") == "allowed"
    found.node.kill9()
    found.node.start()
    assert found.code(lease_id="one") == "allowed"


@needs_clock
def test_a_start_in_1970_allows_nothing_new_and_nothing_old(make: Make) -> None:
    """The machine's start is played by another boot id in what the node kept."""
    found = make(clock=True)
    assert found.activate(found.sign("one")) == "ok"
    later = found.sign("two", "ses-2")
    found.node.stop()
    reboot(found)
    found.set_clock("1970-01-01 00:00:10")
    found.node.start()
    assert found.code(lease_id="one") == "clock_in_doubt"
    assert found.activate(later) == "clock_in_doubt"
    clock = found.json("clock")
    assert clock["confirmed"] is False
    assert clock["now"].startswith("20")
    assert found.node.ctl("clock", "accept").returncode == 6
    assert found.lease("one")["elapsed_ms"] >= 0
    found.shift(0)
    assert found.code(lease_id="one") == "allowed"
    assert found.activate(later) == "ok"


def reboot(found: Leased) -> None:
    """As after a start of the machine: what was kept is of another boot."""
    with closing(sqlite3.connect(found.node.state / "ambient.db")) as link:
        sql = "SELECT value FROM node_settings WHERE name = 'trusted_time'"
        ((value,),) = link.execute(sql).fetchall()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in value
        link.execute(
            "UPDATE node_settings SET value = ? WHERE name = 'trusted_time'", (value.replace(boot, "b"),)
        )
        link.execute("UPDATE session_leases SET boot_id = 'b'")
        link.commit()


def test_a_process_that_stood_still_ends_what_is_over_when_it_goes_on(make: Make) -> None:
    found = make()
    assert found.activate(found.sign("brief", max_duration="3s")) == "ok"
    assert found.code(lease_id="brief") == "allowed"
    beats = found.node.status()["heartbeat"]["cycles"]
    found.node.send_signal(signal.SIGSTOP)
    time.sleep(3.2)
    found.node.send_signal(signal.SIGCONT)
    assert found.code(lease_id="brief") in ("duration", "lease_ended")
    found.node.wait_for(lambda: found.lease("brief").get("end_reason") == "duration")
    assert found.node.status()["heartbeat"]["cycles"] - beats < 25


@needs_clock
def test_jumps_in_mid_run_change_no_interval_and_make_nothing_negative(make: Make) -> None:
    """+1 d, -1 d, +10 y and 1970 while a session runs: the beat keeps its pace, the record stays sound."""
    found = make(clock=True)
    node = found.node
    jumps = (DAY, -DAY, 3650 * DAY, 0)
    for seconds in jumps:
        session = spawn(node, "sleeper")
        found.shift(seconds)
        _keep_pace(found)
        assert wait_ended(node, session)["status"] == "success"
    session = spawn(node, "sleeper")
    found.set_clock("1970-01-01 00:00:10")
    _keep_pace(found)
    wait_ended(node, session)
    path = f"file:{node.state}/ambient.db?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as link:
        rows = link.execute("SELECT runtime_ms, started_at, ended_at FROM session_ledger").fetchall()
    assert len(rows) == len(jumps) + 1
    assert all(0 <= runtime < 60_000 and started <= ended for runtime, started, ended in rows)
    beats = [beat["heartbeat_seq"] for beat in node.beats()]
    assert beats == sorted(set(beats))
    assert node.is_alive()


def _keep_pace(found: Leased) -> None:
    """The interval is 100 ms: some beats come within seconds, and not a day's worth."""
    before, began = found.node.status()["heartbeat"]["cycles"], time.monotonic()
    found.node.pass_cycles(5)
    passed = time.monotonic() - began
    assert found.node.status()["heartbeat"]["cycles"] - before <= 20 + 15 * passed
