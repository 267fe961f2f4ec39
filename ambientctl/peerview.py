"""How peers look: cells that the lists of `peers` and `sync` share. All of their words are foreign text."""

from collections.abc import Callable
from typing import Any

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Item, Screen
from ambientctl.text import age, inert, instant

KEY_SHOWN = 16  # `ed25519:` and eight digits
NAME_SHOWN = 64


def camel(value: Any) -> Any:
    """The keys of a document in the spelling of this program's JSON; codes of refusals stay as they are."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if isinstance(value, dict):
        return {
            _camel(key): item if key == "refused" and _is_count(item) else camel(item)
            for key, item in value.items()
        }
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, dict)


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(part.capitalize() for part in rest)


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
