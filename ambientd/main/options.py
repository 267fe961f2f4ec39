"""The options of `run` and `dev`.

argparse and what it loads would stay for months in a process that asks it once, so a command line that is
plainly `--option value …` and `--offline` is read here; help, mistakes, abbreviations and everything else
are argparse's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ambientd.config.parse import Layer

_LEVELS = ("debug", "info", "warning", "error")
_OFFLINE = "--offline"


class Options(NamedTuple):
    """What was given; None where nothing was."""

    config: str | None = None
    state_dir: str | None = None
    socket: str | None = None
    log_level: str | None = None
    offline: bool = False

    def layers(self) -> tuple[Layer, ...]:
        """Flags that stand for settings, as the last layer."""
        if self.log_level is None:
            return ()
        return (Layer("--log-level", {"log": {"level": self.log_level}}),)


_HELP = {
    "config": ("FILE", "main configuration file"),
    "state_dir": ("DIR", "where database, feed, inbox and sessions live"),
    "socket": ("PATH", "where to listen"),
}


def parse_options(argv: Sequence[str], *, prog: str, text: str, more: str = "") -> Options | int:
    """The options, or the exit code when help or a mistake was printed."""
    plain = _plain(argv)
    return plain if plain is not None else _with_argparse(argv, prog, text, more)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain(argv: Sequence[str]) -> Options | None:
    """Only what argparse would read in the same way."""
    given: dict[str, str] = {}
    offline = False
    names = {_flag(name): name for name in Options._fields if name != "offline"}
    words = iter(argv)
    for flag in words:
        if flag == _OFFLINE:
            offline = True
            continue
        value = next(words, None)
        if flag not in names or value is None or value.startswith("-"):
            return None
        given[names[flag]] = value
    if given.get("log_level", _LEVELS[0]) not in _LEVELS:
        return None
    return Options(**given, offline=offline)


def _with_argparse(argv: Sequence[str], prog: str, text: str, more: str) -> Options | int:
    import argparse

    parser = argparse.ArgumentParser(
        prog=prog,
        description=text,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, (metavar, what) in _HELP.items():
        parser.add_argument(_flag(name), metavar=metavar, help=what)
    parser.add_argument("--log-level", choices=_LEVELS, help="over log.level")
    parser.add_argument(_OFFLINE, action="store_true", help="never call the control plane or probe targets")
    try:
        return Options(**vars(parser.parse_args(list(argv))))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
