"""Meters that the kernel shows as files, over trees like those of real machines."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.power import Metered, MeterKind
from ambientd.host.nvml import Nvml
from ambientd.host.power_meters import NO_ACCESS, Rapl, read_batteries, read_hwmon

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes files of a folder below `class`; returns the root to read from."""

    def write(folder: str, **files: object) -> Path:
        place = tmp_path / "class" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_text(f"{content}\n")
        return tmp_path

    return write


def zone(tree: Tree, number: str, name: str, energy: int, most: int = 262_143_328_850) -> Path:
    return tree(f"powercap/intel-rapl:{number}", name=name, energy_uj=energy, max_energy_range_uj=most)


# --- RAPL


def test_packages_and_their_memory_are_added_up_and_parts_of_packages_are_not(tree: Tree) -> None:
    for number, name in (("0", "package-0"), ("1", "package-1"), ("0:0", "core"), ("0:1", "dram")):
        zone(tree, number, name, 1_000_000)
    sys = tree("powercap/intel-rapl-mmio:0", name="package-0", energy_uj=0, max_energy_range_uj=1)
    tree("powercap/dtpm", name="other", energy_uj=5)
    rapl = Rapl(sys)
    assert rapl.read(None) == [Metered(MeterKind.CPU, "rapl:package+dram")]
    for number, name in (("0", "package-0"), ("1", "package-1"), ("0:0", "core"), ("0:1", "dram")):
        zone(tree, number, name, 1_000_000 + 60_000_000)
    assert rapl.read(60.0) == [Metered(MeterKind.CPU, "rapl:package+dram", 3.0)]


def test_the_platform_is_the_whole_machine(tree: Tree) -> None:
    zone(tree, "0", "package-0", 0)
    rapl = Rapl(zone(tree, "1", "psys", 0))
    rapl.read(None)
    zone(tree, "0", "package-0", 20_000_000)
    zone(tree, "1", "psys", 50_000_000)
    whole, package = rapl.read(10.0)
    assert (whole.kind, whole.source, whole.watts) == (MeterKind.WHOLE, "rapl:psys", 5.0)
    assert (package.kind, package.source, package.watts) == (MeterKind.CPU, "rapl:package", 2.0)


def test_a_counter_that_wraps_round_goes_on(tree: Tree) -> None:
    most = 65_532_610_987
    rapl = Rapl(zone(tree, "0", "package-0", most - 1_000_000, most))
    rapl.read(None)
    zone(tree, "0", "package-0", 59_000_000, most)
    assert rapl.read(60.0) == [Metered(MeterKind.CPU, "rapl:package", 1.0)]


def test_a_counter_that_may_have_wrapped_twice_says_nothing(tree: Tree) -> None:
    most = 65_532_610_987  # 65 kJ: 131 s of 500 W
    rapl = Rapl(zone(tree, "0", "package-0", 5, most))
    rapl.read(None)
    zone(tree, "0", "package-0", 7_000_000, most)
    (found,) = rapl.read(600.0)
    assert found.watts is None
    assert found.problem is not None
    assert "600 s are too long between readings" in found.problem
    zone(tree, "0", "package-0", 67_000_000, most)
    assert rapl.read(60.0) == [Metered(MeterKind.CPU, "rapl:package", 1.0)]


