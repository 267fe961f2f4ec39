"""How egress policies look: columns of their list, lines about one of them and about an import."""

from collections.abc import Iterator

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Cell, Column, Screen
from ambientctl.text import age, clock_time, count, duration, inert, instant

_LOOKS = {
    "in_force": ("✓", "*", "green", "in force"),
    "not_yet_valid": ("…", ".", "dim", "not yet"),
    "expired": ("✕", "x", "red", "expired"),
    "removed": ("○", "o", "dim", "removed"),
}
_WAYS = {"control_plane": "control plane", "operator": "operator", "peer": "peer"}
DESTINATIONS_SHOWN = 3
KEY_SHOWN = 16
REFUSED_SHOWN = 20


def state_of(item: Document, screen: Screen) -> Cell:
    """Glyph, word and colour of a policy's state; a policy behind which something newer is held says so."""
    pretty, plain, color, word = _LOOKS.get(wire.text(item, "state"), ("?", "?", "", "unknown"))
    more = " +held" if item.get("held") else ""
    return Cell(f"{screen.glyph(pretty, plain)} {word}{more}", color)


def _texts(item: Document, key: str) -> list[str]:
    found = item.get(key)
    return [inert(text) for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _destinations(item: Document, screen: Screen) -> str:
    found = _texts(wire.part(item, "item"), "destinations")
    shown = found if screen.wide else found[:DESTINATIONS_SHOWN]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") or "-"


def _until(item: Document, screen: Screen) -> str:
    at = instant(wire.text(wire.part(item, "item"), "notAfter"))
    if at is None:
        return "-"
    left = at - screen.now
    return f"in {duration(left)}" if left > 0 else f"{age(-left)} ago"


def _from(item: Document) -> str:
    return _WAYS.get(wire.text(item, "way"), "unknown")


COLUMNS = (
    Column("POLICY", "policyId", lambda item, _: inert(wire.text(item, "policyId")), least=12),
    Column("STATE", "state", state_of),
    Column("REV", "revision", lambda item, _: str(wire.whole(item, "revision")), right=True),
    Column("EXPIRES", "notAfter", _until, right=True),
    Column(
        "PROTOCOLS",
        "protocols",
        lambda item, _: ",".join(_texts(wire.part(item, "item"), "protocols")) or "-",
    ),
    Column("FROM", "way", lambda item, _: _from(wire.part(item, "item"))),
    Column("ALLOWS", "destinations", _destinations),
)


def policy_lines(policy: Document, screen: Screen) -> Iterator[str]:
    """One policy for people."""
    cell = state_of(policy, screen)
    yield f"Policy     {inert(wire.text(policy, 'policyId'))}"
    yield f"State      {screen.paint(cell.text, cell.color)}"
    yield from _item_lines(wire.part(policy, "item"), screen)
    held = wire.part(policy, "held")
    if held:
        yield ""
        yield "Held       newer, and takes force when the control plane, or an import while online, says so"
        yield from _item_lines(held, screen)


def _item_lines(item: Document, screen: Screen) -> Iterator[str]:
    kind = "" if wire.text(item, "kind") == "policy" else " (a tombstone: removes all up to it)"
    yield f"Revision   {wire.whole(item, 'revision')}{kind}"
    for index, text in enumerate(_texts(item, "destinations")):
        yield ("Allows     " if index == 0 else "           ") + text
    if protocols := _texts(item, "protocols"):
        yield f"Protocols  {', '.join(protocols)}"
    if begins := wire.text(item, "notBefore"):
        yield f"Valid      from {clock_time(begins, screen.now)} to {_moment(item, 'notAfter', screen)}"
    else:
        yield f"Kept       until {_moment(item, 'notAfter', screen)}"
    yield f"Issued     {_moment(item, 'issuedAt', screen)} by {inert(wire.text(item, 'issuer'))}"
    came = f"from {_from(item)} {inert(wire.text(item, 'sender'))}"
    yield f"Came       {_moment(item, 'receivedAt', screen)} {came}"


def _moment(item: Document, key: str, screen: Screen) -> str:
    return clock_time(wire.text(item, key), screen.now)


def import_lines(answer: Document, screen: Screen) -> Iterator[str]:
    """What an import came to, the refused and the held ones named."""
    names = ("added", "replaced", "removed", "held", "kept", "refused")
    would = "Would be: " if answer.get("dryRun") is True else ""
    is_good = not wire.whole(answer, "refused") and not wire.whole(answer, "held")
    mark = screen.glyph("✓", "*") if is_good else "!"
    yield f"{mark} {would}" + " · ".join(f"{count(wire.whole(answer, name))} {name}" for name in names)
    results = wire.rows(answer, "results")
    refused = [item for item in results if wire.text(item, "outcome") == "refused"]
    for item in refused[:REFUSED_SHOWN]:
        what = inert(wire.text(item, "policyId"))
        what = f"{what} revision {wire.whole(item, 'revision')}" if what else "item"
        yield f"  {wire.text(item, 'where')}  {what}: {inert(wire.text(item, 'message'))}"
    if len(refused) > REFUSED_SHOWN:
        yield f"  and {count(len(refused) - REFUSED_SHOWN)} more; see --json"
    if wire.whole(answer, "held") and answer.get("mayChange") is not True:
        state = inert(wire.text(answer, "state"))
        yield f"  held: policies in force are not changed while the node is {state}; new ones were added"
