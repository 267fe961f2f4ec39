"""The checks of `doctor`: each looks at one thing, blocks for a while, and gives its verdict."""

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from ambientd import __version__
from ambientd.config.gateway_address import Address, parse_address
from ambientd.config.schema import Config
from ambientd.core import doctor
from ambientd.core.doctor import Finding, fail, good, skip, warn
from ambientd.core.feedcheck import FeedCheck
from ambientd.core.feedpath import resolve_feed_path
from ambientd.core.text import size
from ambientd.core.timefmt import parse_rfc3339, to_ms
from ambientd.core.trustedtime import CLOCK_IN_DOUBT
from ambientd.host import facts
from ambientd.host.config_files import LoadedConfig, load
from ambientd.host.feedread import last_lines, open_for_reading
from ambientd.host.gateway_credentials import KEY_FILE, LookingCredentials, is_wanted
from ambientd.host.identity import FileIdentity
from ambientd.host.secrets import ENV_CREDENTIALS
from ambientd.main.doctor_control import PROBE_SEC, Place, check_control
from ambientd.main.doctor_peers import check_peers, compare_clocks
from ambientd.net.ask import AskError, Told, ask
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.gateway import LinkPhase, LinkState
from ambientd.wire import places, routes
from ambientd.wire.messages import StatusDocument

PAGES_SEC = 1.2
METER_SEC = 0.2
SYNCHRONISED = "/run/systemd/timesync/synchronized"
KEYS = (KEY_FILE, "identity.key")
_FILE_MAX = 64 * 1024


class Scene(NamedTuple):
    """What all checks start from. `status` is the daemon's own account, None when there is none."""

    environ: Mapping[str, str]
    uid: int
    clock: Clock
    loaded: LoadedConfig
    state_dir: Path
    database: Path
    socket: str
    status: StatusDocument | None
    daemon: Finding


def look_around(environ: Mapping[str, str], uid: int, clock: Clock, *, seconds: float) -> Scene:
    """Finds the node that is meant, reads its configuration and asks its daemon."""
    socket = _socket(environ, uid)
    environ = _places(environ, uid, socket)
    state_dir = Path(os.path.abspath(places.state_dir(environ, uid)))
    began = clock.monotonic()
    told = _ask(socket, seconds)
    took_ms = round((clock.monotonic() - began) * 1000)
    status, finding = _daemon(told, took_ms, socket, state_dir, uid)
    return Scene(
        environ=environ,
        uid=uid,
        clock=clock,
        loaded=load(environ, uid),
        state_dir=state_dir,
        database=state_dir / (environ.get(places.ENV_DATABASE) or places.DATABASE_NAME),
        socket=socket,
        status=status,
        daemon=finding,
    )


def _socket(environ: Mapping[str, str], uid: int) -> str:
    paths = places.client_sockets(environ, uid)
    return next((path for path in paths if os.path.exists(path)), paths[0])


def _places(environ: Mapping[str, str], uid: int, socket: str) -> Mapping[str, str]:
    """A user without a node of its own looks at the system's."""
    system = f"{places.SYSTEM_RUNTIME}/{places.SOCKET_NAME}"
    if socket != system or uid == 0:
        return environ
    return {places.ENV_STATE: places.SYSTEM_STATE, places.ENV_CONFIG: places.SYSTEM_CONFIG, **environ}


def _ask(socket: str, seconds: float) -> Told | AskError | OSError:
    try:
        return ask(socket, routes.STATUS, seconds=seconds)
    except (AskError, OSError) as error:
        return error


# --- the daemon


