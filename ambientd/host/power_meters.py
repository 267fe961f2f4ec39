"""Power meters that the kernel shows as files: RAPL counters, hwmon sensors, batteries."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ambientd.core.power import Metered, MeterKind

READ_MAX = 4096
# What no node draws: a reading beyond it is a broken sensor's.
WATTS_MAX = 100_000.0
# A counter is believed while a machine of this power could not have wrapped it round twice.
WRAP_WATTS = 500.0
NO_ACCESS = "RAPL needs read access to energy_uj"
_HWMON_KINDS = {
    "power_meter": MeterKind.WHOLE,  # ACPI: the machine's inlet
    "amdgpu": MeterKind.GPU,
    "radeon": MeterKind.GPU,
    "nouveau": MeterKind.GPU,
    "i915": MeterKind.GPU,
    "xe": MeterKind.GPU,
}
_SENSORS_MAX = 64

Problem = Callable[[str], None]


def read_text(path: Path) -> str:
    """A small file of the kernel's, without blanks around it. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return (file.read(READ_MAX) or b"").decode("utf-8", "replace").strip()


def read_number(path: Path) -> int | None:
    """A whole number in a file; None when it is not there or no number. Raises PermissionError."""
    try:
        return int(read_text(path))
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None


def folders(place: Path, pattern: str) -> list[Path]:
    """Folders by name, at most `_SENSORS_MAX`; none when there is no such place."""
    try:
        return sorted(place.glob(pattern))[:_SENSORS_MAX]
    except OSError:
        return []


def is_plausible(watts: float) -> bool:
    """Whether a machine can draw this."""
    return 0.0 <= watts <= WATTS_MAX


class Rapl:
    """Energy counters of the processor below `class/powercap`; each reading is the mean since the one before.

    `psys` is the whole platform where the firmware counts it; else packages and their memory count.
    """

    def __init__(self, sys: Path) -> None:
        self._place = sys / "class" / "powercap"
        self._before: dict[str, int] = {}

    def read(self, seconds: float | None) -> list[Metered]:
        """What was drawn within `seconds`, the time since the reading before; None at the first."""
        zones = list(self._zones())
        found = []
        for kind, names, source in (
            (MeterKind.WHOLE, ("psys",), "rapl:psys"),
            (MeterKind.CPU, ("package", "dram"), "rapl:package"),
        ):
            group = [zone for zone, name in zones if name in names]
            if group:
                with_memory = "+dram" if any(name == "dram" for _, name in zones) and "dram" in names else ""
                found.append(self._sum(kind, source + with_memory, group, seconds))
        return found

    def _zones(self) -> Iterator[tuple[Path, str]]:
        """Zones that count, with the first word of their names. `mmio` would count the packages twice."""
        for zone in folders(self._place, "intel-rapl:*"):
            try:
                name = read_text(zone / "name").partition("-")[0]
            except OSError:
                continue
            if name in ("psys", "package", "dram"):
                yield zone, name

    def _sum(self, kind: MeterKind, source: str, zones: list[Path], seconds: float | None) -> Metered:
        try:
            used = [self._used(zone, seconds) for zone in zones]  # all, so that each is known the next time
        except PermissionError:
            return Metered(kind, source, problem=NO_ACCESS)
        for why in used:
            if isinstance(why, str):
                return Metered(kind, source, problem=f"{source}: {why}" if why else None)
        if not seconds:
            return Metered(kind, source)
        joules = sum(one for one in used if not isinstance(one, str))
        watts = joules / seconds
        if not is_plausible(watts):
            return Metered(kind, source, problem=f"{source}: says {watts:.0f} W, which cannot be")
        return Metered(kind, source, watts)

    def _used(self, zone: Path, seconds: float | None) -> float | str:
        """Joules since the reading before; why they are not known, "" for the first time."""
        now, most = read_number(zone / "energy_uj"), read_number(zone / "max_energy_range_uj")
        if now is None:
            self._before.pop(zone.name, None)
            return "energy_uj cannot be read"
        before, self._before[zone.name] = self._before.get(zone.name), now
        if before is None or seconds is None:
            return ""
        if now >= before and not most:
            return (now - before) / 1e6
        if not most or most / 1e6 < seconds * WRAP_WATTS:
            return f"{seconds:.0f} s are too long between readings; the counter may have wrapped twice"
        return (now - before if now >= before else now + most - before) / 1e6


def read_hwmon(sys: Path) -> list[Metered]:
    """Sensors of power in microwatts below `class/hwmon`: a mean where the chip makes one."""
    found = []
    for chip in folders(sys / "class" / "hwmon", "hwmon*"):
        try:
            name = read_text(chip / "name")
        except OSError:
            continue
        source = f"hwmon:{name if name.isascii() and name.isprintable() else 'sensor'}"[:64]
        try:
            watts = _chip_watts(chip)
        except PermissionError:
            found.append(Metered(_kind(chip, name), source, problem=f"{source}: may not be read"))
            continue
        if watts is not None and is_plausible(watts):
            found.append(Metered(_kind(chip, name), source, watts))
    return found


def _chip_watts(chip: Path) -> float | None:
    total, seen = 0.0, False
    for sensor in folders(chip, "power[0-9]*_average") or folders(chip, "power[0-9]*_input"):
        value = read_number(sensor)
        if value is not None and value >= 0:
            total, seen = total + value / 1e6, True
    return total if seen else None


def _kind(chip: Path, name: str) -> MeterKind:
    kind = _HWMON_KINDS.get(name, MeterKind.OTHER)
    if kind is MeterKind.GPU and (chip / "in1_label").exists():
        return MeterKind.OTHER  # a processor with graphics: its power is counted with the package
    return kind


def read_batteries(sys: Path) -> list[Metered]:
    """What batteries give while they are discharged: then the whole machine lives on them."""
    watts, given = 0.0, False
    for supply in folders(sys / "class" / "power_supply", "*"):
        try:
            if read_text(supply / "type") != "Battery" or read_text(supply / "status") != "Discharging":
                continue
            if (supply / "scope").exists() and read_text(supply / "scope") == "Device":
                continue  # of a mouse
            power = _battery_watts(supply)
        except OSError:
            continue
        if power is not None and is_plausible(power):
            watts, given = watts + power, True
    return [Metered(MeterKind.WHOLE, "battery", watts)] if given else []


def _battery_watts(supply: Path) -> float | None:
    power = read_number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = read_number(supply / "current_now"), read_number(supply / "voltage_now")
    if current is None or voltage is None:
        return None
    return abs(current) * voltage / 1e12
