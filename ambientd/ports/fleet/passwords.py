"""Passwords of people: slow hashes, made and checked away from the event loop."""

from typing import Protocol


class Passwords(Protocol):
    """argon2id. Few run at once, the others wait: each takes tens of MiB."""

    async def hash(self, password: str) -> str:
        """A storable hash. Raises UnavailableError when too many wait."""

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether it is the password. Without a stored hash False, after as long as with one.

        Raises UnavailableError when too many wait.
        """


class Randomness(Protocol):
    """Unpredictable bytes."""

    def __call__(self, count: int, /) -> bytes: ...