def test_what_only_root_may_read_is_told_and_nothing_is_made_of_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    rapl = Rapl(zone(tree, "0", "package-0", 5))
    real = Path.open

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert rapl.read(60.0) == [Metered(MeterKind.CPU, "rapl:package", problem=NO_ACCESS)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions_of_files_are_respected(tree: Tree) -> None:
    sys = zone(tree, "0", "package-0", 5)
    (sys / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    assert Rapl(sys).read(60.0)[0].problem == NO_ACCESS


@pytest.mark.parametrize("content", ["", "much", "-"])
def test_a_counter_of_nonsense_is_no_reading(tree: Tree, content: str) -> None:
    rapl = Rapl(tree("powercap/intel-rapl:0", name="package-0", energy_uj=content, max_energy_range_uj=9))
    (found,) = rapl.read(60.0)
    assert found.watts is None
    assert found.problem == "rapl:package: energy_uj cannot be read"


def test_a_zone_that_comes_later_counts_from_its_second_reading_on(tree: Tree) -> None:
    rapl = Rapl(zone(tree, "0", "package-0", 0))
    rapl.read(None)
    zone(tree, "0", "package-0", 10_000_000)
    zone(tree, "1", "package-1", 99_000_000)
    assert rapl.read(10.0) == [Metered(MeterKind.CPU, "rapl:package")]
    zone(tree, "0", "package-0", 20_000_000)
    zone(tree, "1", "package-1", 109_000_000)
    assert rapl.read(10.0) == [Metered(MeterKind.CPU, "rapl:package", 2.0)]


# --- hwmon


def test_a_mean_is_taken_before_a_moment(tree: Tree) -> None:
    sys = tree("hwmon/hwmon0", name="power_meter", power1_average=87_500_000, power1_input=99_000_000)
    assert read_hwmon(sys) == [Metered(MeterKind.WHOLE, "hwmon:power_meter", 87.5)]


def test_cards_and_other_chips_are_told_apart(tree: Tree) -> None:
    tree("hwmon/hwmon0", name="amdgpu", power1_average=30_000_000)
    tree("hwmon/hwmon1", name="amdgpu", power1_input=9_000_000, in1_label="vddnb")
    tree("hwmon/hwmon2", name="ina226", power1_input=4_000_000, power2_input=1_000_000)
    tree("hwmon/hwmon3", name="coretemp", temp1_input=45_000)
    sys = tree("hwmon/hwmon4", name="broken", power1_input=-5)
    assert read_hwmon(sys) == [
        Metered(MeterKind.GPU, "hwmon:amdgpu", 30.0),
        Metered(MeterKind.OTHER, "hwmon:amdgpu", 9.0),
        Metered(MeterKind.OTHER, "hwmon:ina226", 5.0),
    ]


def test_no_chip_can_say_what_no_machine_draws(tree: Tree) -> None:
    assert read_hwmon(tree("hwmon/hwmon0", name="power_meter", power1_average=2**62)) == []


# --- batteries


def battery(tree: Tree, name: str = "BAT0", **files: object) -> Path:
    return tree(f"power_supply/{name}", **{"type": "Battery", "status": "Discharging", **files})


def test_batteries_that_are_discharged_are_the_machine(tree: Tree) -> None:
    battery(tree, "BAT0", power_now=7_500_000)
    battery(tree, "BAT1", current_now=-500_000, voltage_now=12_000_000)
    battery(tree, "BAT2", power_now=9_000_000, status="Charging")
    battery(tree, "mouse", power_now=1_000_000, scope="Device")
    sys = tree("power_supply/AC", type="Mains", online=0)
    assert read_batteries(sys) == [Metered(MeterKind.WHOLE, "battery", 13.5)]


@pytest.mark.parametrize(
    "files", [{"status": "Full", "power_now": 5}, {"voltage_now": 12_000_000}, {"power_now": "?"}, {}]
)
def test_a_battery_that_gives_nothing_or_says_nothing_is_no_meter(tree: Tree, files: dict[str, Any]) -> None:
    assert read_batteries(battery(tree, **files)) == []


def test_a_machine_without_any_of_it_has_no_meter(tmp_path: Path) -> None:
    assert Rapl(tmp_path).read(60.0) == []
    assert read_hwmon(tmp_path) == []
    assert read_batteries(tmp_path) == []


# --- NVML


class FakeNvml:
    """The part of the binding that is used."""

    class NVMLError(Exception):
        """As the binding's."""

    def __init__(self, *, watts: list[int], counts: bool = True) -> None:
        self.milliwatts, self.counts = watts, counts
        self.millijoules = [0] * len(watts)
        self.broken = False
        self.opened = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the binding's name
        self.opened += 1
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - the binding's name
        return len(self.milliwatts)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802 - the binding's name
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> int:  # noqa: N802 - the binding's name
        if not self.counts or self.broken:
            raise self.NVMLError("Not Supported")
        return self.millijoules[card]

    def nvmlDeviceGetPowerUsage(self, card: int) -> int:  # noqa: N802 - the binding's name
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return self.milliwatts[card]


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    (tmp_path / "nvidiactl").touch()
    return tmp_path


def test_without_a_card_nothing_is_loaded(tmp_path: Path) -> None:
    def load() -> Any:
        raise AssertionError("it must not be loaded")

    assert Nvml(tmp_path, load).read(60.0) == []


def test_a_card_without_the_extra_is_told(dev: Path) -> None:
    def load() -> Any:
        raise ImportError

    (found,) = Nvml(dev, load).read(60.0)
    assert (found.watts, found.problem) == (None, "nvml: the extra `gpu` is not installed")


def test_energy_over_the_interval_is_taken_before_the_power_of_a_moment(dev: Path) -> None:
    library = FakeNvml(watts=[250_000, 50_000])
    nvml = Nvml(dev, lambda: library)
    assert nvml.read(None) == [Metered(MeterKind.GPU, "nvml", 300.0)]
    library.millijoules = [60 * 100_000, 60 * 20_000]
    assert nvml.read(60.0) == [Metered(MeterKind.GPU, "nvml", 120.0)]
    assert library.opened == 1


def test_an_older_card_tells_its_power_of_the_moment(dev: Path) -> None:
    library = FakeNvml(watts=[90_000], counts=False)
    nvml = Nvml(dev, lambda: library)
    assert [nvml.read(seconds)[0].watts for seconds in (None, 60.0)] == [90.0, 90.0]


def test_a_driver_that_goes_away_is_told_and_opened_again_when_it_is_back(dev: Path) -> None:
    library = FakeNvml(watts=[90_000])
    nvml = Nvml(dev, lambda: library)
    nvml.read(None)
    library.broken = True
    (found,) = nvml.read(60.0)
    assert found.problem == "nvml: GPU is lost"
    assert nvml.read(60.0) == []
    library.broken = False
    assert nvml.read(60.0) == [Metered(MeterKind.GPU, "nvml", 90.0)]
