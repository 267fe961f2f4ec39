"""The commented default configuration that `config init` writes."""

from ambientd.config.fields import Section, Setting, Shape, every_section
from ambientd.config.reference import spell
from ambientd.config.values import Refused, convert, from_text

_INTRODUCTION = """\
# Configuration of ambientd. Every setting below is commented out and shows its default, or an example
# where there is none: remove the "#" in front of a setting (and of its [section]) to change it.
#
# Files in conf.d/*.toml beside this one are read after it, in the order of their names; then variables
# such as AMBIENT__DISPATCHER__INTERVAL; then flags. Later ones win, key by key.
# Durations have a unit ("90s", "5m", "1h30m", "90d"), sizes may have one ("64KiB", "10MB").
# Check with `ambientd check-config`; see what is in effect with `ambientd config show --origin`.
"""
_EXAMPLE_ID = "example"


def default_file() -> str:
    """The file. Lines beginning with "#" and no blank after it are TOML; without that "#" they parse."""
    return "\n".join([_INTRODUCTION, *map(_section, every_section())])


def _section(section: Section) -> str:
    header = f"{section.name}.{_EXAMPLE_ID}" if section.keyed else section.name
    lines = [f"# {section.doc}", f"#[{header}]"]
    for setting in section.settings.values():
        lines += _setting(setting)
    return "\n".join(lines) + "\n"


def _setting(setting: Setting) -> list[str]:
    bounds = f" ({setting.range})" if setting.range and setting.choices is None else ""
    lines = ["", f"# {setting.doc}{bounds}"]
    if setting.required:
        lines[-1] += " Required."
    elif setting.default is None:
        lines[-1] += " Unset by default."
    return [*lines, f"#{setting.name} = {_shown(setting)}"]


def _shown(setting: Setting) -> str:
    if setting.shape is Shape.PRICES and setting.example is not None:  # `current` must name one of them
        return setting.example
    if setting.default is not None:
        return spell(setting, setting.default)
    value = convert(setting, from_text(setting, setting.example or ""))
    return '""' if isinstance(value, Refused) else spell(setting, value)
