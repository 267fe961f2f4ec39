"""`ambientd run`: the node daemon in the foreground."""

import os
from collections.abc import Sequence

from ambientd.main.options import parse_options
from ambientd.main.start import Wishes, start

_TEXT = """\
Runs the node daemon in the foreground until TERM or INT; logs to standard error (JSON under systemd, for
people on a terminal). HUP reads the configuration again and applies what can be applied: agents, sessions,
spool, log, connectivity. Sessions that run go on when the daemon stops; the next start finds them.
"""

_MORE = """\
examples:
  ambientd run                                  as a service unit does
  ambientd run --state-dir /srv/ambient --socket /srv/ambient/s
  ambientd run --offline                        whatever links there are: nothing is called
"""


def run(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    options = parse_options(argv, prog="ambientd run", text=_TEXT, more=_MORE)
    if isinstance(options, int):
        return options
    wishes = Wishes(
        config=options.config,
        state_dir=options.state_dir,
        socket=options.socket,
        layers=options.layers(),
        offline=options.offline,
    )
    return start(wishes, os.environ)
