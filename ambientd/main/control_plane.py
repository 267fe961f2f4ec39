"""`ambientd control-plane`; its verbs `init`, `backup` and `restore` are in modules of their own."""

import argparse
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from ambientd.app.control_plane import HELD_SIGNALS, ControlPlane, FleetOutside
from ambientd.config.http import Listen, parse_listen
from ambientd.config.schema import Config
from ambientd.config.server import ServerConfig
from ambientd.host import statelock
from ambientd.host.clock import SystemClock
from ambientd.host.log import LogControl, Logger, configure, ensure_standard_streams, get_logger
from ambientd.host.notify import Notifier, watchdog_interval
from ambientd.host.secrets import Secret
from ambientd.main.fleet_start import (
    Found,
    Given,
    add_options,
    all_of,
    database_of,
    environment_of,
    find_all,
    given_of,
    lacks_driver,
    load_config,
    state_dir_of,
)
from ambientd.main.refuse import refuse
from ambientd.net.tcp_socket import open_tcp_listener
from ambientd.services.supervise import run_to_end
from ambientd.wire import exits

if TYPE_CHECKING:
    import ssl

# Writer and event loop take turns hundreds of times for each commit: at Python's 5 ms one waits for the other
# most of the time (a quarter to a half more reports a second were measured).
SWITCH_SEC = 0.0005
_TEXT = """\
Runs the control plane of a fleet in the foreground until TERM or INT: registry of nodes, work, history,
policies. Data lie in <state>/fleet.db, or in PostgreSQL (--database postgresql://…), which several
processes may share. HUP takes a renewed certificate and the log's level.

Secrets (each a systemd credential, a file <state>/secrets/NAME, or a variable of its name; `init` makes the
files):
  ACCESS_TOKEN_KEY               keys the stored hashes of access tokens
  REFRESH_TOKEN_PEPPER           keys the stored hashes of refresh tokens
  API_KEY_PEPPER                 keys the stored hashes of API keys, join tokens and device tokens
  CONNECT_SESSION_TOKEN_PEPPER   keys the stored hashes of connect-session tokens
  ISSUER_KEY, LEASE_ISSUER_KEY   sign policies and leases; without them others sign
  DATABASE_PASSWORD              of PostgreSQL (its file: server.database_password_file)
With node.mode = "production" (the default) or ENVIRONMENT=production it does not start while one of the first
four is missing, short, or a placeholder.
"""
_MORE = """\
examples:
  ambientd control-plane init                   secrets, the first owner, a join token
  ambientd control-plane                        on 127.0.0.1:7443, SQLite
  ambientd control-plane backup fleet.tar       one instant of its data, while it runs; `restore` puts it back
  ambientd control-plane --listen 0.0.0.0:7443 --database postgresql://ambient@db.example.net/ambient
"""


def run(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    if argv and argv[0] == "init":
        from ambientd.main.control_plane_init import run_init

        return run_init(argv[1:])
    if argv and argv[0] in ("backup", "restore"):
        from ambientd.main import control_plane_backup

        verbs = {"backup": control_plane_backup.run_backup, "restore": control_plane_backup.run_restore}
        return verbs[argv[0]](argv[1:])
    parser = argparse.ArgumentParser(
        prog="ambientd control-plane",
        description=_TEXT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="over server.listen")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="over log.level")
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    return _start(given_of(options))


def _start(given: Given) -> int:
    ensure_standard_streams()
    sys.setswitchinterval(SWITCH_SEC)
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    notifier = Notifier.from_environ(os.environ)
    environ = environment_of(given, os.environ)
    loaded = load_config(given, environ)
    if loaded.config is None:
        problems = [problem.text for problem in loaded.problems]
        refuse(f"The configuration has {all_of(problems)}.", problems, notifier=notifier, passed=())
        return exits.CONFIG
    config, state_dir = loaded.config, state_dir_of(environ)
    found = find_all(config, state_dir, environ)
    problems = [*found.problems, *filter(None, [lacks_driver(config), *_tls_problems(config.server)])]
    if problems:
        refuse("The secrets cannot be used.", problems, notifier=notifier, passed=())
        return exits.CONFIG
    place = database_of(config, state_dir, found.password)
    try:
        lock = statelock.acquire(str(state_dir), SystemClock().now(), database=place.file or "")
    except statelock.StateLockedError as error:
        only = f"{error} Each node and control plane needs one of its own: --state-dir."
        refuse(only, (), notifier=notifier, passed=())
        return exits.LOCKED
    except statelock.StateDirError as error:
        refuse(str(error), (), notifier=notifier, passed=())
        return exits.STORAGE
    with lock:
        return _with_state(given, config, environ, found, notifier)


