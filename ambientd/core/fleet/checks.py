"""Small checks of what comes from outside; each problem names its field."""

import math

from ambientd.wire.messages import ErrorDetail


def _plain(number: float) -> str:
    """As people write it: 2592000, not 2.592e+06."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


class Problems:
    """Gathers what is wrong with a request."""

    def __init__(self) -> None:
        """Nothing is wrong yet."""
        self._found: list[ErrorDetail] = []

    def add(self, field: str, issue: str, message: str, expected: str | None = None) -> None:
        """Notes a problem."""
        self._found.append(ErrorDetail(field, issue, message, expected))

    def between(self, field: str, value: float, low: float, high: float) -> None:
        """A finite number within a range."""
        if not math.isfinite(value) or not low <= value <= high:
            expected = f"a number from {_plain(low)} to {_plain(high)}"
            self.add(field, "range", f"must be {expected}", expected)

    def sized(self, field: str, value: str, low: int, high: int) -> None:
        """A text of so many bytes in UTF-8."""
        if not low <= len(value.encode(errors="replace")) <= high:
            expected = f"{low} to {high} bytes"
            self.add(field, "length", f"must have {expected}", expected)

    def one_of(self, field: str, value: str, words: "tuple[str, ...]") -> None:
        """A word of a list."""
        if value not in words:
            expected = "one of " + ", ".join(words)
            self.add(field, "enum", f"must be {expected}", expected)

    def details(self) -> tuple[ErrorDetail, ...]:
        """All problems by field, so that equal requests get equal answers."""
        return tuple(sorted(self._found, key=lambda detail: detail.field))
