"""Keeps out of the daemon's process what its libraries import and an idle node never uses.

trio imports TLS, structlog imports asyncio, both for callers of theirs that do not exist here. Nothing else
knows of this: a module that was put off is imported by whoever first takes something from it.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any

# Each was measured: 0.1 to 3 MiB. A module that something uses while it is imported gains nothing here.
PUT_OFF = ("asyncio", "difflib", "idna", "locale", "shutil", "ssl", "tokenize")
# OpenSSL again, for digests that the interpreter has itself. Its own ones are slower on large data (240
# instead of 1,270 MiB/s), which a backup can bear, and cost nothing else.
_DIGESTS = "_hashlib"
# Nothing here depends on it; where it happens to be installed msgspec would load it.
_EXTRAS = "typing_extensions"
_METADATA = "importlib.metadata"
_ADDRESSES = "ipaddress"

_removing = Lock()


class _Later(ModuleType):
    """Stands for a module until something else than what it knows is taken from it."""

    def __init__(self, name: str, **known: Any) -> None:
        """`known` are names that it answers for by itself."""
        super().__init__(name)
        vars(self).update(known)
        parent, _, child = name.rpartition(".")
        if parent:  # as an import would do
            setattr(sys.modules[parent], child, self)

    def __getattr__(self, name: str) -> Any:
        # Python's own `inspect` asks every loaded module for its file: that is no use of it.
        if name == "__file__":
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    """The module itself. Threads may come at once: one of them removes the stand-in, the import system lets
    one import, and all wait for it."""
    with _removing:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]
    return import_module(name)


def _version(name: str) -> str:
    """trio-websocket asks for trio's version when it is imported. Reading packages' metadata takes a mail
    parser and 2.4 MiB; the package itself knows."""
    version = getattr(sys.modules.get(name), "__version__", None)
    return str(version if isinstance(version, str) else _real(_METADATA).version(name))


def _ip_address(address: str) -> Any:
    """trio-websocket takes this one name when it is imported, for what nobody asks of it here. 220 KiB."""
    return _real(_ADDRESSES).ip_address(address)


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
    # `from … import` asks each module for its path: that is no use of it either.
    if _METADATA not in sys.modules:
        sys.modules[_METADATA] = _Later(_METADATA, version=_version, __path__=[])
    if _ADDRESSES not in sys.modules:
        sys.modules[_ADDRESSES] = _Later(_ADDRESSES, ip_address=_ip_address, __path__=[])
    with without(_DIGESTS, _EXTRAS):
        for name in ("hashlib", "hmac", "msgspec"):
            import_module(name)


def give_memory_back() -> None:
    """Lets the kernel have what the C library keeps for the next rush. Blocks for milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries than glibc keep less
    if trim is not None:
        trim(0)
