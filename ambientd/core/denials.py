"""Refused traffic for the audit: the first of a kind at once, the rest as a count, so that no session can
flood the chain by being refused."""

from typing import NamedTuple

# Between two records of the same kind.
WINDOW_SEC = 900.0
# Kinds that are told apart; what is more counts under one name. Bounds the memory, and the records a window.
KINDS_MAX = 64
OTHER = "…"


class Denial(NamedTuple):
    """What was refused: to which lease, why, and where to."""

    lease: str
    code: str
    host: str


class Denied(NamedTuple):
    """One record's worth."""

    denial: Denial
    times: int


class Denials:
    """Counts what is refused. `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._kinds: dict[Denial, tuple[float, int]] = {}  # since when, and how many since the last record

    def note(self, denial: Denial, now: float) -> Denied | None:
        """The record to write for this one, None when it only counts."""
        if denial not in self._kinds and len(self._kinds) >= KINDS_MAX:
            denial = Denial(OTHER, denial.code, OTHER)
        known = self._kinds.get(denial)
        if known is None or now - known[0] >= WINDOW_SEC:
            self._kinds[denial] = (now, 0)
            return Denied(denial, 1 + (known[1] if known else 0))
        self._kinds[denial] = (known[0], known[1] + 1)
        return None

    def due(self, now: float) -> list[Denied]:
        """Counts of the kinds whose time is over; a kind without any is forgotten."""
        found = []
        for denial, (since, count) in list(self._kinds.items()):
            if now - since < WINDOW_SEC:
                continue
            if count:
                found.append(Denied(denial, count))
                self._kinds[denial] = (now, 0)
            else:
                del self._kinds[denial]
        return found

    def forget(self, lease: str) -> None:
        """A lease has ended; the record of its end has the sum."""
        for denial in [one for one in self._kinds if one.lease == lease]:
            del self._kinds[denial]

    def put_back(self, untold: Denied, now: float) -> None:
        """A record that could not be written counts again."""
        since, count = self._kinds.get(untold.denial, (now, 0))
        self._kinds[untold.denial] = (since, count + untold.times)

    @property
    def next_due(self) -> float | None:
        """When `due` has something to look at."""
        first = min((since for since, _ in self._kinds.values()), default=None)
        return None if first is None else first + WINDOW_SEC
