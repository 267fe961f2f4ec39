"""What `run` and `dev` share: from arguments to a running node, and from what went wrong to an exit code."""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from ambientd.app.node import HELD_SIGNALS, Node
from ambientd.app.outside import Outside
from ambientd.config.parse import Layer
from ambientd.config.schema import Config
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host import statelock
from ambientd.host.backup_sources import configuration_members
from ambientd.host.clock import SystemClock
from ambientd.host.config_files import LoadedConfig, load
from ambientd.host.heartbeatfile import replace_file
from ambientd.host.hide import hide
from ambientd.host.log import LogControl, Logger, configure, ensure_standard_streams, get_logger
from ambientd.host.notify import Notifier, passed_sockets
from ambientd.host.secrets import Secret
from ambientd.main.config_print import complain
from ambientd.main.http_key import VARIABLES, HttpKey, find_http_key
from ambientd.main.refuse import refuse
from ambientd.net.unix_socket import (
    ListenError,
    SocketInUseError,
    UnixListener,
    adopt_unix_listener,
    open_unix_listener,
)
from ambientd.services.supervise import run_to_end
from ambientd.wire import exits, places


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asked for. `layers` go over everything the files and variables say."""

    config: str | None = None
    state_dir: str | None = None
    socket: str | None = None
    layers: tuple[Layer, ...] = ()
    base: tuple[Layer, ...] = ()
    socket_mode: int | None = None
    on_ready: Callable[[Node, str], None] | None = None
    offline: bool = False


class _Held(NamedTuple):
    """What the start has got hold of."""

    notifier: Notifier
    passed: Sequence[int]
    state_dir: str
    key: HttpKey


def start(wishes: Wishes, environ: MutableMapping[str, str]) -> int:
    """Runs a node until it is asked to stop; returns the exit code. Says on standard error what is wrong."""
    ensure_standard_streams()
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if environ.get(places.ENV_EXECUTOR):  # agents are shut out of our state, and so must be out of us
        hide()
    notifier = Notifier.from_environ(environ)
    passed = passed_sockets(environ, os.getpid())
    places_of = {**environ, **({places.ENV_STATE: wishes.state_dir} if wishes.state_dir else {})}
    loaded = _load(wishes, places_of)
    if loaded.config is None:
        problems = [problem.text for problem in loaded.problems]
        many = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        refuse(f"The configuration has {many}.", problems, notifier=notifier, passed=passed)
        return exits.CONFIG
    key = find_http_key(loaded.config, environ)
    if key.problems:
        refuse("The secret of HTTP cannot be used.", key.problems, notifier=notifier, passed=passed)
        return exits.CONFIG
    state_dir = os.path.abspath(places.state_dir(places_of, os.getuid()))
    clock = SystemClock()
    try:
        lock = statelock.acquire(state_dir, clock.now(), database=_database(state_dir, places_of))
    except statelock.StateLockedError as error:
        only = f"{error} Only one daemon may use it; ask that one with ambientctl status."
        refuse(only, (), notifier=notifier, passed=passed)
        return exits.LOCKED
    except statelock.StateDirError as error:
        refuse(str(error), (), notifier=notifier, passed=passed)
        return exits.STORAGE
    with lock:
        held = _Held(notifier, [item.fd for item in passed], state_dir, key)
        return _with_state(wishes, loaded.config, places_of, held)


def _database(state_dir: str, environ: Mapping[str, str]) -> Path:
    return Path(state_dir) / (environ.get(places.ENV_DATABASE) or places.DATABASE_NAME)


def _load(wishes: Wishes, environ: Mapping[str, str]) -> LoadedConfig:
    return load(environ, os.getuid(), config=wishes.config, base=wishes.base, flags=wishes.layers)


def _with_state(
    wishes: Wishes,
    config: Config,
    environ: Mapping[str, str],
    held: "_Held",
) -> int:
    notifier, passed, state_dir, key = held
    clock = SystemClock()
    control = configure(
        level=config.log.level,
        log_format=config.log.format,
        now=clock.now,
        environ=environ,
        monotonic=clock.monotonic,
    )
    _mask(control, key, environ)
    log = get_logger("node")
    path = os.path.abspath(wishes.socket or places.daemon_socket(environ, os.getuid()))
    try:
        listener = _listen(path, passed, config, wishes.socket_mode)
    except SocketInUseError as error:
        complain(f"Error: {error}")
        return exits.LOCKED
    except ListenError as error:
        complain(f"Error: {error}")
        return exits.CONFIG
    outside = Outside(
        state_dir=Path(state_dir),
        database=_database(state_dir, environ),
        environ=environ,
        listener=listener,
        notifier=notifier,
        log=log,
        log_control=control,
        reload=lambda: _reload(wishes, environ, log),
        configuration=lambda: configuration_members(_load(wishes, environ).files),
        on_ready=wishes.on_ready,
        http_key=key.secret,
        http_off=key.off,
        offline=wishes.offline,
    )
    try:
        return _run(Node(config, outside), state_dir, clock.now, log)
    finally:
        listener.close()


def _mask(control: LogControl, key: HttpKey, environ: Mapping[str, str]) -> None:
    """What must not stand in any line, whoever puts it there."""
    if key.secret is not None:
        control.mask(key.secret)
    for name in VARIABLES:
        if environ.get(name):
            control.mask(Secret(environ[name]))


def _listen(path: str, passed: Sequence[int], config: Config, mode: int | None) -> UnixListener:
    """The socket from systemd if there is one, else our own: for the group when there is one to serve."""
    if passed:
        return adopt_unix_listener(passed[0])
    group = config.socket.group
    shared = os.getuid() == 0 or group is not None
    return open_unix_listener(path, mode=mode or (0o660 if shared else 0o600), group=group)


def _reload(wishes: Wishes, environ: Mapping[str, str], log: Logger) -> Config | list[str]:
    loaded = _load(wishes, environ)
    if loaded.config is not None:
        return loaded.config
    problems = [problem.text for problem in loaded.problems]
    log.error("config.refused", problems=problems, kept="the configuration in force")
    return problems


def _run(node: Node, state_dir: str, now: Callable[[], datetime], log: Logger) -> int:
    reason, crash = run_to_end(lambda: trio.run(node.run))
    code = exits.DONE
    if crash is not None:
        code, reason = exits.INTERNAL, f"crashed: {crash.exceptions[0]}"
        log.error("node.crashed", exc_info=crash)
    record = {"at": rfc3339_ms(now()), "exit": code, "reason": reason}
    try:
        replace_file(f"{state_dir}/{places.STOPPED_NAME}", json.dumps(record).encode() + b"\n")
    except OSError as error:
        log.warning("node.stop_not_recorded", reason=error.strerror)
    log.info("node.stopped", reason=reason)
    return code


def write_out(text: str) -> None:
    """One block on standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
