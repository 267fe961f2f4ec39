"""Pages that are bounded by their bytes as well as by their rows: pure, over whatever fetches rows."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")

PAGE_BYTES = 4 * 1024 * 1024  # of one answer, about
# Rows of one query. What nodes and accounts hand in may have megabytes each.
AT_ONCE = 20


def fill(
    fetch: Callable[[T | None, int], Sequence[T]], limit: int, size: Callable[[T], int]
) -> tuple[list[T], bool]:
    """Up to `limit` rows, fewer when they are large, at least one if there is any; and whether there may be
    more. `fetch(after, count)` gives the rows behind one, `size` says how large a row is.
    """
    rows: list[T] = []
    room = PAGE_BYTES
    while len(rows) < limit:
        count = min(AT_ONCE, limit - len(rows))
        found = fetch(rows[-1] if rows else None, count)
        for row in found:
            room -= size(row)
            if rows and room < 0:
                return rows, True
            rows.append(row)
        if len(found) < count:
            return rows, False
    return rows, True


def size_of(*values: object) -> int:
    """About how long values are in an answer."""
    return sum(len(value) if isinstance(value, str) else len(msgspec.json.encode(value)) for value in values)
