"""The node role: builds every part, connects them, and owns the tree of nurseries.

Store and feed are outermost and closed last; services inside them; listeners inside those and cancelled
first. Listeners open before anything else and answer 503 until the store is ready.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ambientd import __version__
from ambientd.api.alerts import Alerts, alert_routes
from ambientd.api.analytics import analytics_routes
from ambientd.api.backup import backup_routes
from ambientd.api.control import Control, control_routes
from ambientd.api.export import export_routes
from ambientd.api.health import health_routes
from ambientd.api.ingest import ingest_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.legacy import legacy_routes
from ambientd.api.logs import Logs, log_routes
from ambientd.api.node import status_routes, upkeep_routes
from ambientd.api.openapi import openapi_route
from ambientd.api.recost import recost_routes
from ambientd.api.reload import reload_routes
from ambientd.api.router import Route, RouteTable, build_application
from ambientd.app.alerts import build_alerts
from ambientd.app.autonomy import Autonomy, Ground, RestOfNode
from ambientd.app.feed import build_feed
from ambientd.app.httplog import HttpLogLines
from ambientd.app.live import LiveConfig
from ambientd.app.outside import Outside
from ambientd.app.tells import Tells
from ambientd.config.schema import Config
from ambientd.core.contracts.rejections import Rejections
from ambientd.core.gatewaytext import NO_GATEWAY, GatewaySnapshot
from ambientd.core.heartbeat import build_run_id
from ambientd.core.pricing import current_table
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.flows.analytics import Analytics
from ambientd.flows.backup import Backups
from ambientd.flows.ingest import IngestFlow
from ambientd.flows.intake import Intake
from ambientd.flows.preferred_models import PreferredModels
from ambientd.flows.sessions import Agents
from ambientd.flows.status import IntakeFacts, LoopFacts, NodeFacts, StatusSources, gather
from ambientd.flows.upkeep import Upkeep
from ambientd.host import facts
from ambientd.host.agent_environment import HostAgentEnvironment
from ambientd.host.backup_place import DiskBackupPlace
from ambientd.host.backup_sources import identity_key
from ambientd.host.clock import SystemClock, UlidIds
from ambientd.host.gateway_credentials import is_wanted
from ambientd.host.heartbeatfile import DiskHeartbeatFile
from ambientd.host.lean import give_memory_back
from ambientd.host.log import AUDIT
from ambientd.host.memory import settle_memory
from ambientd.host.runner import LocalRunner
from ambientd.host.session_folders import DiskSessionFolders
from ambientd.host.spool_dir import DiskSpool
from ambientd.host.spool_watch import changes
from ambientd.host.zones import find_zone
from ambientd.net.http_server import HttpServer, Limits
from ambientd.net.unix_socket import caller_of, group_id
from ambientd.ports.errors import Rejected, StoreError, UnavailableError
from ambientd.ports.http import Application
from ambientd.services.aggregates import AggregatesService
from ambientd.services.audit import AuditHead
from ambientd.services.backup import BackupService
from ambientd.services.bell import Bell
from ambientd.services.changes import Changes
from ambientd.services.dispatcher import Dispatcher, Identity, Work
from ambientd.services.intake import IntakeService
from ambientd.services.news import NewsBoard
from ambientd.services.sessions import SessionsService
from ambientd.services.statusboard import StatusBoard
from ambientd.services.supervise import supervise
from ambientd.services.upkeep import UpkeepService, rest
from ambientd.store.sqlite import SqliteStore
from ambientd.wire import places
from ambientd.wire.enums import AlertMetric
from ambientd.wire.log_messages import ReloadView
from ambientd.wire.messages import ErrorDetail, HttpStatus, MigrationRow, MigrationsView, ReadyCheck
from ambientd.wire.routes import SCHEMA_MIGRATIONS

if TYPE_CHECKING:
    from ambientd.app.front import TcpFront
    from ambientd.app.gateway_parts import GatewayParts
    from ambientd.flows.legacy import Importing
    from ambientd.flows.recost import Recosting

FIRST_ANSWER_SEC = 1.0
DRAIN_SEC = 1.0
LAST_BEAT_SEC = 3.0
LOOK_AGAIN_SEC = 1.0  # while the store is not ready
# Blocked by `main` at the very start: a reload that comes while the node starts would end the process.
HELD_SIGNALS = (signal.SIGHUP,)


class Node:
    """All parts of one node, built but not started."""

    def __init__(self, config: Config, outside: Outside) -> None:
        self._outside = outside
        self._log = outside.log
        self.live = LiveConfig(config)
        self.clock = SystemClock()
        self.host_id = facts.host_id(config.node.name, config.node.host_id)
        started_ms = facts.process_started_ms(to_ms(self.clock.now()))
        self.audit_head = AuditHead()
        self._tells = Tells(self.audit_head.moved)
        self.store = SqliteStore(
            outside.database,
            clock=self.clock,
            busy_timeout=config.ledger.busy_timeout,
            ballast=config.ledger.ballast,
            rested=give_memory_back,
            audited=self._tells.audited,
        )
        self.feed = build_feed(
            config.heartbeat,
            state_dir=outside.state_dir,
            environ=outside.environ,
            host_id=self.host_id.value,
            log=outside.log,
        )
        self.spool = DiskSpool(outside.state_dir, max_file_size=config.spool.max_file_size)
        self.runner = LocalRunner(
            state_dir=outside.state_dir,
            python=sys.executable,
            clock=self.clock,
            log=self._log,
            executor_socket=outside.environ.get(places.ENV_EXECUTOR) or None,
        )
        self.models = PreferredModels()
        # Whatever the status may show differently is told here; views of other systems ring it as well.
        self.changes = Changes()
        self._tells.sessions_to(self.changes.tell)
        self.news = NewsBoard(also=self._tells.session)
        hand_in = Bell()
        self.sessions = SessionsService(
            store=self.store,
            runner=self.runner,
            environment=HostAgentEnvironment(outside.environ),
            agents=self._agents,
            bounds=lambda: self.live.current.sessions,
            clock=self.clock,
            news=self.news,
            task_ended=lambda: self._task_ended(hand_in),
            log=self._log,
            prices=lambda: current_table(self.live.current.pricing),
        )
        self.rejections = Rejections()
        self.ingest = IngestFlow(
            store=self.store,
            clock=self.clock,
            prices=lambda: current_table(self.live.current.pricing),
            rejections=self.rejections,
            changed=self.news.tell,
            ended=self._session_ended,
        )
        self.ids = UlidIds()
        self.gateway = self._build_gateway()
        self.intake = IntakeService(
            intake=Intake(
                spool=self.spool,
                store=self.store,
                clock=self.clock,
                ids=self.ids,
                agents=self._agents,
            ),
            wake_sessions=self.sessions.wake,
            changes=partial(changes, outside.state_dir / "inbox"),
            bell=hand_in,
            log=self._log,
        )
        self.upkeep = Upkeep(
            store=self.store,
            files=self.spool,
            folders=DiskSessionFolders(outside.state_dir, discard=self.runner.discard),
            clock=self.clock,
            spool_bounds=lambda: self.live.current.spool,
            session_bounds=lambda: self.live.current.sessions,
            ledger_bounds=lambda: self.live.current.retention,
            rest=rest,
            make_room=self.store.give_up_ballast,
        )
        self.retention = UpkeepService(upkeep=self.upkeep, log=self._log)
        self.backup = BackupService(
            backups=Backups(
                snapshots=self.store,
                place=DiskBackupPlace(outside.state_dir),
                clock=self.clock,
                version=__version__,
                configuration=outside.configuration,
                identity=partial(identity_key, outside.state_dir),
            ),
            store=self.store,
            new_id=lambda: self.ids.ulid(self.clock.now()),
            log=self._log,
        )
        self.analytics = Analytics(store=self.store, clock=self.clock, find_zone=find_zone)
        self.aggregates = AggregatesService(analytics=self.analytics, log=self._log)
        self.alerts = build_alerts(
            config.alerts,
            store=self.store,
            clock=self.clock,
            gauges=self._gauges(),
            node=facts.node_name(config.node.name),
            environ=outside.environ,
            log=self._log,
        )
        self.heartbeat_file = DiskHeartbeatFile(str(outside.state_dir / places.HEARTBEAT_NAME))
        self.dispatcher = Dispatcher(
            identity=Identity(
                actor=config.dispatcher.actor,
                run_id=build_run_id(started_ms, os.getpid()),
                host_id=self.host_id.value,
                pid=os.getpid(),
                started_ms=started_ms,
            ),
            interval=config.dispatcher.interval,
            feed=self.feed,
            heartbeat_file=self.heartbeat_file,
            work=Work(
                sweep=self.intake.wake,
                take_picked_up=self.intake.take_picked_up,
                active=lambda: self.sessions.live,
                fed=outside.notifier.watchdog,
                state=lambda: self.autonomy.connectivity.view.state.value,
            ),
            clock=self.clock,
        )
        self._audited = partial(self._log.info, AUDIT)
        self._control = Control(
            store=self.store,
            sessions=self.sessions,
            agents=self._agents,
            clock=self.clock,
            ids=self.ids,
            spawned=self._spawned,
            audited=self._audited,
            models=self.models,
            gateway=None if self.gateway is None else self.gateway.control,
        )
        self.autonomy = Autonomy(
            Ground(
                config=lambda: self.live.current,
                store=self.store,
                clock=self.clock,
                host_id=self.host_id.value,
                node_name=facts.node_name(config.node.name),
                state_dir=outside.state_dir,
                environ=outside.environ,
                audited=self._audited,
                changed=self.changes.tell,
                log=self._log,
                offline=outside.offline,
                started_at=from_ms(started_ms),
                run_id=build_run_id(started_ms, os.getpid()),
                beats=lambda: self.dispatcher.recent,
                feed=self.feed,
                audit_head=self.audit_head,
            ),
            RestOfNode(controls=self._control.controls, picked_up=self._spawned),
        )
        self._tells.all_to(self.autonomy.push.news)
        self.status = StatusSources(
            node=NodeFacts(
                name=facts.node_name(config.node.name),
                host_id=self.host_id.value,
                host_id_source=self.host_id.algorithm,
                version=__version__,
                pid=os.getpid(),
                mode=config.node.mode.value,
                started_at=from_ms(started_ms),
            ),
            store=self.store,
            feed=self.feed,
            clock=self.clock,
            agents=self._agents,
            loop=self._loop_facts,
            intake=self._intake_facts,
            notifiers_failing=lambda: self.alerts.failing,
            rejections=self.rejections.totals,
            http=self._http_status,
            gateway=self._gateway_snapshot,
            autonomy=self.autonomy.status,
        )
        self.board = StatusBoard(
            gather=partial(gather, self.status),
            changes=self.changes,
            written=lambda: self.store.commits,
        )
        self._front: TcpFront | None = None

    @property
    def http_address(self) -> str | None:
        """Where HTTP on TCP answers now."""
        return None if self._front is None else self._front.status.address

    def _http_status(self) -> HttpStatus:
        if self._front is not None:
            return self._front.status
        return HttpStatus(enabled=False, reason=self._outside.http_off)

    def _build_gateway(self) -> "GatewayParts | None":
        """Nothing of it is loaded where none is wanted."""
        if not is_wanted(self.live.current.gateway, self._outside.state_dir, self._outside.environ):
            return None
        from ambientd.app.gateway_parts import Around, build_gateway

        around = Around(
            store=self.store,
            clock=self.clock,
            models=self.models,
            prices=lambda: current_table(self.live.current.pricing),
            changed=self.news.tell,
            ended=self._session_ended,
            status_changed=self.changes.tell,
            new_key=lambda: self.ids.ulid(self.clock.now()),
            log=self._log,
        )
        return build_gateway(
            self.live.current.gateway,
            around,
            node_name=facts.node_name(self.live.current.node.name),
            state_dir=self._outside.state_dir,
            environ=self._outside.environ,
        )

    def _agents(self) -> Agents:
        """The node's own agents, with the models that operators prefer."""
        return self.models.apply(self.live.current.agents)

    def _gateway_snapshot(self) -> GatewaySnapshot:
        return NO_GATEWAY if self.gateway is None else self.gateway.view.snapshot()

    def _gauges(self) -> dict[AlertMetric, Callable[[], float]]:
        gauges: dict[AlertMetric, Callable[[], float]] = {
            AlertMetric.MISSED_HEARTBEATS: lambda: float(self.feed.lost_since_written()),
            AlertMetric.OUTBOX_DEPTH: lambda: float(self.autonomy.push.waiting()),
        }
        if self.gateway is not None:
            gauges[AlertMetric.GATEWAY_AWAY_SEC] = self.gateway.view.away_sec
        return gauges

    def _task_ended(self, hand_in: Bell) -> None:
        """A session that this node ran has ended."""
        hand_in.ring()
        self.alerts.wake()

    def _spawned(self) -> None:
        """An operator has started a session."""
        self.changes.tell_order()
        self.intake.add_picked_up()

    def _session_ended(self, session_id: str) -> None:
        """A session that others ran was closed."""
        self.alerts.ended(session_id)
        self._log.debug("session.ingested", session=session_id)

    def _loop_facts(self) -> LoopFacts:
        return LoopFacts(
            interval=self.live.current.dispatcher.interval,
            seq=self.dispatcher.seq,
            cycles=self.dispatcher.seq,
            last_cycle_at=self.dispatcher.last_cycle_at,
            file_error=self.heartbeat_file.error,
        )

    def _intake_facts(self) -> IntakeFacts:
        return IntakeFacts(
            waiting=self.intake.waiting,
            odd=self.intake.odd,
            failing=self.intake.failing,
            breakers_open=self.sessions.open_breakers(),
        )

    # --- the API

    def routes(self) -> tuple[Route, ...]:
        """Every route of this node."""
        ledger = Ledger(store=self.store, news=self.news, clock=self.clock, monotonic=trio.current_time)
        routes = (
            *health_routes(self._checks),
            *status_routes(self.board),
            *control_routes(self._control),
            *log_routes(
                Logs(
                    book=self._outside.log_control,
                    clock=self.clock,
                    sleep=trio.sleep,
                    audited=self._audited,
                )
            ),
            *reload_routes(self.reload, self._audited),
            *ledger_routes(ledger),
            *export_routes(ledger),
            *ingest_routes(self.ingest),
            *upkeep_routes(self.retention, self._migrations, self._audited),
            *backup_routes(self.backup, self._audited),
            *alert_routes(Alerts(alerting=self.alerts.alerting, trials=self.alerts, audited=self._audited)),
            *legacy_routes(self._importing, self._audited),
            *analytics_routes(self.analytics),
            *self.autonomy.routes(),
            *recost_routes(self._recosting, self._audited),
        )
        document = openapi_route(lambda: all_routes, version=__version__)
        all_routes = (*routes, document)
        return all_routes

    def _recosting(self) -> "Recosting":
        from ambientd.flows.recost import Recosting

        return Recosting(store=self.store, clock=self.clock, pricing=lambda: self.live.current.pricing)

    def _importing(self) -> "Importing":
        from ambientd.flows.legacy import Importing
        from ambientd.host.legacy_files import DiskLegacyFiles
        from ambientd.store.legacy import JsonStore

        return Importing(
            store=self.store,
            clock=self.clock,
            files=DiskLegacyFiles(),
            open_legacy=JsonStore,
            paths=lambda: self.live.current.ledger.legacy_paths,
            ended=self.alerts.ended,
        )

    def _checks(self) -> list[ReadyCheck]:
        found = self.store.facts()
        return [ReadyCheck("store", found.ready, found.reason)]

    async def _migrations(self) -> MigrationsView:
        rows = await self.store.read(lambda tx: tx.migrations.applied())
        return MigrationsView(
            schema=SCHEMA_MIGRATIONS,
            current=max((row[0] for row in rows), default=0),
            known=self.store.facts().schema_version,
            migrations=[MigrationRow(version, name, at) for version, name, at in rows],
        )

    def _application(self, table: RouteTable) -> Application:
        return build_application(
            table,
            readiness=lambda: self.store.reason,
            log=HttpLogLines(self._log),
            admin_group=self.live.current.socket.admin_group,
            audited=self._audited,
        )

    def _servers(self) -> list[HttpServer]:
        """The Unix socket's server and, with a secret, that of TCP; not yet serving."""
        config, table = self.live.current, RouteTable(self.routes())
        application = self._application(table)
        log, limits = HttpLogLines(self._log), Limits(connections=config.socket.max_connections)
        servers = [HttpServer(application, clock=self.clock, log=log, limits=limits)]
        if (secret := self._outside.http_key) is not None:
            from ambientd.app.front import TcpFront

            self._front = TcpFront(
                config.http,
                keys=(secret.matches,),
                table=table,
                application=application,
                audited=self._audited,
                clock=self.clock,
                log=self._log,
            )
            servers.append(self._front.server)
        else:
            self._log.info("http.off", reason=self._outside.http_off)
        return servers

    # --- its life

    async def run(self) -> str:
        """Runs until a signal asks it to stop; returns the reason. What runs on this node goes on.

        Signals are heard from the first moment on; one that came before waits until the node serves.
        """
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
            return await self._run(signals)

    async def _run(self, signals: AsyncIterator[int]) -> str:
        admin = group_id(self.live.current.socket.admin_group)
        who = partial(caller_of, admin_gid=admin, daemon_uid=os.getuid())
        servers, reason = self._servers(), "stopped"
        async with trio.open_nursery() as outermost:
            await outermost.start(self.store.run)
            await outermost.start(self.feed.run)
            await outermost.start(self.runner.run)
            async with trio.open_nursery() as services:
                services.start_soon(supervise, "dispatcher", self.dispatcher.run, self._log)
                services.start_soon(self._run_when_ready)
                gateway = {} if self.gateway is None else self.gateway.services
                for name, run in {**gateway, **self.autonomy.services}.items():
                    services.start_soon(supervise, name, run, self._log)
                # Whoever connects now waits in the kernel's queue: an ordinary start is over before a 503
                # would help anybody.
                with trio.move_on_after(FIRST_ANSWER_SEC):
                    await self.store.wait_settled()
                async with trio.open_nursery() as listeners:
                    await listeners.start(servers[0].serve, self._outside.listener.sock, who)
                    if self._front is not None:
                        listeners.start_soon(supervise, "http", self._front.run, self._log)
                    reason = await self._until_signal(signals)
                    self._outside.notifier.stopping(reason)
                    self.changes.close()
                    async with trio.open_nursery() as draining:
                        for server in servers:
                            draining.start_soon(server.drain, DRAIN_SEC)
                    listeners.cancel_scope.cancel()
                services.cancel_scope.cancel()
            with trio.move_on_after(LAST_BEAT_SEC):
                await self.dispatcher.stopped()
                await self.feed.flush(LAST_BEAT_SEC)
            await self.store.close()
            outermost.cancel_scope.cancel()
        return reason

    async def _run_when_ready(self) -> None:
        """Services that need the store start when it is ready; until then its reason is shown."""
        notifier = self._outside.notifier
        await self.store.wait_settled()
        told: str | None = None
        while (reason := self.store.facts().reason) is not None:
            if reason != told:
                self._log.error("node.not_ready", reason=reason)
                # Started as far as systemd is concerned: killing it would help nobody, and it has to stay
                # to say why it is not ready.
                notifier.ready(f"not ready: {reason}")
                told = reason
            await trio.sleep(LOOK_AGAIN_SEC)
        if self._front is not None:
            await self._front.wait_tried()
        try:
            await self.models.load(self.store)
        except (StoreError, UnavailableError) as error:
            self._log.warning("node.models_unread", reason=str(error))
        settle_memory()
        notifier.ready(f"ready, socket {self._outside.listener.path}")
        degraded = self.store.facts().degraded
        if degraded:
            self._log.warning("node.degraded", reason=degraded)
        if self._outside.on_ready is not None:
            self._outside.on_ready(self, self._outside.listener.path or "")
        self._log.info("node.ready", version=__version__, socket=self._outside.listener.path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, "sessions", self.sessions.run, self._log)
            nursery.start_soon(supervise, "intake", self.intake.run, self._log)
            nursery.start_soon(supervise, "upkeep", self.retention.run, self._log)
            nursery.start_soon(supervise, "backup", self.backup.run, self._log)
            nursery.start_soon(supervise, "aggregates", self.aggregates.run, self._log)
            nursery.start_soon(supervise, "alerts", self.alerts.run, self._log)
            stored = {} if self.gateway is None else self.gateway.store_services
            for name, run in {**stored, **self.autonomy.store_services}.items():
                nursery.start_soon(supervise, name, run, self._log)

    async def _until_signal(self, signals: AsyncIterator[int]) -> str:
        async for number in signals:
            if number != signal.SIGHUP:
                return signal.Signals(number).name
            self.reload()
        raise AssertionError("the signal receiver never ends by itself")

    def reload(self) -> ReloadView | Rejected:
        """Reads the configuration and takes over what can be taken over; says what that was."""
        notifier = self._outside.notifier
        notifier.reloading(self.clock.monotonic())
        new = self._outside.reload()
        if isinstance(new, Config):
            applied, restart = self.live.replace(new)
            self._outside.log_control.level = self.live.current.log.level
            self._log.info("config.reloaded", applied=applied, needs_restart=restart)
            self.sessions.wake()
            self.autonomy.reloaded()
            if self.gateway is not None:
                self.gateway.retry()
            self.changes.tell_order()
            answer: ReloadView | Rejected = ReloadView(applied=applied, needs_restart=restart)
        else:
            details = tuple(ErrorDetail("configuration", "invalid", text) for text in new)
            answer = Rejected(
                "CONFIG_REFUSED", "the configuration has mistakes; the one in force stays", details
            )
        notifier.ready()
        return answer
