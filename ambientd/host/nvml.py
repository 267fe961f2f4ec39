"""Power of NVIDIA's cards through NVML, where there is such a card and the extra `gpu` is installed."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ambientd.core.power import Metered, MeterKind
from ambientd.host.power_meters import is_plausible

SOURCE = "nvml"
DEVICE = "nvidiactl"
_CARDS_MAX = 64


def load_nvml() -> Any:
    """The library's binding. Raises ImportError."""
    return import_module("pynvml")


class Nvml:
    """Nothing is loaded before there is a device."""

    def __init__(self, dev: Path = Path("/dev"), load: Callable[[], Any] = load_nvml) -> None:
        """`dev` is the folder of devices."""
        self._device = dev / DEVICE
        self._load = load
        self._library: Any = None
        self._cards: list[Any] = []
        self._before: dict[int, int] = {}

    def read(self, seconds: float | None) -> list[Metered]:
        """All cards together; the mean over `seconds` where the cards count their energy, else of now."""
        if not self._device.exists():
            return []
        try:
            library = self._open()
        except ImportError:
            return [_problem("the extra `gpu` is not installed")]
        try:
            watts = sum(self._watts(library, number, seconds) for number in range(len(self._cards)))
        except library.NVMLError as error:
            self._library = None  # the driver may have been reloaded
            return [_problem(str(error))]
        if not self._cards or not is_plausible(watts):
            return []
        return [Metered(MeterKind.GPU, SOURCE, watts)]

    def _open(self) -> Any:
        if self._library is None:
            library = self._load()
            try:
                library.nvmlInit()
                count = min(library.nvmlDeviceGetCount(), _CARDS_MAX)
                self._cards = [library.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
            except library.NVMLError:
                self._cards = []
                return library
            self._before.clear()
            self._library = library
        return self._library

    def _watts(self, library: Any, number: int, seconds: float | None) -> float:
        card = self._cards[number]
        try:
            joules = int(library.nvmlDeviceGetTotalEnergyConsumption(card))
        except library.NVMLError:  # older than Volta
            return int(library.nvmlDeviceGetPowerUsage(card)) / 1000
        before, self._before[number] = self._before.get(number), joules
        if before is None or not seconds or joules < before:
            return int(library.nvmlDeviceGetPowerUsage(card)) / 1000
        return (joules - before) / 1000 / seconds


def _problem(text: str) -> Metered:
    return Metered(MeterKind.GPU, SOURCE, problem=f"{SOURCE}: {text}")
