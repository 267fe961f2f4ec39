"""Problems of one envelope, collected in the order in which fields are looked at."""

from ambientd.wire.messages import ErrorDetail

# A body of 1 MiB can hold 100,000 wrong fields; nobody reads past the first hundred.
MAX_PROBLEMS = 100
NAME_SHOWN = 64


class Found:
    """Collects problems; past the bound it only counts."""

    def __init__(self) -> None:
        """Nothing is wrong yet."""
        self._details: list[ErrorDetail] = []
        self._more = 0

    def add(self, field: str, issue: str, message: str, expected: str | None = None) -> None:
        """One problem; `field` is the sender's own path."""
        if len(self._details) < MAX_PROBLEMS:
            self._details.append(ErrorDetail(field=field, issue=issue, message=message, expected=expected))
        else:
            self._more += 1

    def required(self, field: str, expected: str) -> None:
        """A field that must be there is not."""
        self.add(field, "required", "is required", expected)

    def wrong_type(self, field: str, expected: str) -> None:
        """A field has another JSON type than it must have."""
        self.add(field, "type", f"must be {article(expected)}", expected)

    @property
    def details(self) -> tuple[ErrorDetail, ...]:
        """Everything found, with a last line that tells of what is not listed."""
        if not self._more:
            return tuple(self._details)
        text = f"has {self._more} more problems than are listed"
        return (*self._details, ErrorDetail(field="payload", issue="range", message=text))

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        return bool(self._details)


def article(noun: str) -> str:
    """`an object`, `a string`."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def shown(name: object) -> str:
    """A foreign field name that is safe in a refusal: ASCII, one line, bounded."""
    text = name if isinstance(name, str) else type(name).__name__
    if not (text.isascii() and text.isprintable()):
        text = text[: NAME_SHOWN + 1].encode("ascii", "backslashreplace").decode()
        text = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
    return text if len(text) <= NAME_SHOWN else text[: NAME_SHOWN - 3] + "..."
