"""HTTP to the control plane over one kept connection. `httpcore2` and `ssl` are loaded with the first use.

Nothing is sent before the server has proven itself: by a certificate that the system's authorities (or those
of a file) vouch for and, where one is set, by a pinned key. No redirect is followed.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import trio

from ambientd.config.autonomy import ControlPlaneConfig
from ambientd.config.upstream import ControlAddress
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import UnavailableError

if TYPE_CHECKING:
    import ssl

    import httpcore2

ANSWER_MAX = 8 * 1024 * 1024
# Servers of our own close an idle connection after 75 seconds; one that is just being closed is not used.
KEEP_SEC = 70.0
_INSTALL = "pip install 'ambient-node[control-link]'"
# A server that wants one and gets none ends the connection after the handshake, without a word.
WANTS_CERTIFICATE = " (does it want a client certificate? control_plane.client_cert)"
OTHER_KEY = "another key than the pinned one"


class TransportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the control plane, and how it proves itself. `pin` is `sha256:` and the digest of its
    certificate's public key; `proxy` an `http://` or `socks5://` address."""

    address: ControlAddress
    ca_file: str | None = None
    pin: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = None


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
        self._settings = settings()
        self._agent = agent
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        """See the port; `target` begins behind the address's path."""
        try:
            with trio.fail_after(seconds):
                return await self._send(method, target, headers, body)
        except trio.TooSlowError:
            await self.aclose()
            raise UnavailableError("no answer in time") from None

    async def aclose(self) -> None:
        """Closes the connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await pool.aclose()

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> ControlAnswer:
        try:
            import httpcore2
        except ImportError:
            raise UnavailableError(f"the package httpcore2 is missing: {_INSTALL}") from None
        await self._follow()
        address = self._settings.address
        given = {"Host": address.host_header, "User-Agent": self._agent, "Accept": "application/json"}
        if body:
            given |= {"Content-Type": "application/json"}
        if method != "GET":
            given |= {"Content-Length": str(len(body))}
        given |= headers
        try:
            pool = await self._opened()
            async with pool.stream(
                method, address.url + target, headers=list(given.items()), content=body or None
            ) as answer:
                return ControlAnswer(
                    status=answer.status, headers=_headers(answer.headers), body=await _body(answer)
                )
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            httpcore2.ProxyError,
        ) as error:
            await self.aclose()
            wants = self._settings.address.tls and self._settings.client_cert is None
            raise UnavailableError(_words(error, WANTS_CERTIFICATE if wants else "")) from None
        except ImportError:
            await self.aclose()
            raise UnavailableError(f"a socks5:// proxy needs the package socksio: {_INSTALL}") from None
        except OSError as error:
            await self.aclose()
            raise UnavailableError(f"no connection: {error.strerror or type(error).__name__}") from None

    async def _follow(self) -> None:
        wanted = self._wanted()
        if wanted != self._settings:
            await self.aclose()
            self._settings = wanted

    async def _opened(self) -> "httpcore2.AsyncConnectionPool":
        if self._pool is not None:
            return self._pool
        import httpcore2

        settings = self._settings
        # Reading the authorities takes tens of milliseconds.
        context = await trio.to_thread.run_sync(self._context) if settings.address.tls else None
        # A pinned server is asked for its certificate as soon as the handshake is over.
        backend = None
        if settings.pin is not None and context is not None:
            from ambientd.net.pinned_backend import PinnedBackend

            backend = PinnedBackend(settings.pin, settings.address.host)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=1,
            keepalive_expiry=KEEP_SEC,
            retries=0,
            proxy=None if settings.proxy is None else httpcore2.Proxy(settings.proxy),
            network_backend=backend,
        )
        return self._pool

    def _context(self) -> "ssl.SSLContext":
        import ssl

        settings = self._settings
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


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


async def _body(answer: "httpcore2.Response") -> bytes:
    parts: list[bytes] = []
    taken = 0
    async with aclosing(answer.aiter_stream()) as stream:
        async for part in stream:
            taken += len(part)
            if taken > ANSWER_MAX:
                raise UnavailableError(f"the answer is longer than {ANSWER_MAX} bytes")
            parts.append(part)
    return b"".join(parts)


def _words(error: Exception, when_cut: str) -> str:
    """What kind of trouble it was, `when_cut` after a connection that was cut. The library's text may hold
    the address."""
    import ssl

    if str(error) == OTHER_KEY:
        return "the server's key is not the pinned one (control_plane.pin)"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return "no TLS connection (the address speaks another protocol, or wants a client certificate)"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()
    name = type(error).__name__
    words = {
        "Proxy": "the proxy refused",
        "Connect": "no connection",
        "Timeout": "no answer in time",
        "Protocol": f"the answer is no HTTP, or was cut off{when_cut}",
        "ReadError": f"the connection was cut off{when_cut}",
    }
    return next((text for sign, text in words.items() if sign in name), f"the connection broke ({name})")


def _causes(error: BaseException) -> Iterable[BaseException]:
    """The error and what is behind it; a host of several addresses has failed at each."""
    waiting: list[BaseException] = [error]
    while waiting:
        cause = waiting.pop(0)
        yield cause
        behind = cause.__cause__ or cause.__context__
        waiting += [] if behind is None else [behind]
        waiting += cause.exceptions if isinstance(cause, BaseExceptionGroup) else []