def _daemon(
    told: Told | AskError | OSError, took_ms: int, socket: str, state_dir: Path, uid: int
) -> tuple[StatusDocument | None, Finding]:
    start = (
        "systemctl start ambientd" if os.path.exists("/run/systemd/system") and uid == 0 else "ambientd run"
    )
    if isinstance(told, PermissionError):
        group = "join the group of the socket, or ask as root: sudo ambientctl doctor"
        return None, warn(f"{socket} may not be used by this user", group)
    if isinstance(told, OSError):
        why = _stopped(state_dir) or f"{socket}: {(told.strerror or 'no answer').lower()}"
        return None, fail(f"does not run ({why})", start)
    if isinstance(told, AskError):
        return None, fail(f"{socket}: {told}", "ambientctl logs")
    if told.status != 200:
        return None, fail(f"is not ready: {_reason(told.body)}", "ambientctl migrate status")
    try:
        status = msgspec.json.decode(told.body, type=StatusDocument)
    except msgspec.DecodeError:
        return None, warn("answers in words of another version", "restart the daemon")
    return status, doctor.judge_daemon(status, own_version=__version__, took_ms=took_ms)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it does not say why"


def _stopped(state_dir: Path) -> str | None:
    found = _read_json(state_dir / places.STOPPED_NAME)
    if found is None or not isinstance(found.get("at"), str):
        return None
    return f"stopped {found['at']}, exit {found.get('exit')}"


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        with open_for_reading(str(path)) as file:
            found = json.loads(file.read(_FILE_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _check_daemon(scene: Scene) -> Finding:
    return scene.daemon


# --- configuration and files


def _check_config(scene: Scene) -> Finding:
    problems = scene.loaded.problems
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return fail(f"{problems[0].text}{more}", "ambientctl check-config")
    read = [file for file in scene.loaded.files if file.text is not None]
    main = scene.loaded.files[0]
    drop_ins = len([file for file in read if file is not main])
    text = main.label if main.text is not None else f"defaults; no file at {main.label}"
    return good(f"{text}{f' + {drop_ins} in conf.d' if drop_ins else ''}")


def _check_files(scene: Scene) -> Finding:
    try:
        found = scene.state_dir.stat()
    except FileNotFoundError:
        return skip(f"there is no state at {scene.state_dir} yet; the daemon makes it")
    except OSError as error:
        return warn(f"{scene.state_dir}: {_words(error)}", "ask as its owner, or as root")
    if not stat.S_ISDIR(found.st_mode):
        return fail(f"{scene.state_dir} is not a directory", "ambientctl config path")
    if found.st_mode & stat.S_IWOTH:
        return fail(f"every user may change {scene.state_dir}", f"chmod o-w {scene.state_dir}")
    for name in KEYS:
        fault = _key_fault(scene.state_dir / name)
        if fault is not None:
            return fail(fault, f"chmod 600 {scene.state_dir / name}")
    said = [f"state dir {stat.S_IMODE(found.st_mode):04o}"]
    for label, path in (("socket", scene.socket), *((name, str(scene.state_dir / name)) for name in KEYS)):
        mode = _mode(path)
        said += [] if mode is None else [f"{label} {mode:04o}"]
    return good(", ".join(said))


def _key_fault(path: Path) -> str | None:
    mode = _mode(str(path))
    return f"{path} can be reached by others ({mode:04o})" if mode is not None and mode & 0o077 else None


def _mode(path: str) -> int | None:
    try:
        return stat.S_IMODE(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return None


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


# --- clock, database, disk


def _check_clock(scene: Scene) -> Finding:
    told = list(_instants(scene))
    problems = () if scene.status is None else scene.status.problems
    doubt = next((one.text for one in problems if one.id == CLOCK_IN_DOUBT), None)
    synchronised = os.path.exists(SYNCHRONISED)
    found = doctor.judge_clock(scene.clock.now(), told, synchronised=synchronised, doubt=doubt)
    return found if scene.status is None else compare_clocks(scene.socket, found)


def _instants(scene: Scene) -> Iterator[tuple[str, datetime]]:
    if scene.status is not None:
        yield "the daemon's start", parse_rfc3339(scene.status.node.started_at)
    for who, name, key in (
        ("the last heartbeat", places.HEARTBEAT_NAME, "ts"),
        ("the daemon's last stop", places.STOPPED_NAME, "at"),
    ):
        value = (_read_json(scene.state_dir / name) or {}).get(key)
        try:
            yield who, parse_rfc3339(str(value))
        except ValueError:
            continue


def _check_database(scene: Scene) -> Finding:
    if scene.status is not None:
        return doctor.judge_ledger(scene.status.ledger)
    from ambientd.store.look import look_at_database

    try:
        if not scene.database.exists():
            return skip(f"there is no database at {scene.database} yet")
        found = look_at_database(scene.database, clock=scene.clock, seconds=PAGES_SEC)
    except (StoreError, UnavailableError) as error:
        return fail(str(error), "ambientctl restore --help")
    except OSError as error:
        return warn(f"{scene.database}: {_words(error)}", "ask as its owner, or as root")
    pages = "quick_check ok" if found.checked else "quick_check ok as far as the time went"
    behind = f" of {found.newest}" if found.schema < found.newest else ""
    text = f"{pages}, schema {found.schema}{behind}, WAL {size(found.wal_bytes)}, SQLite {found.sqlite}"
    return good(text)


def _check_identity(scene: Scene) -> Finding:
    if scene.status is not None:
        return doctor.judge_identity(scene.status.problems)
    config, path = scene.loaded.config, scene.state_dir / KEYS[1]
    if config is None:
        return skip("the configuration cannot be read")
    try:
        owner = path.lstat().st_uid
    except FileNotFoundError:
        owner = scene.uid
        if not scene.environ.get(ENV_CREDENTIALS):
            return skip("this node has no key yet; the daemon makes it when it starts")
    except OSError as error:
        return skip(f"{path}: {_words(error)}")
    if owner not in (scene.uid, 0):  # a root that looks in does not own what is the daemon's user's
        return skip(f"{path} is another user's, who may be asked")
    host = facts.host_id(config.node.name, config.node.host_id).value
    identity = FileIdentity(scene.state_dir, host_id=host, environ=scene.environ)
    identity.load(create=False)
    return doctor.judge_key(identity.problem)


def _check_audit(scene: Scene) -> Finding:
    if scene.status is not None:
        return doctor.judge_audit(scene.status.audit)
    return skip("no daemon to ask; ambientd audit verify looks without one")


def _check_disk(scene: Scene) -> Finding:
    place = scene.state_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        found = os.statvfs(place)
    except OSError as error:
        return warn(f"{place}: {_words(error)}")
    inodes = found.f_favail if found.f_files else None
    return doctor.judge_disk(found.f_bavail * found.f_frsize, inodes, str(place))


# --- the gateway


def _check_gateway(scene: Scene) -> Finding:
    if scene.status is not None:
        return doctor.judge_gateway(scene.status.gateway, scene.clock.now())
    config = scene.loaded.config
    if config is None:
        return skip("the configuration cannot be read")
    address = parse_address(config.gateway.url, allow_plain=config.gateway.allow_plain)
    try:
        wanted = is_wanted(config.gateway, scene.state_dir, scene.environ)
    except OSError:
        return skip("only the owner of the state may see its tokens; ask as root")
    if not wanted or not isinstance(address, Address):
        return skip(doctor.NO_GATEWAY)
    key = scene.state_dir / KEY_FILE
    if key.exists() and not os.access(key, os.R_OK):
        return skip("only the owner of the state may use its key; ask as root")
    if not key.exists() and not address.is_loopback:
        return skip("this node has no key for gateways yet; the daemon makes it when it first connects")
    return _probed(_probe(scene, config, address))


def _probe(scene: Scene, config: Config, address: Address) -> LinkState:
    import trio

    from ambientd.app.gateway import probe_gateway

    credentials = LookingCredentials(
        scene.state_dir, environ=scene.environ, token_file=config.gateway.token_file
    )
    probe = partial(
        probe_gateway,
        config.gateway,
        address,
        credentials,
        node_name=facts.node_name(config.node.name),
        clock=scene.clock,
        seconds=PROBE_SEC,
    )
    return trio.run(probe)


def _probed(state: LinkState) -> Finding:
    match state.phase:
        case LinkPhase.READY | LinkPhase.DRAINING:
            version = f"{state.server_version}, " if state.server_version else ""
            return good(f"{state.url} answers: {version}protocol {state.protocol}, token accepted")
        case LinkPhase.REFUSED:
            return fail(f"{state.url} refuses this node: {state.reason}", state.remedy)
        case LinkPhase.CONNECTING:
            text = f"{state.url} has not greeted within {PROBE_SEC:g} s"
            return fail(text, doctor.unreachable_remedy(state.url))
    return fail(f"{state.url}: {state.reason}", state.remedy or doctor.unreachable_remedy(state.url))


# --- the feed


def _check_pulse(scene: Scene) -> Finding:
    config, now = scene.loaded.config, scene.clock.now()
    status = scene.status
    if config is not None and not config.heartbeat.enabled and status is None:
        return skip("heartbeat.enabled is false")
    if status is not None:
        if not status.heartbeat.enabled:
            return skip("heartbeat.enabled is false")
        found = doctor.judge_beats(status.heartbeat, now)
        if found is not None:
            return found
    place = resolve_feed_path(
        environment=scene.environ.get(places.ENV_FEED),
        configured=config.heartbeat.feed if config else None,
        state_dir=str(scene.state_dir),
        home=scene.environ.get("HOME"),
    )
    path = status.heartbeat.feed if status is not None else place.path
    if path is None:
        return fail(f"the feed's path is refused: {place.refusal}", "ambientctl config show --origin")
    return _judge_feed(path, now, grows=status is not None)


def _judge_feed(path: str, now: datetime, *, grows: bool) -> Finding:
    try:
        with open_for_reading(path) as file:
            lines = last_lines(file, 1)
    except FileNotFoundError:
        return warn(f"{path} is not there yet") if grows else skip(f"there is no feed at {path} yet")
    except OSError as error:
        return warn(f"{path}: {_words(error)}", "ask as its owner, or as root")
    if not lines:
        return warn(f"{path} has no whole line yet") if grows else skip(f"{path} has no whole line yet")
    problems = FeedCheck(strict=False, now_ms=to_ms(now)).check_line(lines[-1].data, ended=True)
    if problems:
        return fail(f"{path}: the last line is no event: {problems[0].reason}", "ambientctl feed validate")
    return good(f"{path}{' grows' if grows else ''}, last line valid")


# --- links and control plane


def _check_links(scene: Scene) -> Finding:
    from ambientd.host.links import read_links

    config = scene.loaded.config
    wanted = config is not None and bool(config.control_plane.url or config.connectivity.targets)
    return doctor.judge_links(read_links(), wanted=wanted)


def _check_peers(scene: Scene) -> Finding:
    socket = None if scene.status is None else scene.socket
    return check_peers(socket, scene.loaded.config, scene.clock.now())


def _check_control(scene: Scene) -> Finding:
    place = Place(
        config=scene.loaded.config, state_dir=scene.state_dir, environ=scene.environ, clock=scene.clock
    )
    return check_control(scene.status, scene.socket, place)


# --- power


def _check_power(scene: Scene) -> Finding:
    """The daemon's meter if it has one; else what this user finds, so that it is told why there is none."""
    if scene.status is not None and scene.status.delta_v is not None:
        found = doctor.judge_daemon_power(scene.status.delta_v)
        if found is not None:
            return found
    from ambientd.core.power import choose_power
    from ambientd.host.meters import HostMeters

    meters = HostMeters(monotonic=scene.clock.monotonic)
    meters.take()
    threading.Event().wait(METER_SEC)  # counters tell nothing but what was used between two looks
    reading = meters.take()
    power = choose_power(reading.power, busy_cores=reading.busy_cores, idle_power=0.0, core_power=0.0)
    return doctor.judge_power(power, [meter.problem for meter in reading.power if meter.problem])


ALL: Mapping[str, Callable[[Scene], Finding]] = {
    "config.valid": _check_config,
    "files.private": _check_files,
    "daemon.answers": _check_daemon,
    "clock.sane": _check_clock,
    "database.whole": _check_database,
    "identity.bound": _check_identity,
    "audit.chain": _check_audit,
    "disk.free": _check_disk,
    "links.up": _check_links,
    "gateway.link": _check_gateway,
    "control.link": _check_control,
    "peers.seen": _check_peers,
    "pulse.feed": _check_pulse,
    "power.meter": _check_power,
}
"""Every check by its id, in the order of `core.doctor.CHECKS`."""
