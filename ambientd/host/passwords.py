"""`ports.fleet.passwords` with libsodium's argon2id."""

from functools import cache

import trio

from ambientd.ports.errors import UnavailableError

AT_ONCE = 1  # each takes 64 MiB and a core
WAITING_MAX = 32  # about three seconds of work; more is an attack or overload
_NOBODY = "a password that nobody has"


class Argon2Passwords:
    """Hashes with libsodium's interactive parameters (64 MiB, 2 passes)."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    async def hash(self, password: str) -> str:
        """See the port."""
        self._need_room()
        return await trio.to_thread.run_sync(_hash, password, limiter=self._limiter)

    async def matches(self, password: str, stored: str | None) -> bool:
        """See the port."""
        self._need_room()
        return await trio.to_thread.run_sync(_matches, password, stored, limiter=self._limiter)

    def _need_room(self) -> None:
        if self._limiter.statistics().tasks_waiting >= WAITING_MAX:
            raise UnavailableError("too many passwords are being checked; try again shortly")


def _hash(password: str) -> str:
    from nacl import pwhash

    return pwhash.argon2id.str(
        password.encode(),
        opslimit=pwhash.argon2id.OPSLIMIT_INTERACTIVE,
        memlimit=pwhash.argon2id.MEMLIMIT_INTERACTIVE,
    ).decode()


def _matches(password: str, stored: str | None) -> bool:
    from nacl import exceptions, pwhash

    try:
        found = pwhash.verify((stored or _of_nobody()).encode(), password.encode())
    except exceptions.InvalidkeyError:
        return False
    return found and stored is not None


@cache
def _of_nobody() -> str:
    return _hash(_NOBODY)
