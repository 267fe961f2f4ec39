"""Where peers are, and what must hold for the settings of `[peers]`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ambientd.config.checks import Finding
from ambientd.config.problems import show_text

# Each is dialled by a task of its own, and linked to all the others.
STATIC_MAX = 256
# A name, an IPv4 address, or an IPv6 address in brackets, perhaps with the interface that it is at.
_PLACE = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?\])"
    r":([0-9]{1,5})"
)
_KEY = re.compile(r"ed25519:[0-9a-f]{64}")
_LISTEN = 'an address and a port ("0.0.0.0:7946", "[::]:7946")'
_STATIC = 'host:port ("192.168.1.13:7946", "[fe80::1%eth0]:7946")'
_TRUST = "`ed25519:` and 64 hexadecimal digits, as `ambientctl peers` shows it"


class PeerAddress(NamedTuple):
    """Where a node may listen; says nothing about who answers there. `host` is without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_peer(text: str) -> PeerAddress | None:
    """`host:port`, an IPv6 address in brackets; None for anything else."""
    found = _PLACE.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65536:
        return None
    return PeerAddress(found[1].strip("[]"), int(found[2]))


def check_peers(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings about the given settings; those that were refused already are absent."""
    listen = values.get("listen")
    if listen is not None:
        from ambientd.config.http import parse_listen

        if parse_listen(listen) is None:
            yield _wrong("listen", listen, _LISTEN)
    static = values.get("static") or ()
    for text in static:
        if parse_peer(text) is None:
            yield _wrong("static", text, _STATIC)
    if len(static) > STATIC_MAX:
        most = f"at most {STATIC_MAX} addresses"
        yield Finding("static", f"has {len(static)}, but must be {most}", expected=most)
    for text in values.get("trust") or ():
        if _KEY.fullmatch(text) is None:
            yield _wrong("trust", text, _TRUST)


def _wrong(name: str, text: str, expected: str) -> Finding:
    shown = show_text(text)
    return Finding(name, f"has {shown}, but must be {expected}", value=shown, expected=expected)
