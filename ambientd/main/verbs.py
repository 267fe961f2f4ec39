"""Small verbs that work without the daemon: `host-id`, `migrate`, `feed`."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ambientd.config.schema import Config
from ambientd.core.feedpath import FeedPath, resolve_feed_path
from ambientd.host import facts, statelock
from ambientd.host.clock import SystemClock
from ambientd.host.config_files import load
from ambientd.main.config_print import complain, print_problems
from ambientd.wire import exits, places

_HOST_ID_HELP = """\
Usage: ambientd host-id

Prints the id this host is known by: sha256 of the node name and, when there is one, the machine's id.
Neither can be read back from it.
"""


def run_host_id(argv: Sequence[str]) -> int:
    """Prints `sha256:<hex>`."""
    if argv:
        print(_HOST_ID_HELP, end="", file=sys.stdout if argv[0] in ("-h", "--help") else sys.stderr)
        return exits.DONE if argv[0] in ("-h", "--help") else exits.USAGE
    config = _config(os.environ)
    if config is None:
        return exits.CONFIG
    print(facts.host_id(config.node.name, config.node.host_id).value)
    return exits.DONE


def run_migrate(argv: Sequence[str]) -> int:
    """Applies or lists migrations, holding the state lock while it changes anything."""
    from ambientd.main import migrate

    environ, rest = _places(argv)
    state_dir = os.path.abspath(places.state_dir(environ, os.getuid()))
    database = Path(state_dir) / (environ.get(places.ENV_DATABASE) or places.DATABASE_NAME)
    if {"--status", "-h", "--help"} & set(rest):
        return migrate.run(rest, database=database)
    try:
        with statelock.acquire(state_dir, SystemClock().now(), database=database):
            return migrate.run(rest, database=database)
    except statelock.StateLockedError as error:
        complain(f"Error: {error} It applies migrations itself when it starts.")
        return exits.LOCKED
    except statelock.StateDirError as error:
        complain(f"Error: {error}")
        return exits.STORAGE


def run_feed(argv: Sequence[str]) -> int:
    """`feed tail|validate|drift`."""
    from ambientd.main import feed

    environ, rest = _places(argv)
    return feed.run(rest, default_feed=lambda: _feed_path(environ), clock=SystemClock())


def _feed_path(environ: Mapping[str, str]) -> FeedPath:
    config = _config(environ)
    return resolve_feed_path(
        environment=environ.get(places.ENV_FEED),
        configured=config.heartbeat.feed if config else None,
        state_dir=os.path.abspath(places.state_dir(environ, os.getuid())),
        home=environ.get("HOME"),
    )


def _places(argv: Sequence[str]) -> tuple[Mapping[str, str], list[str]]:
    """Takes --config and --state-dir out of the arguments; they count as their variables."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--state-dir")
    known, rest = parser.parse_known_args(list(argv))
    named = {places.ENV_CONFIG: known.config, places.ENV_STATE: known.state_dir}
    return {**os.environ, **{name: value for name, value in named.items() if value}}, rest


def _config(environ: Mapping[str, str]) -> Config | None:
    loaded = load(environ, os.getuid())
    if loaded.config is None:
        print_problems(loaded.problems)
    return loaded.config
