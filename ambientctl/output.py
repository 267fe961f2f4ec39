"""Tables, JSON, JSON lines and TSV: the one way lists and documents reach standard output."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ambientctl import term
from ambientctl.clock import now, stamp
from ambientctl.status import Options
from ambientctl.text import inert

Item = dict[str, Any]

GAP = "  "
# Below this the last column says nothing any more, so a column before it gives way,
LAST_COLUMN_MIN = 10
# but never one of the first: id, name and state.
FIRST_COLUMNS = 3

_COLORS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2"}
_LOOKS = {
    "queued": ("…", ".", "dim"),
    "running": ("▶", ">", "cyan"),
    "success": ("✓", "*", "green"),
    "failed": ("✕", "x", "red"),
    "killed": ("✕", "x", "yellow"),
    "cancelled": ("○", "o", "dim"),
    "done": ("✓", "*", "green"),
    "idle": ("○", "o", "dim"),
}


class Cell(NamedTuple):
    """Text of one cell; only state words have a colour."""

    text: str
    color: str = ""


class Screen(NamedTuple):
    """What the reader's end can show; lines without an end have no `width`."""

    ascii: bool
    color: bool
    width: int | None
    wide: bool
    now: float

    def paint(self, text: str, color: str) -> str:
        """`text` in a colour, if there are colours."""
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if color and self.color else text

    def glyph(self, pretty: str, plain: str) -> str:
        """`plain` where only ASCII arrives."""
        return plain if self.ascii else pretty

    def state(self, word: str) -> Cell:
        """Glyph, word and colour of a session's or an agent's state."""
        pretty, plain, color = _LOOKS.get(word, ("?", "?", ""))
        return Cell(f"{self.glyph(pretty, plain)} {inert(word) or 'unknown'}", color)

    def line(self, text: str) -> None:
        """One line on standard output."""
        term.write(text + "\n", ascii_only=self.ascii)


class Column(NamedTuple):
    """A column of a table: `show` makes the cell for people; TSV has the raw value at `key`.

    With `least` its texts are cut to that many columns before others give way.
    """

    title: str
    key: str
    show: Callable[[Item, Screen], Cell | str]
    right: bool = False
    only_wide: bool = False
    least: int = 0


def screen_of(options: Options) -> Screen:
    """What standard output can show just now."""
    is_wide = options.output == "wide"
    return Screen(
        ascii=term.is_ascii(),
        color=term.has_color(options.color),
        width=None if is_wide else term.width(),
        wide=is_wide,
        now=now(),
    )


def emit_list(
    options: Options, schema: str, items: list[Item], columns: Sequence[Column], extra: Item
) -> None:
    """The items in the format asked for; `extra` are further keys of the JSON document."""
    if options.output == "json":
        put_json({"schema": schema, "generatedAt": stamp(), **extra, "items": items})
    elif options.output == "jsonl":
        for item in items:
            put_json(item)
    elif options.output == "tsv":
        put_tsv([column.key for column in columns], [[item.get(c.key) for c in columns] for item in items])
    elif items:
        screen = screen_of(options)
        term.write(render_table(columns, items, screen), ascii_only=screen.ascii)


def emit_document(options: Options, document: Item) -> bool:
    """Prints one document for programs; False when people are to read it."""
    if options.is_json:
        put_json(document)
    elif options.output == "tsv":
        put_tsv(["key", "value"], [[key, value] for key, value in flatten(document)])
    else:
        return False
    return True


def put_json(document: Item) -> None:
    """One JSON text on one line, always in UTF-8 whatever the locale."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate comes out as \ud800 or the like, which is its JSON escape.
    term.put(text.encode("utf-8", "backslashreplace") + b"\n")


def put_tsv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """A header and rows; tabs and line breaks inside values become spaces, absent values are empty."""
    put_tsv_rows((header, *lines))


def put_tsv_rows(lines: Sequence[Sequence[Any]]) -> None:
    """More rows, where the header has been written."""
    text = "".join("\t".join(_tsv_value(value) for value in line) + "\n" for line in lines)
    term.put(text.encode("utf-8", "replace"))


def _tsv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return inert(value)
    return json.dumps(value)


def flatten(document: Item, prefix: str = "") -> list[tuple[str, Any]]:
    """Values with dotted keys; lists stay JSON."""
    found: list[tuple[str, Any]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            found += flatten(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found


# --- tables


def columns_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int, ellipsis: str) -> str:
    """At most `width` columns; what is missing shows as the ellipsis."""
    if columns_of(text) <= width:
        return text
    room = width - len(ellipsis)
    if room <= 0:
        return ellipsis[:width]
    kept, used = [], 0
    for char in text:
        used += columns_of(char)
        if used > room:
            break
        kept.append(char)
    return "".join(kept).rstrip() + ellipsis


def render_table(columns: Sequence[Column], items: Sequence[Item], screen: Screen) -> str:
    """A header and a line per item: columns as wide as their widest entry, nothing ever wrapped.

    On a narrow screen long names are cut first, then the columns in the middle give way, then lines are cut.
    """
    used = [column for column in columns if screen.wide or not column.only_wide]
    grid = [[Cell(column.title) for column in used]]
    grid += [[_cell(column, item, screen) for column in used] for item in items]
    widths = [max(columns_of(line[place].text) for line in grid) for place in range(len(used))]
    widths = _shrunk(widths, used, screen.width)
    places = _places_kept(widths, screen.width)
    lines = [_line([(line[p], used[p], widths[p]) for p in places], screen) for line in grid]
    return "".join(line + "\n" for line in lines)


def _cell(column: Column, item: Item, screen: Screen) -> Cell:
    shown = column.show(item, screen)
    return shown if isinstance(shown, Cell) else Cell(shown)


def _shrunk(widths: list[int], columns: Sequence[Column], width: int | None) -> list[int]:
    over = 0 if width is None else sum(widths) + len(GAP) * (len(widths) - 1) - width
    found = []
    for wide, column in zip(widths, columns, strict=True):
        spare = max(0, wide - column.least) if column.least else 0
        found.append(wide - min(spare, max(0, over)))
        over -= spare
    return found


def _places_kept(widths: list[int], width: int | None) -> list[int]:
    places = list(range(len(widths)))
    if width is None:
        return places
    last = min(widths[-1], LAST_COLUMN_MIN)
    while len(places) > FIRST_COLUMNS + 1 and sum(widths[p] + len(GAP) for p in places[:-1]) + last > width:
        del places[-2]
    return places


def _line(cells: list[tuple[Cell, Column, int]], screen: Screen) -> str:
    left = screen.width if screen.width is not None else 1 << 30
    ellipsis = screen.glyph("…", "..")
    pieces: list[str] = []
    for place, (cell, column, width) in enumerate(cells):
        text = cut(cell.text, max(0, min(width, left)), ellipsis)
        pad = " " * max(0, min(width, left) - columns_of(text))
        painted = screen.paint(text, cell.color) if text else ""
        is_last = place == len(cells) - 1
        pieces.append(pad + painted if column.right else painted if is_last else painted + pad)
        left -= width + len(GAP)
    return GAP.join(pieces[: _shown(cells, screen.width)]).rstrip()


def _shown(cells: list[tuple[Cell, Column, int]], width: int | None) -> int:
    """How many cells begin before the edge."""
    if width is None:
        return len(cells)
    start, number = 0, 0
    for _, _, wide in cells:
        if start >= width:
            break
        number += 1
        start += wide + len(GAP)
    return number
