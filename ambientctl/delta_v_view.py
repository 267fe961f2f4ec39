"""Δv for people: its lines, its inputs and parameters, its history with a small chart."""

from collections.abc import Iterator
from math import isfinite

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Cell, Column, Item, Screen
from ambientctl.text import clock_time, count, duration, inert, short_id
from ambientctl.usageview import bar

_COLORS = {"high": "green", "medium": "yellow", "low": "yellow"}
_MODEL_HINT = "P is an estimate: set delta_v.idle_power and delta_v.core_power to what this machine draws."


def figure(value: float | None) -> str:
    """Three digits, however large or small: `3.42`, `97.2k`, `9.18e305`; `-` when unknown."""
    if value is None:
        return "-"
    size = abs(value)
    if size == 0 or not isfinite(value):
        return f"{value:g}"
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M"), (1e12, "G")):
        if 1e-2 <= size < limit * 0.9995:
            return f"{value / (limit / 1e3):#.3g}".rstrip(".") + unit
    return f"{value:.2e}".replace("e+", "e")


def _number(key: str) -> "Column":
    titles = {
        "value": "SUM",
        "perHour": "PER HOUR",
        "watts": "WATTS",
        "load": "W",
        "velocity": "V",
        "inertia": "M",
    }
    return Column(titles[key], key, lambda item, _: figure(wire.number(item, key)), right=True)


def _when(key: str) -> "Column":
    return Column(
        "AT" if key == "at" else "SINCE",
        key,
        lambda item, screen: clock_time(wire.text(item, key), screen.now),
    )


def _source(item: Item, _: Screen) -> str:
    return inert(wire.text(item, "source")) or "-"


def _confidence(item: Item, _: Screen) -> Cell:
    word = inert(wire.text(item, "confidence")) or "-"
    return Cell(word, _COLORS.get(word, ""))


_SOURCE = Column("SOURCE", "source", _source)
_CONFIDENCE = Column("CONFIDENCE", "confidence", _confidence)


def history_columns(items: list[Document], *, charted: bool) -> list[Column]:
    """A line for each piece of the window; with bars of their rates for a person."""
    most = max((wire.number(item, "perHour") or 0.0 for item in items), default=0.0)

    def chart(item: Item, screen: Screen) -> Cell:
        rate = wire.number(item, "perHour") or 0.0
        return Cell(bar(rate / most if most else 0.0, screen), "cyan")

    def seconds(item: Item, _: Screen) -> str:
        return duration(wire.number(item, "seconds") or 0.0)

    return [
        _when("at"),
        Column("TIME", "seconds", seconds, right=True),
        _number("value"),
        _number("perHour"),
        *([Column("BY RATE", "perHour", chart)] if charted else []),
        _number("watts"),
        _number("load"),
        _number("velocity"),
        _number("inertia"),
        Column("SOURCE", "source", _source, only_wide=True),
        Column("CONFIDENCE", "confidence", _confidence, only_wide=True),
    ]


def _with_unit(item: Item, _: Screen) -> str:
    unit = inert(wire.text(item, "unit"))
    return f"{figure(wire.number(item, 'value'))}{f' {unit}' if unit else ''}"


def _input_name(item: Item, _: Screen) -> str:
    return f"{inert(wire.text(item, 'symbol'))} {inert(wire.text(item, 'name'))}"


INPUT_COLUMNS = (
    Column("INPUT", "symbol", _input_name),
    Column("VALUE", "value", _with_unit, right=True),
    _SOURCE,
    _CONFIDENCE,
    Column("WHY NO BETTER", "reason", lambda item, _: inert(wire.text(item, "reason"))),
)


def _safe(item: Item, _: Screen) -> str:
    least, most = wire.number(item, "minimum"), wire.number(item, "maximum")
    return f"{least:g} to {most:g}" if least is not None and most is not None else "-"


PARAMETER_COLUMNS = (
    Column("PARAMETER", "name", lambda item, _: inert(wire.text(item, "name"))),
    Column("VALUE", "value", _with_unit, right=True),
    Column("SAFE", "minimum", _safe),
    Column("MEANING", "meaning", lambda item, _: inert(wire.text(item, "meaning"))),
)


def _session(item: Item, screen: Screen) -> str:
    whole = wire.text(item, "sessionId")
    return inert(whole) if screen.wide else short_id(whole)


SESSION_COLUMNS = (
    Column("SESSION", "sessionId", _session),
    _when("since"),
    _number("value"),
    _number("perHour"),
    Column("JOULES", "joules", lambda item, _: figure(wire.number(item, "joules")), right=True),
    Column("TIME", "seconds", lambda i, _: duration(wire.number(i, "seconds") or 0.0), right=True),
    _SOURCE,
    _CONFIDENCE,
)


def headlines(document: Document, screen: Screen) -> Iterator[str]:
    """The window, the sum since the beginning, and what there is to say about them."""
    window, name = wire.part(document, "window"), screen.glyph("Δv", "dv")
    unit, span = inert(wire.text(document, "unit")), duration(wire.number(window, "seconds") or 0.0)
    if wire.whole(window, "samples"):
        value, rate = wire.number(window, "value"), wire.number(window, "perHour")
        shown = "overflow" if value is None else f"{figure(value)} {unit}"
        yield (
            f"{name}  {shown} in {span} ({figure(rate)} per hour),"
            f" {inert(wire.text(window, 'confidence'))} confidence"
        )
    else:
        yield f"{name}  nothing was measured in this window"
    samples, since = wire.whole(document, "samples"), wire.text(document, "since")
    yield (
        f"    {figure(wire.number(document, 'value'))} {unit} since {clock_time(since, screen.now)},"
        f" {count(samples)} sample{'' if samples == 1 else 's'}{_left_out(document)}"
    )
    yield f"    mapping {inert(wire.text(document, 'mapping'))}, a sample every {_interval(document)}"
    reason = wire.text(document, "reason")
    if reason:
        yield f"    counts from {clock_time(since, screen.now)} on: {inert(reason)}"
    if wire.text(document, "status") == "overflow":
        yield "    Samples were too large to be added: the sum is a lower bound."


def _interval(document: Document) -> str:
    return f"{wire.number(document, 'intervalSec') or 0:g}s"


def _left_out(document: Document) -> str:
    refused = wire.part(document, "refused")
    told = [
        (wire.whole(refused, "notFinite"), "not finite"),
        (wire.whole(refused, "overflow"), "too large"),
        (wire.whole(document, "clamped"), "clamped"),
        (wire.whole(document, "corrected"), "corrected"),
    ]
    found = "".join(f", {count(number)} {word}" for number, word in told if number)
    gap = wire.number(document, "gapSec") or 0.0
    return found + (f", {duration(gap)} not looked at" if gap >= 1 else "")


def advice(document: Document) -> str | None:
    """What would make the figures better."""
    power = next((item for item in wire.rows(document, "inputs") if item.get("symbol") == "P"), {})
    return _MODEL_HINT if wire.text(power, "source").startswith("model:") else None