def _tls_problems(server: ServerConfig) -> list[str]:
    """What is wrong with the files of TLS, before anything is opened for good."""
    problems = []
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = getattr(server, name)
        if path is None:
            continue
        try:
            mode = os.stat(path).st_mode
            with open(path, "rb"):
                pass
        except OSError as error:
            problems.append(f"server.{name} ({path}) cannot be read: {(error.strerror or 'error').lower()}")
            continue
        if name == "tls_key" and mode & stat.S_IRWXO:
            problems.append(f"server.{name} ({path}) can be read by every user (chmod 0600 {path})")
    return problems


def _with_state(
    given: Given, config: Config, environ: Mapping[str, str], found: Found, notifier: Notifier
) -> int:
    clock = SystemClock()
    control = configure(
        level=config.log.level,
        log_format=config.log.format,
        now=clock.now,
        environ=environ,
        monotonic=clock.monotonic,
    )
    log = get_logger("control-plane")
    _mask(control, found)
    for sentence in found.judged.warnings:
        log.warning("secrets.default", reason=sentence)
    listen = parse_listen(config.server.listen)
    if listen is None:
        raise ValueError("the configuration was not checked")
    try:
        tls = _tls_of(config.server)
        listener = open_tcp_listener(listen.host, listen.port)
    except OSError as error:
        refuse(_cannot_listen(listen, error), (), notifier=notifier, passed=())
        return exits.CONFIG
    state_dir = state_dir_of(environ)
    outside = FleetOutside(
        database=database_of(config, state_dir, found.password),
        listener=listener,
        secrets=found.judged.values,
        issuers=found.issuers,
        notifier=notifier,
        log=log,
        log_control=control,
        reload=partial(_reload, given, environ, log),
        tls=tls,
        watchdog=watchdog_interval(environ, os.getpid()),
    )
    with listener:
        return _run(config, outside, log)


def _cannot_listen(listen: Listen, error: OSError) -> str:
    if error.__class__.__module__ == "ssl":
        return f"The certificate cannot be used (server.tls_cert, server.tls_key): {error}."
    return f"{listen.shown} cannot be listened on (server.listen): {(error.strerror or str(error)).lower()}."


def _mask(control: LogControl, found: Found) -> None:
    """What must not stand in any line, whoever puts it there."""
    for value in found.judged.values.values():
        control.mask(Secret(value.decode()))
    for seed in found.issuers:
        if seed is not None:
            control.mask(Secret(seed.hex()))
    if found.password is not None:
        control.mask(Secret(found.password))


def _tls_of(server: ServerConfig) -> "Callable[[], ssl.SSLContext] | None":
    """Makes the context once, so that mistakes show now. Raises OSError."""
    if server.tls_cert is None:
        return None
    import ssl

    from ambientd.net.server_tls import load_certificate

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, server.tls_cert, server.tls_key)
    if server.tls_client_ca is not None:
        context.load_verify_locations(server.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return lambda: context


def _reload(given: Given, environ: Mapping[str, str], log: Logger) -> Config | list[str]:
    loaded = load_config(given, environ)
    if loaded.config is not None:
        return loaded.config
    problems = [problem.text for problem in loaded.problems]
    log.error("config.refused", problems=problems, kept="the configuration in force")
    return problems


def _run(config: Config, outside: FleetOutside, log: Logger) -> int:
    reason, crash = run_to_end(lambda: trio.run(ControlPlane(config, outside).run))
    if crash is not None:
        log.error("control_plane.crashed", exc_info=crash)
        return exits.INTERNAL
    log.info("control_plane.stopped", reason=reason)
    return exits.DONE
