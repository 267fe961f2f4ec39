"""The control plane: builds every part, connects them, and owns the tree of nurseries.

The store is outermost and closed last; services inside it; the listener inside those and cancelled first. It
listens before anything else and answers 503 until the store is ready.
"""

import ipaddress
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from ambientd import __version__
from ambientd.api.fleet.assignments import assignment_routes
from ambientd.api.fleet.auth import auth_routes
from ambientd.api.fleet.cluster import cluster_routes
from ambientd.api.fleet.connect import connect_routes
from ambientd.api.fleet.devices import Fleet, device_routes
from ambientd.api.fleet.front import FleetDoor, build_front
from ambientd.api.fleet.items import item_routes
from ambientd.api.fleet.nodes import node_routes
from ambientd.api.fleet.principal import build_authenticate
from ambientd.api.fleet.reports import report_routes
from ambientd.api.fleet.results import result_routes
from ambientd.api.fleet.streams import stream_routes
from ambientd.api.fleet.tasks import BODY_MAX, task_routes
from ambientd.api.fleet.throttle import throttle_routes
from ambientd.api.health import health_routes
from ambientd.api.openapi import About, openapi_route
from ambientd.api.router import Route, RouteTable, build_application
from ambientd.app.fleet_sweeps import build_hearing, build_sweeps
from ambientd.app.httplog import HttpLogLines
from ambientd.config.schema import Config
from ambientd.config.server import ServerConfig
from ambientd.config.server_checks import warnings_of
from ambientd.core.ed25519 import parse_key, public_of, show_key
from ambientd.core.fleet.items import Believed
from ambientd.core.fleet.ratelimit import DEFAULT_RATES, Rate, RateLimiter, Tier
from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.tokens import TokenHashes
from ambientd.flows.fleet.accounts import Accounts, Lifetimes
from ambientd.flows.fleet.admin import Admin
from ambientd.flows.fleet.connect import Connect
from ambientd.flows.fleet.devices import Devices
from ambientd.flows.fleet.items import Items
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.nodes import Registry
from ambientd.flows.fleet.pushed import Pushed
from ambientd.flows.fleet.rosters import RosterDesk
from ambientd.flows.fleet.tasks import Tasks
from ambientd.flows.fleet.throttle import Throttle
from ambientd.flows.fleet.work import WorkRules
from ambientd.host.clock import SystemClock
from ambientd.host.issuer_keys import IssuerKeys
from ambientd.host.log import LogControl, Logger
from ambientd.host.memory import settle_memory
from ambientd.host.notify import Notifier
from ambientd.host.passwords import Argon2Passwords
from ambientd.net.http_server import HttpServer, Limits
from ambientd.net.tcp_socket import caller_of_tcp, port_of
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.http import Application
from ambientd.services.fleet_lookups import LookupsService
from ambientd.services.fleet_reports import ReportsService
from ambientd.services.fleet_sweeps import SweepsService
from ambientd.services.supervise import supervise
from ambientd.store.fleet.sqlite import SqliteFleetStore
from ambientd.wire.messages import ReadyCheck

if TYPE_CHECKING:
    import ssl

    from ambientd.store.fleet.postgresql import PostgresqlFleetStore

FIRST_ANSWER_SEC = 1.0
DRAIN_SEC = 5.0  # the longest ordinary request, many times over
LOOK_AGAIN_SEC = 1.0  # while the store is not ready
WATCHDOG_SHARE = 3  # how often the watchdog is fed within its time
HELD_SIGNALS = (signal.SIGHUP,)
ABOUT = About(
    title="Ambient control plane",
    description="Accounts, nodes, work and what nodes push. Errors have one shape everywhere.",
    schemes={
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token (at_…), an API key (vcp_…), or a joined node's token (nd_…) with "
            "the headers X-Ambient-Sequence and X-Ambient-Signature.",
        },
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    },
)


class DatabasePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the data lies: a file, or an address of PostgreSQL with its password apart."""

    file: Path | None = None
    address: str | None = None
    password: str | None = None


class FleetOutside(msgspec.Struct, frozen=True, kw_only=True):
    """What the start-up found on this machine.

    `reload` reads the configuration anew: it, or its problems. `watchdog` is the time in seconds within which
    systemd wants to hear that the loop turns, None when it does not.
    """

    database: DatabasePlace
    listener: socket.socket
    secrets: Mapping[SecretName, bytes]
    issuers: IssuerKeys
    notifier: Notifier
    log: Logger
    log_control: LogControl
    reload: Callable[[], Config | Sequence[str]]
    tls: "Callable[[], ssl.SSLContext] | None" = None
    watchdog: float | None = None


def build_store(
    place: DatabasePlace, config: ServerConfig, clock: Clock
) -> "SqliteFleetStore | PostgresqlFleetStore":
    """The store; psycopg is loaded only where PostgreSQL is used."""
    if place.address is None:
        if place.file is None:
            raise ValueError("a database has a file or an address")
        return SqliteFleetStore(place.file, clock=clock)
    from ambientd.store.fleet.postgresql import PostgresqlFleetStore

    return PostgresqlFleetStore(
        place.address, clock=clock, password=place.password, pool_size=config.pool_size
    )


def rates_of(config: ServerConfig) -> dict[Tier, Rate]:
    """What each tier allows; guessing is not for sale."""
    return DEFAULT_RATES | {
        Tier.AUTH: Rate(config.auth_rpm, config.auth_burst),
        Tier.NODE: Rate(config.node_rpm, config.node_burst),
        Tier.TASK: Rate(config.task_rpm, config.task_burst),
        Tier.PROOF: Rate(config.proof_rpm, config.proof_burst),
        Tier.GENERAL: Rate(config.general_rpm, config.general_burst),
        Tier.DEVICE: Rate(config.device_rpm, config.device_burst),
    }


class ControlPlane:
    """All parts of one control plane, built but not started."""

    def __init__(self, config: Config, outside: FleetOutside, *, clock: Clock | None = None) -> None:
        self._outside = outside
        self._log = outside.log
        self._config = config
        server = config.server
        for sentence in warnings_of(server):
            self._log.warning("config.doubtful", reason=sentence)
        self.clock: Clock = clock or SystemClock()
        self.store = build_store(outside.database, server, self.clock)
        rules = WorkRules(
            max_active=server.max_active_tasks,
            owner_share=server.owner_share,
            max_open=server.max_open_tasks,
        )
        hashes = TokenHashes(outside.secrets)
        desk = LeaseDesk(
            seed=outside.issuers.lease,
            public=_public(outside.issuers.lease),
            network=config.policy.network,
            warn=self._log.warning,
        )
        self.reports = ReportsService(self.store)
        self.lookups = LookupsService(self.store)
        self.hearing = build_hearing(server)
        self.accounts = Accounts(
            store=self.store,
            clock=self.clock,
            passwords=Argon2Passwords(),
            hashes=hashes,
            randomness=os.urandom,
            new_id=_uuid,
            lifetimes=_lifetimes(server),
            open_registration=server.registration,
        )
        self.throttle = Throttle(store=self.store, clock=self.clock, caller=self.accounts.caller)
        self.sweeps = SweepsService(
            build_sweeps(
                server,
                store=self.store,
                clock=self.clock,
                rules=rules,
                desk=desk,
                hearing=self.hearing,
                throttle=self.throttle,
                roster_desk=self._roster_desk(),
                write_used=self.accounts.write_used,
            ),
            jitter=lambda: int.from_bytes(os.urandom(4)) / 2**32,
            log=self._log,
        )
        self.devices = Devices(
            store=self.store,
            clock=self.clock,
            hashes=hashes,
            randomness=os.urandom,
            new_id=_uuid,
            rules=rules,
            lookups=self.lookups,
        )
        self.registry = Registry(
            store=self.store, clock=self.clock, reports=self.reports, rules=rules, desk=desk
        )
        self.tasks = Tasks(store=self.store, clock=self.clock, rules=rules, desk=desk, warn=self._log.warning)
        self.connect = Connect(
            store=self.store,
            clock=self.clock,
            hashes=hashes,
            randomness=os.urandom,
            rules=rules,
            desk=desk,
        )
        self.pushed = Pushed(store=self.store, clock=self.clock)
        fleet = self._fleet()
        self.items = Items(
            store=self.store,
            clock=self.clock,
            believed=Believed(
                network=fleet.network,
                issuers=_keys(fleet.issuers),
                lease_issuers=_keys(fleet.lease_issuers),
            ),
            seed=outside.issuers.policy,
            public=_public(outside.issuers.policy),
        )
        self._tls = None if outside.tls is None else outside.tls()
        self.application = self._application()
        self.server = HttpServer(
            self.application,
            clock=self.clock,
            log=HttpLogLines(self._log),
            limits=Limits(connections=server.max_connections, body_bytes=BODY_MAX),
        )

    def _roster_desk(self) -> RosterDesk | None:
        seed = self._outside.issuers.policy
        if not self._config.server.rosters:
            return None
        if seed is None:
            self._log.warning("rosters.unsigned", reason="server.rosters is on, and there is no ISSUER_KEY")
            return None
        return RosterDesk(seed=seed, public=public_of(seed), network=self._config.policy.network)

    # --- the API

    def routes(self) -> tuple[Route, ...]:
        """Every route of the control plane."""
        authenticate = build_authenticate(self.accounts, self.devices)
        now = self.clock.now
        routes = (
            *health_routes(self._checks),
            *auth_routes(self.accounts, authenticate),
            *node_routes(self.registry),
            *report_routes(self.registry, now),
            *device_routes(self.devices, self._fleet()),
            *task_routes(self.tasks, now=now, new_id=_uuid),
            *assignment_routes(self.tasks),
            *result_routes(self.tasks),
            *connect_routes(self.connect),
            *stream_routes(self.pushed, now),
            *item_routes(self.items),
            *throttle_routes(self.throttle, now=now, new_id=_uuid),
            *cluster_routes(self.registry, Admin(store=self.store), now=now, version=__version__),
        )
        document = openapi_route(lambda: all_routes, version=__version__, about=ABOUT)
        all_routes = (*routes, document)
        return all_routes

    def _fleet(self) -> Fleet:
        policy, issuers = self._config.policy, self._outside.issuers
        own, leases = _shown(issuers.policy), _shown(issuers.lease)
        return Fleet(
            network=policy.network,
            issuers=tuple(dict.fromkeys((*own, *policy.issuers))),
            lease_issuers=tuple(dict.fromkeys((*leases, *policy.lease_issuers))),
        )

    def _checks(self) -> list[ReadyCheck]:
        found = self.store.facts()
        return [ReadyCheck("store", found.ready, found.reason)]

    def _application(self) -> Application:
        app = build_application(
            RouteTable(self.routes(), log_ins=True),
            readiness=lambda: self.store.reason,
            log=HttpLogLines(self._log),
            admin_group="",
            authenticate=build_authenticate(self.accounts, self.devices),
        )
        server = self._config.server
        limiter = RateLimiter(rates_of(server))
        return build_front(
            app,
            limiter,
            self.throttle,
            clock=self.clock,
            secure=self._tls is not None or server.behind_proxy,
        )

    # --- its life

    async def run(self) -> str:
        """Runs until a signal asks it to stop; returns the reason."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
            return await self._run(signals)

    async def _run(self, signals: AsyncIterator[int]) -> str:
        proxies = tuple(ipaddress.ip_network(text) for text in self._config.server.trusted_proxies)
        serve = partial(
            self.server.serve,
            self._outside.listener,
            caller_of_tcp,
            door=FleetDoor(proxies),
            tls=self._tls,
        )
        async with trio.open_nursery() as outermost:
            await outermost.start(self.store.run)
            async with trio.open_nursery() as services:
                services.start_soon(supervise, "reports", self.reports.run, self._log)
                services.start_soon(supervise, "lookups", self.lookups.run, self._log)
                services.start_soon(self._run_when_ready)
                services.start_soon(self._feed_watchdog)
                # Whoever connects now waits in the kernel's queue: an ordinary start is over before a 503
                # would help anybody.
                with trio.move_on_after(FIRST_ANSWER_SEC):
                    await self.store.wait_settled()
                async with trio.open_nursery() as listeners:
                    await listeners.start(serve)
                    reason = await self._until_signal(signals)
                    self._outside.notifier.stopping(reason)
                    await self.server.drain(DRAIN_SEC)
                    listeners.cancel_scope.cancel()
                services.cancel_scope.cancel()
            await self.store.close()
            outermost.cancel_scope.cancel()
        return reason

    async def _run_when_ready(self) -> None:
        """Sweeps start when the store is ready; until then its reason is shown."""
        notifier = self._outside.notifier
        await self.store.wait_settled()
        told: str | None = None
        while (reason := self.store.reason) is not None:
            if reason != told:
                self._log.error("control_plane.not_ready", reason=reason)
                notifier.ready(f"not ready: {reason}")
                told = reason
            await trio.sleep(LOOK_AGAIN_SEC)
        with suppress(StoreError, UnavailableError):  # the sweep reads them again
            await self.throttle.refresh()
        settle_memory(busy=True)
        address = f"{self._config.server.listen.rpartition(':')[0]}:{port_of(self._outside.listener)}"
        scheme = "http" if self._tls is None else "https"
        notifier.ready(f"ready, {scheme}://{address}")
        facts = self.store.facts()
        self._log.info(
            "control_plane.ready",
            version=__version__,
            address=f"{scheme}://{address}",
            database=facts.engine,
        )
        if facts.degraded:
            self._log.warning("control_plane.degraded", reason=facts.degraded)
        await supervise("sweeps", self.sweeps.run, self._log)

    async def _feed_watchdog(self) -> None:
        """A loop that is stuck is silent. Nothing else is asked: a new start brings no database back."""
        if self._outside.watchdog is None:
            return
        while True:
            self._outside.notifier.watchdog()
            await trio.sleep(self._outside.watchdog / WATCHDOG_SHARE)

    async def _until_signal(self, signals: AsyncIterator[int]) -> str:
        async for number in signals:
            if number != signal.SIGHUP:
                return signal.Signals(number).name
            self._reload()
        raise AssertionError("the signal receiver never ends by itself")

    def _reload(self) -> None:
        """Takes over the log's level and a renewed certificate; the rest needs a restart, and is named."""
        notifier = self._outside.notifier
        notifier.reloading(self.clock.monotonic())
        new = self._outside.reload()
        if isinstance(new, Config):
            self._outside.log_control.level = new.log.level
            old, server = self._config.server, new.server
            fields = [name for name in ServerConfig.__slots__ if getattr(old, name) != getattr(server, name)]
            self._log.info("config.reloaded", needs_restart=[f"server.{name}" for name in fields])
        if self._tls is not None:
            self._renew_certificate(self._tls)
        notifier.ready()

    def _renew_certificate(self, tls: "ssl.SSLContext") -> None:
        from ambientd.net.server_tls import load_certificate

        server = self._config.server
        try:
            load_certificate(tls, server.tls_cert or "", server.tls_key)
        except OSError as error:
            self._log.error("tls.not_renewed", reason=str(error), kept="the certificate in use")


def _uuid() -> str:
    return str(uuid.uuid4())


def _lifetimes(server: ServerConfig) -> Lifetimes:
    from datetime import timedelta

    return Lifetimes(
        access=timedelta(seconds=server.access_lifetime), refresh=timedelta(seconds=server.refresh_lifetime)
    )


def _public(seed: bytes | None) -> bytes:
    return b"" if seed is None else public_of(seed)


def _keys(texts: Sequence[str]) -> frozenset[bytes]:
    return frozenset(key for text in texts if (key := parse_key(text)) is not None)


def _shown(seed: bytes | None) -> tuple[str, ...]:
    return () if seed is None else (show_key(public_of(seed)),)
