"""HTTP to the control plane through a proxy, over one kept connection. `httpcore2` and `ssl` are loaded with
the first use. Nothing is sent before the server has proven itself, as in `control_plane_direct`.
"""

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from ambientd.net.control_plane_http import (
    ANSWER_MAX,
    CUT_OFF,
    INSTALL,
    KEEP_SEC,
    NO_HTTP,
    OTHER_KEY,
    TOO_LONG,
    TransportSettings,
    build_context,
    words_of,
)
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import UnavailableError

if TYPE_CHECKING:
    import httpcore2

    from ambientd.net.held_backend import HeldBackend

NO_SOCKS = "the proxy does not speak SOCKS5"


class ProxiedControlTransport:
    """Implements `ports.controlplane.ControlTransport`. For one request at a time."""

    def __init__(self, settings: TransportSettings, *, agent: str) -> None:
        """`agent` is the User-Agent. Nothing is opened or loaded."""
        self.settings = settings
        self._agent = agent
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._held: HeldBackend | None = None

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
        (pool, self._pool), (held, self._held) = (self._pool, None), (self._held, None)
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            if pool is not None:
                await pool.aclose()
            if held is not None:
                await held.aclose()

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> ControlAnswer:
        try:
            import httpcore2
        except ImportError:
            raise UnavailableError(f"the package httpcore2 is missing: {INSTALL}") from None
        address = self.settings.address
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
            raise UnavailableError(_words(error, self.settings.when_cut)) from None
        except ImportError:
            await self.aclose()
            raise UnavailableError(f"a socks5:// proxy needs the package socksio: {INSTALL}") from None
        except OSError as error:
            await self.aclose()
            raise UnavailableError(f"no connection: {error.strerror or type(error).__name__}") from None
        except UnavailableError:
            await self.aclose()
            raise
        except Exception as error:
            # What answers no SOCKS makes its library fail in ways of its own, assertions among them.
            await self.aclose()
            if self._by_socks:
                raise UnavailableError(f"{NO_SOCKS} ({type(error).__name__})") from None
            raise

    @property
    def _by_socks(self) -> bool:
        return (self.settings.proxy or "").startswith("socks5:")

    async def _opened(self) -> "httpcore2.AsyncConnectionPool":
        if self._pool is not None:
            return self._pool
        import httpcore2

        settings = self.settings
        # Reading the authorities takes tens of milliseconds.
        context = await trio.to_thread.run_sync(build_context, settings) if settings.address.tls else None
        # A pinned server is asked for its certificate as soon as the handshake is over.
        backend: httpcore2.AsyncNetworkBackend = httpcore2.TrioBackend()
        if settings.pin is not None and context is not None:
            from ambientd.net.pinned_backend import PinnedBackend

            backend = PinnedBackend(settings.pin, settings.address.host)
        from ambientd.net.held_backend import HeldBackend

        self._held = HeldBackend(backend)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=1,
            keepalive_expiry=KEEP_SEC,
            retries=0,
            proxy=None if settings.proxy is None else httpcore2.Proxy(settings.proxy),
            network_backend=self._held,
        )
        return self._pool


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


async def _body(answer: "httpcore2.Response") -> bytes:
    parts: list[bytes] = []
    taken = 0
    async with aclosing(answer.aiter_stream()) as stream:
        async for part in stream:
            taken += len(part)
            if taken > ANSWER_MAX:
                raise UnavailableError(TOO_LONG)
            parts.append(part)
    return b"".join(parts)


def _words(error: Exception, when_cut: str) -> str:
    """What kind of trouble it was, `when_cut` after a connection that was cut."""
    if str(error) == OTHER_KEY:
        return OTHER_KEY
    found = words_of(error, when_cut)
    if found is not None:
        return found
    name = type(error).__name__
    words = {
        "Proxy": "the proxy refused",
        "Connect": "no connection",
        "Timeout": "no answer in time",
        "Protocol": f"{NO_HTTP}{when_cut}",
        "ReadError": f"{CUT_OFF}{when_cut}",
    }
    return next((text for sign, text in words.items() if sign in name), f"the connection broke ({name})")
