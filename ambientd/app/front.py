"""The API on TCP: listener, door and server, put together for nodes that have a secret.

Imported only then; a node without one pays nothing for it.
"""

import ipaddress
import socket
from collections.abc import Sequence
from functools import partial

from ambientd.api.gate import Gate, KeyCheck
from ambientd.api.router import Audited, RouteTable
from ambientd.app.httplog import HttpLogLines
from ambientd.config.http import Listen, parse_listen
from ambientd.config.schema import HttpConfig
from ambientd.core.site import build_site
from ambientd.host.log import Logger
from ambientd.net.http_server import HttpServer, Limits
from ambientd.net.tcp_socket import caller_of_tcp, open_tcp_listener, port_of
from ambientd.ports.clock import Clock
from ambientd.ports.http import Application
from ambientd.services.listening import Listening
from ambientd.wire.messages import HttpStatus


class TcpFront:
    """Everything that serves TCP. `run` belongs into the listeners' nursery."""

    def __init__(
        self,
        config: HttpConfig,
        *,
        keys: Sequence[KeyCheck],
        table: RouteTable,
        application: Application,
        audited: Audited,
        clock: Clock,
        log: Logger,
    ) -> None:
        listen = parse_listen(config.listen)
        if listen is None:
            raise ValueError("the configuration was not checked")
        self._config = config
        self._listen: Listen = listen
        self._keys = keys
        self._table = table
        self._audited = audited
        self._log = log
        self._address: str | None = None
        self.server = HttpServer(
            application,
            clock=clock,
            log=HttpLogLines(log),
            limits=Limits(connections=config.max_connections),
        )
        self._listening = Listening(
            wanted=listen.shown,
            open_socket=partial(open_tcp_listener, listen.host, listen.port),
            serve=self._serve,
            log=log,
        )

    @property
    def status(self) -> HttpStatus:
        """Where it listens, or why it does not."""
        address = self._address if self._listening.is_open else None
        return HttpStatus(enabled=True, address=address, reason=self._listening.problem)

    async def run(self) -> None:
        """Listens and serves until cancelled."""
        await self._listening.run()

    async def wait_tried(self) -> None:
        """Returns when the first attempt to listen has ended, well or not."""
        await self._listening.wait_tried()

    async def _serve(self, sock: socket.socket) -> None:
        port = port_of(sock)
        self._address = Listen(self._listen.host, port).shown
        config = self._config
        gate = Gate(
            table=self._table,
            site=build_site(self._listen.host, port, hosts=config.hosts, origins=config.origins),
            keys=self._keys,
            proxies=tuple(ipaddress.ip_network(text) for text in config.trusted_proxies),
            audited=self._audited,
        )
        self._log.info("http.listening", address=self._address)
        await self.server.serve(sock, caller_of_tcp, door=gate)
