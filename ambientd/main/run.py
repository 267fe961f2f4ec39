"""`ambientd run`: the node daemon in the foreground."""

import argparse
import os
from collections.abc import Sequence

from ambientd.main.start import Wishes, add_options, flag_layers, start

_TEXT = """\
Runs the node daemon in the foreground until TERM or INT; logs to standard error (JSON under systemd, for
people on a terminal). HUP reads the configuration again and applies what can be applied: agents, sessions,
spool, log. Sessions that run go on when the daemon stops; the next start finds them.
"""

_MORE = """\
examples:
  ambientd run                                  as a service unit does
  ambientd run --state-dir /srv/ambient --socket /srv/ambient/s
"""


def run(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ambientd run",
        description=_TEXT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    wishes = Wishes(
        config=options.config,
        state_dir=options.state_dir,
        socket=options.socket,
        layers=flag_layers(options),
    )
    return start(wishes, os.environ)
