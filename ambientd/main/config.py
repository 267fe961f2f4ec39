"""`ambientd check-config` and `ambientd config show|init|set|path`."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, cast

from ambientd.config.fields import Setting, Shape, every_section
from ambientd.config.pricing import spell_versions
from ambientd.config.problems import MASK, may_be_secret, show_key, show_path
from ambientd.config.reference import spell
from ambientd.host.config_files import LoadedConfig, load
from ambientd.main import config_edit
from ambientd.main.config_print import complain, print_json, print_problems, problems_json
from ambientd.wire import exits

_WHERE = """\
Settings come from, later ones winning key by key:
  1. the main file: --config, else $AMBIENT_CONFIG, else /etc/ambient/ambient.toml for root,
     else ~/.config/ambient/ambient.toml
  2. conf.d/*.toml beside it, in the order of their names
  3. variables AMBIENT__SECTION__KEY, such as AMBIENT__DISPATCHER__INTERVAL=30s
"""

_CHECK_HELP = """\
Checks the whole configuration without starting anything, and prints every problem at once: where it
stands, what was found, what is allowed, and what was probably meant.

exit codes: 0 usable, 78 problems (on standard error, one per line)
"""

_CONFIG_HELP = """\
show    what is in effect; --origin adds where each value came from
init    writes a default file in which every setting is explained and commented out
set     changes one setting in the main file and keeps all else, comments included
path    the files that are read, in order

examples:
  ambientd config show --origin
  ambientd config init
  ambientd config set dispatcher.interval 30s
  ambientd config set agents.reviewer.command '["my-agent", "--model", "{model}"]'
"""


def run_check_config(argv: Sequence[str]) -> int:
    """The verb `check-config`; returns the exit code."""
    parser = _parser("ambientd check-config", _CHECK_HELP + "\n" + _WHERE)
    _add_common(parser)
    return _guarded(parser, argv, _check)


def run_config(argv: Sequence[str]) -> int:
    """The verb `config` with its own verbs; returns the exit code."""
    parser = _parser("ambientd config", _CONFIG_HELP + "\n" + _WHERE)
    verbs = parser.add_subparsers(title="verbs", metavar="show|init|set|path", required=True)
    show = _verb(verbs, "show", "what is in effect, secrets masked", _show)
    show.add_argument("--origin", action="store_true", help="add where each value came from")
    init = _verb(verbs, "init", "write a commented default file", config_edit.init)
    init.add_argument(
        "file", nargs="?", metavar="FILE", help='where to (default: the main file; "-": print it)'
    )
    init.add_argument("--force", action="store_true", help="replace a file that is already there")
    put = _verb(verbs, "set", "change one setting in the main file", config_edit.put)
    put.add_argument("key", metavar="KEY", help="dotted, such as log.level or agents.reviewer.timeout")
    put.add_argument("value", metavar="VALUE", help='TOML or plain text: 30s, true, \'["a", "b"]\'')
    _verb(verbs, "path", "the files that are read, in order", _path)
    return _guarded(parser, argv, lambda options: int(options.run(options)))


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def _verb(verbs: Any, name: str, text: str, run: Callable[[Any], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    _add_common(parser)
    parser.set_defaults(run=run)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="the main file, instead of the usual one")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def _guarded(parser: argparse.ArgumentParser, argv: Sequence[str], run: Callable[[Any], int]) -> int:
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return exits.DONE if not stop.code else exits.USAGE
    try:
        code = run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return exits.DONE
    except OSError as error:
        complain(f"Error: {error.strerror or error}.")
        return exits.FAILED
    return code


def _load(options: Any) -> LoadedConfig:
    return load(os.environ, os.geteuid(), config=options.config)


def _check(options: Any) -> int:
    loaded = _load(options)
    if options.json:
        print_json(
            "config-check",
            ok=not loaded.problems,
            sources=loaded.sources,
            problems=problems_json(loaded.problems),
        )
    else:
        print_problems(loaded.problems)
        if not loaded.problems:
            print(f"Configuration is valid: {_sources(loaded)}.")
    return exits.CONFIG if loaded.problems else exits.DONE


def _sources(loaded: LoadedConfig) -> str:
    if loaded.sources:
        return ", ".join(loaded.sources)
    return f"defaults only, there is no {loaded.files[0].label}"


def _show(options: Any) -> int:
    loaded = _load(options)
    if loaded.config is None:
        if options.json:
            print_json("config", sources=loaded.sources, settings=[], problems=problems_json(loaded.problems))
        print_problems(loaded.problems)
        return exits.CONFIG
    rows = list(effective(loaded))
    if options.json:
        settings = [{"key": key, "value": value, "origin": origin} for key, value, _, origin in rows]
        print_json("config", sources=loaded.sources, settings=settings)
        return exits.DONE
    lines = [
        f"{key} = {text}" if value is not None else f"# {key} is not set" for key, value, text, _ in rows
    ]
    width = min(max(map(len, lines)), 60)
    for line, (*_, origin) in zip(lines, rows, strict=True):
        print(f"{line:<{width}}  # {origin}" if options.origin else line)
    return exits.DONE


def effective(loaded: LoadedConfig) -> list[tuple[str, Any, str, str]]:
    """Every effective setting as (key, value for JSON, value as TOML, origin), in the schema's order.

    Values of agents' variables are masked; the files that hold secrets are never opened.
    """
    rows = []
    for section in every_section():
        place = tuple(section.name.split("."))
        table: Any = reduce(getattr, place, cast("Any", loaded.config))
        members = [((*place, name), item) for name, item in table.items()] if section.keyed else None
        for path, item in members if members is not None else [(place, table)]:
            for setting in section.settings.values():
                rows += _rows((*path, setting.name), setting, getattr(item, setting.name), loaded.provenance)
    return rows


def _rows(
    path: tuple[str, ...], setting: Setting, value: Any, provenance: Mapping[str, str]
) -> list[tuple[str, Any, str, str]]:
    key = ".".join(map(show_key, path))
    if setting.shape is Shape.TABLE and value:
        names = [(name, f"{key}.{show_key(name)}") for name in value]
        return [(entry, MASK, f'"{MASK}"', provenance[entry]) for _, entry in names]
    if setting.shape is Shape.PRICES and value:
        found = [(show_path((*path, *below)), price) for below, price in spell_versions(value)]
        return [(entry, float(price), price, provenance[entry]) for entry, price in found]
    if value is None:
        return [(key, None, "", provenance[key])]
    if may_be_secret(path):
        return [(key, MASK, f'"{MASK}"', provenance[key])]
    shown: Any = spell(setting, value).strip('"') if setting.shape in {Shape.DURATION, Shape.SIZE} else value
    return [(key, shown, spell(setting, value), provenance[key])]


def _path(options: Any) -> int:
    loaded = _load(options)
    files = [
        {
            "path": file.path,
            "state": "read" if file.text is not None else "refused" if file.problem else "missing",
        }
        for file in loaded.files
    ]
    if options.json:
        print_json("config-path", files=files)
        return exits.DONE
    for file in files:
        note = "" if file["state"] == "read" else f"  ({file['state']})"
        print(f"{file['path']}{note}")
    return exits.DONE
