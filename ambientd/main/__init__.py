"""`ambientd`: finds the verb and hands over; each verb is imported only when it is asked for."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from ambientd import __version__
from ambientd.wire import exits


class Verb(NamedTuple):
    """Where a verb lives: module, function taking the arguments after the verb, one line of help.

    One that `stays` runs for months: its process is kept small.
    """

    module: str
    function: str
    help: str
    stays: bool = False


VERBS: Mapping[str, Verb] = {
    "run": Verb(
        "ambientd.main.run", "run", "run the node daemon in the foreground (the default)", stays=True
    ),
    "dev": Verb("ambientd.main.dev", "run", "run a throw-away node with sample agents", stays=True),
    "control-plane": Verb(
        "ambientd.main.control_plane",
        "run",
        "run the control plane of a fleet; `init`, `backup`, `restore`",
        stays=True,
    ),
    "check-config": Verb("ambientd.main.config", "run_check_config", "report every configuration problem"),
    "config": Verb("ambientd.main.config", "run_config", "show, init, set or locate the configuration"),
    "migrate": Verb("ambientd.main.verbs", "run_migrate", "apply or list schema migrations"),
    "doctor": Verb("ambientd.main.doctor", "run", "check everything a node needs, and say what helps"),
    "backup": Verb("ambientd.main.backup", "run_backup", "write database and configuration into one file"),
    "restore": Verb("ambientd.main.backup", "run_restore", "put a backup in place of the database"),
    "audit": Verb("ambientd.main.audit", "run", "check an exported audit chain, or the node's own"),
    "feed": Verb("ambientd.main.verbs", "run_feed", "follow, validate or check the activity feed"),
    "policy": Verb("ambientd.main.policy", "run", "make an issuer's key, sign egress policies"),
    "lease": Verb("ambientd.main.lease", "run", "sign session leases, and take them back"),
    "host-id": Verb("ambientd.main.verbs", "run_host_id", "print the id this host is known by"),
}

_HEAD = """\
Usage: ambientd [VERB] [OPTIONS]

The Ambient node daemon and the verbs that work without it.

Verbs:
"""

_TAIL = """
  ambientd VERB --help     more about one verb
  ambientd --version       the version

Examples:
  ambientd dev                              try it, nothing is kept
  ambientd check-config && ambientd run     what a service unit does

Exit codes: 0 done, 1 failed, 2 usage, 70 internal, 74 storage,
75 another instance holds the state, 78 configuration, 130 interrupted.
"""


def usage() -> str:
    """The text of `ambientd --help`."""
    verbs = "".join(f"  {name:<14}{verb.help}\n" for name, verb in VERBS.items())
    return _HEAD + verbs + _TAIL


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return exits.DONE
    if arguments and arguments[0] in ("--version", "version"):
        print(f"ambientd {__version__}")
        return exits.DONE
    name = "run" if not arguments or arguments[0].startswith("-") else arguments.pop(0)
    verb = VERBS.get(name)
    if verb is None:
        print(f"Error: {name!r} is not a verb of ambientd. {_nearest(name)}", file=sys.stderr)
        return exits.USAGE
    if verb.stays:
        from ambientd.host.lean import keep_lean

        keep_lean()
    try:
        run: Callable[[Sequence[str]], int] = getattr(import_module(verb.module), verb.function)
        return run(arguments)
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, VERBS, n=1)
    return f"Did you mean {close[0]}?" if close else "See ambientd --help."
