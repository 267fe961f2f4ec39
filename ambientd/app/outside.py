"""What the start-up hands to the node."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ambientd.config.schema import Config
from ambientd.host.log import LogControl, Logger
from ambientd.host.notify import Notifier
from ambientd.host.secrets import Secret
from ambientd.net.unix_socket import UnixListener
from ambientd.ports.backup import ExtraFile

if TYPE_CHECKING:
    from ambientd.app.node import Node


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """What the start-up found on this machine. `reload` reads the configuration anew: it, or its problems.
    `configuration` gives its files for a backup. `http_key` opens HTTP on TCP; without one `http_off` says
    why there is none."""

    state_dir: Path
    database: Path
    environ: Mapping[str, str]
    listener: UnixListener
    notifier: Notifier
    log: Logger
    log_control: LogControl
    reload: Callable[[], Config | Sequence[str]]
    configuration: Callable[[], Sequence[ExtraFile]] = tuple
    on_ready: "Callable[[Node, str], None] | None" = None
    http_key: Secret | None = None
    http_off: str | None = None
    offline: bool = False  # the operator said so
