"""How one setting is described; the schema is made of these."""

from dataclasses import field
from typing import Any

# Field kinds tell the parser how a TOML value becomes the Python value.
DURATION = "duration"  # "90s", "5m", "1h30m" -> seconds as float
SIZE = "size"  # "64KiB", "10MB" or an integer number of bytes -> int
PRICES = "prices"  # tables of `ModelPrices` by version and model


def setting(
    default: Any = ...,
    *,
    doc: str,
    kind: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str | None = None,
    example: str | None = None,
) -> Any:
    """A dataclass field with its documentation. A default of `...` makes it required."""
    metadata = {
        "doc": doc,
        "kind": kind,
        "minimum": minimum,
        "maximum": maximum,
        "pattern": pattern,
        "example": example,
    }
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
