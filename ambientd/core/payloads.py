"""Foreign values made fit to store: bounded, and always valid JSON text (FAULTS B, row 9)."""

import math
from itertools import islice
from typing import Any

STRING_LIMIT = 64 * 1024  # bytes of one string as UTF-8
KEY_LIMIT = 1024
DEPTH_LIMIT = 16
ITEMS_LIMIT = 1000  # members of one object or array
NODES_LIMIT = 20_000  # values in all: 256 KiB of `[[],[],…` must not become a tree of 100,000
CUT = "…"
INT_MAX = 2**63 - 1


def clean_text(text: str, limit: int = STRING_LIMIT) -> str:
    """The text without lone surrogates, cut to `limit` bytes of UTF-8 with a mark when it was longer."""
    if text.isascii():
        return text if len(text) <= limit else text[: limit - len(CUT.encode())] + CUT
    data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(CUT.encode())].decode(errors="ignore") + CUT


def clean_value(value: Any) -> Any:
    """A JSON value within the bounds above.

    What is too deep or too much becomes the mark `…`; numbers that are not finite become null; integers
    past 63 bits become strings, since no reader down the line keeps them whole.
    """
    return _Cleaner().clean(value, 0)


class _Cleaner:
    def __init__(self) -> None:
        self._left = NODES_LIMIT

    def clean(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            return CUT
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, (dict, list)):
            return self._container(value, depth + 1)
        return _number(value)

    def _container(self, value: dict[Any, Any] | list[Any], depth: int) -> Any:
        if depth > DEPTH_LIMIT:
            return CUT
        more = len(value) > ITEMS_LIMIT
        if isinstance(value, list):
            items = [self.clean(item, depth) for item in islice(value, ITEMS_LIMIT)]
            return [*items, CUT] if more else items
        members = {
            clean_text(str(key), KEY_LIMIT): self.clean(item, depth)
            for key, item in islice(value.items(), ITEMS_LIMIT)
        }
        return members | {CUT: CUT} if more else members


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -INT_MAX - 1 <= value <= INT_MAX:
        return clean_text(hex(value))
    return value
