"""How peers look: cells that the lists of `peers` and `sync` share. All of their words are foreign text."""

from collections.abc import Callable

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Item, Screen
from ambientctl.text import age, inert, instant

KEY_SHOWN = 16  # `ed25519:` and eight digits
NAME_SHOWN = 64


def name_of(item: Item, screen: Screen) -> str:
    """What the operator calls it, else what it calls itself, in quotes: anybody may call himself anything."""
    called = inert(wire.text(item, "called"))
    if called:
        return called
    own = inert(wire.text(item, "name")[:NAME_SHOWN])
    return f'"{own}"' if own else "-"


def key_cell(item: Item, screen: Screen) -> str:
    """The key, whole where there is room."""
    key = inert(wire.text(item, "key"))
    return key if screen.wide else key[:KEY_SHOWN] + screen.glyph("…", "..")


def since(key: str) -> Callable[[Item, Screen], str]:
    """The age of the time at `key`: `12s`, or `never`."""

    def show(item: Item, screen: Screen) -> str:
        at = instant(wire.text(item, key))
        return "never" if at is None else age(screen.now - at)

    return show


def agreement(item: Document, _: Screen) -> str:
    """Whether a peer holds the same policies."""
    agrees = item.get("agrees")
    return "unknown" if not isinstance(agrees, bool) else "yes" if agrees else "no"
