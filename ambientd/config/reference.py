"""Every setting in one list, for `config init`, `--help` and the README."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ambientd.config.duration import format_duration, format_size
from ambientd.config.fields import Setting, Shape, every_section, spell_number
from ambientd.config.pricing import spell_versions
from ambientd.config.problems import show_key, show_path, show_text


class ReferenceRow(NamedTuple):
    """One setting in words. `default` is TOML, "required", or "unset"; `allowed` is "" without bounds."""

    key: str
    kind: str
    default: str
    allowed: str
    doc: str


def reference_rows() -> list[ReferenceRow]:
    """All settings in the order of the schema; agents' under `agents.<id>`."""
    return list(_rows())


def _rows() -> Iterator[ReferenceRow]:
    for section in every_section():
        prefix = f"{section.name}.<id>" if section.keyed else section.name
        for setting in section.settings.values():
            kind = "choice" if setting.shape is Shape.CHOICE else setting.shape.value
            yield ReferenceRow(
                f"{prefix}.{setting.name}", kind, _default(setting), setting.range, setting.doc
            )


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "unset" if setting.default is None else spell(setting, setting.default)


def markdown_table() -> str:
    """The README's table: one line per setting, ending in a newline."""
    lines = ["| setting | kind | default | allowed | meaning |", "|---|---|---|---|---|"]
    for row in reference_rows():
        default = row.default if row.default in {"required", "unset"} else f"`{row.default}`"
        allowed = f"`{row.allowed}`" if row.allowed and row.kind == Shape.TEXT.value else row.allowed
        cells = (f"`{row.key}`", row.kind, default, allowed, row.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def spell(setting: Setting, value: Any) -> str:
    """A typed value of `setting` as TOML."""
    match setting.shape:
        case Shape.DURATION:
            return f'"{format_duration(value)}"'
        case Shape.SIZE:
            return f'"{format_size(value)}"'
        case Shape.FLAG:
            return "true" if value else "false"
        case Shape.INTEGER | Shape.NUMBER:
            return str(value) if isinstance(value, int) else spell_number(value)
        case Shape.LIST:
            return "[" + ", ".join(_string(item) for item in value) + "]"
        case Shape.TABLE:
            return "{" + ", ".join(f"{show_key(key)} = {_string(item)}" for key, item in value.items()) + "}"
        case Shape.PRICES:
            return (
                "{" + ", ".join(f"{show_path(path)} = {price}" for path, price in spell_versions(value)) + "}"
            )
        case Shape.TEXT | Shape.CHOICE:
            return _string(value)


def _string(text: str) -> str:
    return show_text(text, len(text))
