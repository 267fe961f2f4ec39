"""Keeps out of the daemon's process what its libraries import and an idle node never uses.

trio imports TLS, structlog imports asyncio, both for callers of theirs that do not exist here. Nothing else
knows of this: a module that was put off is imported by whoever first takes something from it.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

# Each was measured: OpenSSL, the event loop, the compressors, the tables of Unicode's host names.
PUT_OFF = ("asyncio", "idna", "shutil", "ssl")
# OpenSSL again, for digests that the interpreter has itself. Its own ones are slower on large data (240
# instead of 1,270 MiB/s), which a backup can bear, and cost nothing else.
_DIGESTS = "_hashlib"
# Nothing here depends on it; where it happens to be installed msgspec would load it.
_EXTRAS = "typing_extensions"


class _Later(ModuleType):
    """Stands for a module until something is taken from it."""

    def __getattr__(self, name: str) -> Any:
        # Python's own `inspect` asks every loaded module for its file: that is no use of it.
        if name == "__file__":
            raise AttributeError(name)
        # Two threads may come at once: the import system's lock lets one of them do it.
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Inside, an import of these fails, unless they are loaded; for libraries that can do without."""
    blocked: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(blocked)
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def keep_lean(put_off: Sequence[str] = PUT_OFF) -> None:
    """For the first line of a process that stays; before trio, msgspec and structlog are imported."""
    for name in put_off:
        if name not in sys.modules:
            sys.modules[name] = _Later(name)
    with without(_DIGESTS, _EXTRAS):
        for name in ("hashlib", "hmac", "msgspec"):
            import_module(name)
