"""Modules stay small enough to be read in one go (HOUSE 3)."""

from statistics import median

from tests.meta.tree import PACKAGES, modules

HARD_LIMIT = 600
SOFT_MEDIAN = 200


def lines_of(*folders: str) -> dict[str, int]:
    return {str(path): len(path.read_text().splitlines()) for path in modules(*folders)}


def test_no_module_is_longer_than_the_hard_limit() -> None:
    too_long = {path: n for path, n in lines_of(*PACKAGES, "packaging", "tests").items() if n > HARD_LIMIT}
    assert too_long == {}


def test_the_typical_module_is_short() -> None:
    sizes = [n for n in lines_of(*PACKAGES).values() if n > 1]
    print(f"{len(sizes)} modules, median {median(sizes):.0f} lines, longest {max(sizes)}")
    assert median(sizes) <= SOFT_MEDIAN
