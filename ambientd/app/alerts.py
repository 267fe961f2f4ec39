"""Builds the alerts: who is told, what is measured beside the ledger, and the service."""

from collections.abc import Mapping
from functools import partial
from uuid import uuid4

from ambientd import __version__
from ambientd.config.schema import AlertsConfig, NotifierConfig, NotifierKind
from ambientd.flows.alerts import Alerting, Gauges
from ambientd.host.log import Logger
from ambientd.host.notifiers import CommandNotifier, LogNotifier
from ambientd.host.secrets import SecretError, read_secret_file
from ambientd.net.webhook import WebhookNotifier
from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.notifier import Notifier
from ambientd.ports.store import Store
from ambientd.services.alerts import AlertsService
from ambientd.services.bell import Bell

LOG_NAME = "log"  # always there, so that nothing is told to nobody


def build_alerts(
    config: AlertsConfig,
    *,
    store: Store,
    clock: Clock,
    gauges: Gauges,
    node: str,
    environ: Mapping[str, str],
    log: Logger,
) -> AlertsService:
    """The service, not yet running. `environ` is the daemon's own environment."""
    to_log = LogNotifier(info=log.info, warning=log.warning)
    notifiers: dict[str, Notifier] = {LOG_NAME: to_log}
    for name, receiver in config.notifiers.items():
        notifiers[name] = _notifier(receiver, clock=clock, environ=environ, to_log=to_log)
    bell = Bell()
    alerting = Alerting(
        store=store,
        clock=clock,
        gauges=gauges,
        notifiers=tuple(notifiers),
        node=node,
        new_id=lambda: str(uuid4()),
        woken=bell.ring,
    )
    return AlertsService(
        alerting=alerting, notifiers=notifiers, bell=bell, sweep_interval=config.sweep_interval, log=log
    )


def _notifier(
    config: NotifierConfig, *, clock: Clock, environ: Mapping[str, str], to_log: LogNotifier
) -> Notifier:
    match config.kind:
        case NotifierKind.LOG:
            return to_log
        case NotifierKind.COMMAND:
            return CommandNotifier(
                argv=config.command or (), base=environ, timeout=config.timeout, attempts=config.attempts
            )
        case NotifierKind.WEBHOOK:
            return WebhookNotifier(
                url=config.url or "",
                key=partial(_read_key, config.secret_file),
                clock=clock,
                timeout=config.timeout,
                attempts=config.attempts,
                agent=f"ambientd/{__version__}",
            )


def _read_key(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return read_secret_file(path).reveal().encode()
    except SecretError as error:
        raise UnavailableError(str(error)) from None
