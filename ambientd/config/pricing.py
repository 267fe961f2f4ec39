"""The price tables of `[pricing]`: from TOML values to prices, and what must hold between them."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from ambientd.config.problems import show_text, show_value
from ambientd.config.schema import ModelPrices
from ambientd.config.values import close_match, text_fault

Path = tuple[str, ...]

# Reserved: a cost that the provider itself reported (specification 9.4.1).
PROVIDER_NATIVE = "provider_native"
MODELS = "models"
PRICES = ("input", "output", "cache_read", "cache_write")
REQUIRED = ("input", "output")
# USD per million tokens. A dollar a token is a thousand times the dearest model that was ever offered.
PRICE_MAX = 1_000_000
LONGEST_NAME = 128

_NAMES = f"a printable name of at most {LONGEST_NAME} characters"
_AMOUNT = f"a number of USD per million tokens from 0 to {PRICE_MAX}"


class Price(NamedTuple):
    """One price; `path` is below `pricing.versions`: (version, "models", model, one of `PRICES`)."""

    path: Path
    value: Decimal


class PriceFinding(NamedTuple):
    """A problem below `pricing.versions`; `path` as of `Price`, perhaps shorter."""

    path: Path
    what: str
    value: str | None = None
    expected: str | None = None
    suggestion: str | None = None
    price: bool = False  # a price was given, but cannot be used


def read_versions(raw: Mapping[str, object]) -> Iterator[Price | PriceFinding]:
    """Every price in the tables, and every problem, in the order they were written."""
    for version, body in raw.items():
        fault = _version_fault(str(version))
        if fault is not None:
            yield fault
        elif not isinstance(body, Mapping):
            yield _not_a_table((str(version),), body)
        else:
            yield from _read_version(str(version), body)


def _version_fault(version: str) -> PriceFinding | None:
    if version == PROVIDER_NATIVE:
        expected = "another name: this one marks costs that a provider reported"
        return PriceFinding((version,), f"must have {expected}", expected=expected)
    if not _is_name(version):
        return PriceFinding((version,), f"must be {_NAMES}", expected=_NAMES)
    return None


def _is_name(text: str) -> bool:
    plain = bool(text.strip()) and text.isprintable() and text_fault(text) is None
    return plain and len(text) <= LONGEST_NAME


def _read_version(version: str, body: Mapping[str, object]) -> Iterator[Price | PriceFinding]:
    for name, models in body.items():
        here = (version, str(name))
        if name != MODELS:
            match = close_match(str(name), [MODELS], cutoff=0.5)
            yield PriceFinding(here, "is not a setting", expected=f"{MODELS} only", suggestion=match)
        elif not isinstance(models, Mapping):
            yield _not_a_table(here, models)
        else:
            for model, prices in models.items():
                yield from _read_model((*here, str(model)), prices)


def _read_model(path: Path, body: object) -> Iterator[Price | PriceFinding]:
    fault = _pattern_fault(path[-1])
    if fault is not None:
        yield PriceFinding(path, f"must be {fault}", expected=fault)
        return
    if not isinstance(body, Mapping):
        yield _not_a_table(path, body)
        return
    if not body:
        yield PriceFinding(path, "has no prices", expected=", ".join(PRICES))
    for name, raw in body.items():
        here = (*path, str(name))
        if name not in PRICES:
            match = close_match(str(name), PRICES, cutoff=0.5)
            yield PriceFinding(here, "is not a setting", expected=", ".join(PRICES), suggestion=match)
            continue
        price = _amount(raw)
        if price is not None:
            yield Price(here, price)
        else:
            shown = show_value(raw)
            meant = show_value(_amount_in_text(raw)) if _amount_in_text(raw) is not None else None
            what = f"is {shown}, but must be {_AMOUNT}"
            yield PriceFinding(here, what, shown, _AMOUNT, meant, price=True)


def _pattern_fault(pattern: str) -> str | None:
    """What a model's name must be when it is not; one `*` may stand at its end, after something.

    A table that prices every model alike would turn unknown models into invented costs (R3.180).
    """
    if not _is_name(pattern):
        return _NAMES
    if "*" in pattern[:-1]:
        return 'a model, or the beginning of its name with one "*" at the end'
    if pattern == "*":
        return 'more than "*": a model without a price of its own has an unknown cost, not a flat one'
    return None


def _amount(raw: object) -> Decimal | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    if not 0 <= raw <= PRICE_MAX:  # NaN is in no range
        return None
    return Decimal(repr(raw))  # the shortest decimal that reads as this float: what the file says


def _amount_in_text(raw: object) -> float | None:
    try:
        meant = float(raw.removeprefix("$")) if isinstance(raw, str) and len(raw) < 32 else None
    except ValueError:
        return None
    return meant if meant is not None and _amount(meant) is not None else None


def _not_a_table(path: Path, found: object) -> PriceFinding:
    shown = show_value(found)
    return PriceFinding(path, f"is {shown}, but must be a table", shown, "a table")


def find_missing_prices(paths: Iterator[Path]) -> Iterator[tuple[Path, Path]]:
    """For every model with some prices but not all it needs: one given path and the missing one.

    `paths` are those of `Price`, of all layers together.
    """
    given: dict[Path, dict[str, Path]] = {}
    for path in paths:
        given.setdefault(path[:3], {})[path[3]] = path
    for model, prices in given.items():
        for name in REQUIRED:
            if name not in prices:
                yield next(iter(prices.values())), (*model, name)


def check_current(current: str, versions: Mapping[str, object]) -> PriceFinding | None:
    """The finding when `pricing.current` names no table; its path is empty."""
    if current in versions:
        return None
    match = close_match(current, list(versions), cutoff=0.5)
    shown = show_text(current)
    expected = "one of the names in pricing.versions"
    what = f"is {shown}, which is not in pricing.versions"
    return PriceFinding((), what, shown, expected, show_text(match) if match else None)


def build_versions(prices: Mapping[Path, Decimal]) -> dict[str, dict[str, ModelPrices]]:
    """Version to model pattern to prices, of checked prices by the paths of `Price`."""
    gathered: dict[str, dict[str, dict[str, Decimal]]] = {}
    for (version, _, model, name), value in prices.items():
        gathered.setdefault(version, {}).setdefault(model, {})[name] = value
    return {
        version: {model: ModelPrices(**found) for model, found in models.items()}
        for version, models in gathered.items()
    }


def spell_versions(versions: Mapping[str, Mapping[str, ModelPrices]]) -> Iterator[tuple[Path, str]]:
    """Every given price by its path, spelled as TOML."""
    for version, models in versions.items():
        for model, prices in models.items():
            for name in PRICES:
                value = getattr(prices, name)
                if value is not None:
                    yield (version, MODELS, model, name), f"{value:f}"
