"""A whole machine as the kernel shows it, read twice; and the processor time of sessions."""

import threading
from pathlib import Path

import pytest
import trio

from ambientd.core.power import MeterKind
from ambientd.host import meters as module
from ambientd.host.meters import HostMeters, Roots
from ambientd.host.session_cpu import SessionCpu
from ambientd.ports.errors import UnavailableError

STAT = "cpu  {user} 0 100 5000 10 0 0 0 0 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\nintr 5\n"
SESSION = "ses_01J0000000000000000000000A"


class Machine:
    """A fake tree and a clock."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "proc", folder / "sys", folder / "dev")
        for place in self.roots:
            place.mkdir()
        self.now = 100.0
        self.meters = HostMeters(monotonic=lambda: self.now, roots=self.roots, ticks_per_sec=100)

    def say(self, **files: str) -> None:
        for name, content in files.items():
            (self.roots.proc / name).write_text(content)

    def process(
        self, pid: int, parent: int, ticks: int, *, environ: str = "", cmdline: str = "agent", waited: int = 0
    ) -> None:
        place = self.roots.proc / str(pid)
        place.mkdir(exist_ok=True)
        name = "(a ) b)"  # whatever a process calls itself
        (place / "stat").write_text(
            f"{pid} {name} S {parent} 0 0 0 -1 0 0 0 0 0 {ticks} 0 {waited} 0 20 0 1 0 5000 0 0\n"
        )
        (place / "cmdline").write_text(cmdline.replace(" ", "\0"))
        (place / "environ").write_text(environ.replace(" ", "\0"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_is_read_and_differences_are_between_two_readings(machine: Machine) -> None:
    machine.say(
        stat=STAT.format(user=1000),
        loadavg="1.50 1.20 1.00 2/300 4711\n",
        meminfo="MemTotal:  4194304 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\n",
        uptime="5000.00 9000.00\n",
    )
    first = machine.meters.take()
    assert (first.seconds, first.busy, first.busy_cores) == (None, None, None)
    assert (first.cores, first.queue, first.memory) == (2, 1.5, 3.0)
    machine.now += 60
    machine.say(stat=STAT.format(user=1000 + 9000), uptime="5060.00 9000.00\n")
    second = machine.meters.take()
    assert (second.seconds, second.busy, second.busy_cores) == (60.0, 90.0, 1.5)
    assert second.asleep == 0


def test_a_machine_that_says_nothing_is_read_all_the_same(machine: Machine) -> None:
    machine.meters.take()
    machine.now += 60
    found = machine.meters.take(["x"])
    assert (found.seconds, found.busy, found.cores, found.queue, found.memory) == (
        60.0,
        None,
        None,
        None,
        None,
    )
    assert (found.power, found.sessions) == ((), {})


@pytest.mark.parametrize(
    "content", ["", "cpu", "cpu  a b c d e f g\n", "MemTotal: x kB\nMemAvailable:\n", "-1"]
)
def test_files_of_nonsense_are_no_readings(machine: Machine, content: str) -> None:
    machine.say(stat=content, loadavg=content, meminfo=content, uptime=content)
    found = machine.meters.take()
    assert (found.busy, found.queue, found.memory) == (None, None, None)


def test_time_that_the_machine_slept_is_told(machine: Machine) -> None:
    machine.say(uptime="5000.00 1.0\n")
    machine.meters.take()
    machine.now += 60  # stands still meanwhile
    machine.say(uptime="8660.00 1.0\n")
    assert machine.meters.take().asleep == 3600.0


def test_all_meters_are_asked(machine: Machine) -> None:
    chip = machine.roots.sys / "class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("power_meter\n")
    (chip / "power1_average").write_text("42000000\n")
    zone = machine.roots.sys / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, content in (
        ("name", "package-0"),
        ("energy_uj", "0"),
        ("max_energy_range_uj", "1000000000000"),
    ):
        (zone / name).write_text(content)
    machine.meters.take()
    (zone / "energy_uj").write_text("600000000")
    machine.now += 60
    found = {meter.source: (meter.kind, meter.watts) for meter in machine.meters.take().power}
    assert found == {"hwmon:power_meter": (MeterKind.WHOLE, 42.0), "rapl:package": (MeterKind.CPU, 10.0)}


def test_this_machine_can_be_read() -> None:
    seconds = iter((0.0, 60.0))
    meters = HostMeters(monotonic=lambda: next(seconds))
    meters.take()
    found = meters.take()
    assert found.cores is not None
    assert found.cores >= 1
    assert found.memory is not None
    assert found.queue is not None


async def test_a_meter_that_hangs_is_given_up_and_only_one_thread_waits_for_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SEC", 0.05)
    free, began = threading.Event(), []

    def hang() -> float:
        began.append(1)
        free.wait(10)
        return 100.0

    meters = HostMeters(monotonic=hang, roots=machine.roots, ticks_per_sec=100)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="has not answered"):
            await meters.read(())
    assert len(began) == 1
    free.set()
    monkeypatch.setattr(module, "TIMEOUT_SEC", 10.0)
    with trio.fail_after(10):
        assert (await meters.read(())).cores is None


# --- processor time of sessions


def test_everything_below_a_shim_is_its_sessions(machine: Machine) -> None:
    cpu = SessionCpu(machine.roots.proc, 100)
    shim = f"python -I shim.py --folder /var/lib/ambient/sessions/{SESSION}/run-1"
    machine.process(10, 1, 50, cmdline=shim)
    machine.process(11, 10, 100, environ=f"PATH=/bin AMBIENT_SESSION_ID={SESSION}")
    machine.process(12, 11, 30)  # has wiped its environment
    machine.process(13, 12, 20)
    machine.process(99, 1, 7777)
    assert cpu.take([SESSION]) == {}
    machine.process(13, 12, 420)
    assert cpu.take([SESSION]) == {SESSION: 4.0}
    assert cpu.take([SESSION]) == {SESSION: 0.0}


def test_the_time_of_a_child_that_was_waited_for_is_not_lost_nor_counted_twice(machine: Machine) -> None:
    cpu = SessionCpu(machine.roots.proc, 100)
    machine.process(11, 1, 100, environ=f"AMBIENT_SESSION_ID={SESSION}")
    machine.process(12, 11, 500)
    cpu.take([SESSION])
    for name in ("stat", "cmdline", "environ"):
        (machine.roots.proc / "12" / name).unlink()
    machine.process(11, 1, 100, environ=f"AMBIENT_SESSION_ID={SESSION}", waited=600)
    assert cpu.take([SESSION]) == {SESSION: 1.0}


def test_a_session_that_began_since_counts_from_its_beginning_and_a_sum_never_falls(machine: Machine) -> None:
    cpu = SessionCpu(machine.roots.proc, 100)
    assert cpu.take([]) == {}
    machine.process(11, 1, 250, environ=f"AMBIENT_SESSION_ID={SESSION}")
    assert cpu.take([SESSION]) == {SESSION: 2.5}
    machine.process(11, 1, 50, environ=f"AMBIENT_SESSION_ID={SESSION}")
    assert cpu.take([SESSION]) == {SESSION: 0.0}


def test_sessions_that_nobody_asked_for_and_those_without_processes_are_absent(machine: Machine) -> None:
    cpu = SessionCpu(machine.roots.proc, 100)
    machine.process(11, 1, 250, environ=f"AMBIENT_SESSION_ID={SESSION}")
    cpu.take(["other"])
    assert cpu.take(["other"]) == {}


def test_a_ring_of_parents_ends(machine: Machine) -> None:
    cpu = SessionCpu(machine.roots.proc, 100)
    machine.process(11, 12, 100)
    machine.process(12, 11, 100, environ=f"AMBIENT_SESSION_ID={SESSION}")
    cpu.take([SESSION])
    assert cpu.take([SESSION]) == {SESSION: 0.0}
