"""The way to the control plane: which transport goes it, whom it trusts, and how its troubles are told."""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from ambientd.config.autonomy import ControlPlaneConfig
from ambientd.config.upstream import ControlAddress
from ambientd.ports.controlplane import ControlAnswer, ControlTransport
from ambientd.ports.errors import UnavailableError

if TYPE_CHECKING:
    import ssl

ANSWER_MAX = 8 * 1024 * 1024
# Servers of our own close an idle connection after 75 seconds; one that is just being closed is not used.
KEEP_SEC = 70.0
TOO_LONG = f"the answer is longer than {ANSWER_MAX} bytes"
NO_HTTP = "the answer is no HTTP, or was cut off"
OTHER_KEY = "the server's key is not the pinned one (control_plane.pin)"
INSTALL = "pip install 'ambient-node[control-link]'"
CUT_OFF = "the connection was cut off"
# A server that wants one and gets none ends the connection after the handshake, without a word.
_WANTS_CERTIFICATE = " (does it want a client certificate? control_plane.client_cert)"


class TransportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the control plane, and how it proves itself. `pin` is `sha256:` and the digest of its
    certificate's public key; `proxy` an `http://` or `socks5://` address."""

    address: ControlAddress
    ca_file: str | None = None
    pin: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = None

    @property
    def when_cut(self) -> str:
        """What to say behind the words of a connection that was cut off."""
        return _WANTS_CERTIFICATE if self.address.tls and self.client_cert is None else ""


def settings_of(config: ControlPlaneConfig, address: ControlAddress) -> TransportSettings:
    """The way to an address, as a node is configured."""
    return TransportSettings(
        address=address,
        ca_file=config.ca_file,
        pin=config.pin,
        client_cert=config.client_cert,
        client_key=config.client_key,
        proxy=config.proxy,
    )


class HttpControlTransport:
    """Implements `ports.controlplane.ControlTransport`. For one request at a time."""

    def __init__(self, settings: Callable[[], TransportSettings], *, agent: str) -> None:
        """`settings` are asked for with each request: others close the connection of before. `agent` is the
        User-Agent. Nothing is opened or loaded."""
        self._wanted = settings
        self._agent = agent
        self._settings: TransportSettings | None = None
        self._way: ControlTransport | None = None

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        """See the port; `target` begins behind the address's path."""
        wanted = self._wanted()
        if self._way is None or wanted != self._settings:
            await self.aclose()
            self._settings, self._way = wanted, _build(wanted, self._agent)
        return await self._way.send(method, target, headers, body, seconds=seconds)

    async def aclose(self) -> None:
        """Closes the connection."""
        way, self._way = self._way, None
        if way is not None:
            await way.aclose()


def _build(settings: TransportSettings, agent: str) -> ControlTransport:
    if settings.proxy is not None:
        from ambientd.net.control_plane_proxied import ProxiedControlTransport

        return ProxiedControlTransport(settings, agent=agent)
    from ambientd.net.control_plane_direct import DirectControlTransport

    return DirectControlTransport(settings, agent=agent)


def build_context(settings: TransportSettings) -> "ssl.SSLContext":
    """Whom to trust, and what to show. Reading the authorities takes tens of milliseconds. Raises
    UnavailableError."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.client_cert is not None:
            context.load_cert_chain(settings.client_cert, settings.client_key)
    except OSError as error:
        name = settings.ca_file or settings.client_cert or "the system's certificates"
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise UnavailableError(f"{name} cannot be used: {str(reason).lower()}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def words_of(error: BaseException, when_cut: str = "") -> str | None:
    """What kind of trouble it was, `when_cut` behind that a connection was cut off; None when nothing tells.
    A library's text may hold the address."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror | UnicodeError):
            return "the name cannot be resolved"
        if type(cause).__module__ == "ssl":
            return _words_of_tls(cause)
        if isinstance(cause, OSError) and cause.errno:
            cut = when_cut if cause.errno in (errno.ECONNRESET, errno.EPIPE) else ""
            return os.strerror(cause.errno).lower() + cut
    return None


def _words_of_tls(error: BaseException) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted ({error.verify_message})"
    return "no TLS connection (the address speaks another protocol, or wants a client certificate)"


def _causes(error: BaseException) -> Iterable[BaseException]:
    """The error and what is behind it; a host of several addresses has failed at each."""
    waiting: list[BaseException] = [error]
    while waiting:
        cause = waiting.pop(0)
        yield cause
        behind = cause.__cause__ or cause.__context__
        waiting += [] if behind is None else [behind]
        waiting += cause.exceptions if isinstance(cause, BaseExceptionGroup) else []
