"""Verbs that work without the daemon: this process becomes `ambientd` by exec, with the same words."""

import os
import shutil
import sys
from collections.abc import MutableMapping
from typing import NoReturn

import click

from ambientctl.cli import Verbs, write_example
from ambientctl.status import Options
from ambientctl.trouble import CommandError
from ambientd.wire import exits, places

DAEMON = "ambientd"


class _HandOver(click.Command):
    """Everything after the verb, help excepted, is for the program that takes over."""

    def __init__(self, words: tuple[str, ...], *, text: str, example: str) -> None:
        super().__init__(
            words[-1],
            help=f"{text}\n\nAll its options: {DAEMON} {' '.join(words)} --help",
            context_settings={
                "ignore_unknown_options": True,
                "allow_interspersed_args": False,
                "help_option_names": ["-h", "--help"],
            },
            params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")],
        )
        self.words = words
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, as of every verb."""
        write_example(formatter, self.example)

    def invoke(self, ctx: click.Context) -> None:
        """Does not come back."""
        options = ctx.find_object(Options) or Options()
        rest = list(ctx.params["rest"])
        if options.is_json and "--json" not in rest:
            rest.append("--json")
        become([*self.words, *rest], options)


def become(words: list[str], options: Options) -> NoReturn:
    """This process becomes `ambientd` with these words; raises CommandError when that cannot be."""
    program = find_daemon(sys.argv[0])
    if program is None:
        raise CommandError(
            exits.FAILED,
            f"Error: the program {DAEMON} is not beside this one and not on PATH.",
            "  try      the ambientctl of the environment that ambientd is installed in",
        )
    _tell_environment(os.environ, options)
    try:
        os.execv(program, [program, *words])  # noqa: S606 - no shell is the point
    except OSError as error:
        raise CommandError(
            exits.FAILED, f"Error: {program} cannot be started: {error.strerror or error}."
        ) from None


def _tell_environment(environ: MutableMapping[str, str], options: Options) -> None:
    """Global options that were given before the verb reach the other program as environment."""
    if options.socket:
        environ[places.ENV_SOCKET] = options.socket
    if options.color == "never":
        environ["NO_COLOR"] = "1"
    elif options.color == "always":
        environ.pop("NO_COLOR", None)
        environ["FORCE_COLOR"] = "1"


def find_daemon(own: str) -> str | None:
    """The program beside this one (`own` is how this was started), beside its interpreter, or on PATH."""
    for folder in (os.path.dirname(os.path.realpath(own)), os.path.dirname(sys.executable)):
        path = os.path.join(folder, DAEMON)
        if folder and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return shutil.which(DAEMON)


def hand_over(name: str, text: str, example: str) -> click.Command:
    """A verb of its own that `ambientd` does."""
    return _HandOver((name,), text=text, example=example)


def _add(group: Verbs, name: str, text: str, example: str) -> None:
    group.add_command(_HandOver((str(group.name), name), text=text, example=example))


feed = Verbs(
    "feed",
    help="The activity feed: follow it, check it, find missed beats. Needs no daemon.",
    example="ambientctl feed validate --strict",
)
_add(feed, "tail", "Show the last events of the feed; -f goes on with new ones.", "ambientctl feed tail -f")
_add(
    feed,
    "validate",
    "Check every line of the feed, or of FILE, against the event specification.",
    "ambientctl feed validate --strict --json",
)
_add(feed, "drift", "Find missed and late beats in the feed, or in FILE.", "ambientctl feed drift --json")

config = Verbs(
    "config",
    help="The configuration. Needs no daemon.",
    example="ambientctl config show",
)
_add(
    config, "show", "Effective values and where each came from; secrets are masked.", "ambientctl config show"
)
_add(config, "init", "Write a commented configuration file with every default.", "ambientctl config init")
_add(config, "set", "Set KEY to VALUE in the file.", "ambientctl config set node.name edge-07")
_add(config, "path", "Print which files are read.", "ambientctl config path")

doctor = _HandOver(
    ("doctor",),
    text="Check everything that a node needs; says what helps. Exit 10 or 11 if something does not work.",
    example="ambientctl doctor\nambientctl doctor --only gateway --json",
)

check_config = _HandOver(
    ("check-config",),
    text="Name every problem of the configuration at once; exit 78 if there is any.",
    example="ambientctl check-config --config /etc/ambient/ambient.toml",
)
