"""The check of `doctor` that talks with the control plane: as this node, where it has joined one."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from ambientd import __version__
from ambientd.config.schema import Config
from ambientd.config.upstream import ControlAddress, parse_control_url
from ambientd.core import doctor
from ambientd.core.canonical import UNREADABLE
from ambientd.core.connectivity import Answer
from ambientd.core.controlreply import read_reply
from ambientd.core.doctor import Finding, fail, skip, warn
from ambientd.core.doctorcontrol import judge_known, judge_reply, judge_told
from ambientd.core.membership import Membership
from ambientd.core.timefmt import parse_rfc3339
from ambientd.host import facts
from ambientd.host.identity import FileIdentity
from ambientd.host.membership_file import DiskMembershipFile
from ambientd.net.ask import AskError, Told, ask
from ambientd.ports.clock import Clock
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import IdentityError, UnavailableError
from ambientd.wire import routes
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.fleet_api_messages import NodeInfo
from ambientd.wire.fleet_view_messages import FleetNodes
from ambientd.wire.messages import StatusDocument

PROBE_SEC = 1.7
_AGENT = f"ambientd/{__version__} (doctor)"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node is, for who looks without its daemon."""

    config: Config | None
    state_dir: Path
    environ: Mapping[str, str]
    clock: Clock


def check_control(status: StatusDocument | None, socket: str, place: Place) -> Finding:
    """The row `control`: by the daemon where one answers, else by what lies on the disk."""
    if status is not None and status.control is not None and status.state is not None:
        found = doctor.judge_control(status.control, status.state, parse_rfc3339(status.generated_at))
        if status.control.node_id is None or status.state.offline or found.result is CheckResult.SKIP:
            return found
        return _through_daemon(status, socket, place.clock, found)
    return _without_daemon(place)


def _through_daemon(status: StatusDocument, socket: str, clock: Clock, found: Finding) -> Finding:
    began = clock.monotonic()
    try:
        told = ask(socket, routes.FLEET_NODES, seconds=PROBE_SEC)
    except (AskError, OSError):
        return warn(f"{found.text}; the daemon had no time to ask it", "once more: ambientctl doctor control")
    took_ms = round((clock.monotonic() - began) * 1000)
    return judge_told(status, _node(told), _refusal(told), took_ms)


def _node(told: Told) -> NodeInfo | None:
    if told.status != 200:
        return None
    try:
        nodes = msgspec.json.decode(told.body, type=FleetNodes).nodes
    except UNREADABLE:
        return None
    return nodes[0] if nodes else None


def _refusal(told: Told) -> tuple[str, str]:
    reply = read_reply(told.status, {}, told.body)
    return reply.code, reply.message


# --- without the daemon


def _without_daemon(place: Place) -> Finding:
    config = place.config
    if config is None:
        return skip("the configuration cannot be read")
    if config.connectivity.offline:
        return skip("not asked: connectivity.offline is set")
    file = DiskMembershipFile(place.state_dir)
    if os.path.lexists(file.path) and not os.access(file.path, os.R_OK):
        return skip("only the owner of the state may speak as this node; ask as root")
    file.look()
    if file.problem is not None:
        return fail(f"the control plane's membership cannot be used: {file.problem}", "ambientctl join URL")
    url = file.current.url if file.current is not None else config.control_plane.url
    if not url:
        return skip(doctor.NO_CONTROL_PLANE)
    address = parse_control_url(url)
    if isinstance(address, str):
        return fail(f"control_plane.url {address}", "ambientctl check-config")
    if file.current is None:
        return doctor.judge_answer(address.url, _probe(address, config))
    return _as_node(file.current, address, config, place)


def _probe(address: ControlAddress, config: Config) -> Answer:
    import trio

    from ambientd.app.control_probes import ControlProbes

    probes, ca_file = ControlProbes(lambda: config, agent=_AGENT), config.control_plane.ca_file
    return trio.run(partial(probes.ask_control, address, ca_file=ca_file, seconds=PROBE_SEC))


def _as_node(membership: Membership, address: ControlAddress, config: Config, place: Place) -> Finding:
    import trio

    host = facts.host_id(config.node.name, config.node.host_id).value
    identity = FileIdentity(place.state_dir, host_id=host, environ=place.environ)
    identity.load(create=False)
    if identity.problem is not None:
        return fail(f"{address.url} cannot be asked as this node: {identity.problem}", "ambientctl identity")
    began = place.clock.monotonic()
    try:
        found = trio.run(_ask, membership, identity, address, config)
    except (UnavailableError, IdentityError) as error:
        return fail(f"{address.url}: {error}", doctor.control_remedy(address.url))
    took_ms = round((place.clock.monotonic() - began) * 1000)
    if found.status == 200:
        return judge_known(address.url, _decoded(found.body), took_ms)
    return judge_reply(address.url, read_reply(found.status, found.headers, found.body))


async def _ask(
    membership: Membership, identity: FileIdentity, address: ControlAddress, config: Config
) -> ControlAnswer:
    import trio

    from ambientd.flows.controlcheck import ask_as_node
    from ambientd.net.control_plane_http import HttpControlTransport, settings_of

    settings = settings_of(config.control_plane, address)
    transport = HttpControlTransport(lambda: settings, agent=_AGENT)
    try:
        with trio.fail_after(PROBE_SEC):
            return await ask_as_node(membership, identity, transport, seconds=PROBE_SEC)
    except trio.TooSlowError:
        raise UnavailableError("no answer in time") from None
    finally:
        await transport.aclose()


def _decoded(body: bytes) -> NodeInfo | None:
    try:
        return msgspec.json.decode(body, type=NodeInfo)
    except UNREADABLE:
        return None
