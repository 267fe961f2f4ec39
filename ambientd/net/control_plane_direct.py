"""HTTP to the control plane over one kept connection, without a proxy. `ssl` is loaded with the first use.

Nothing is sent before the server has proven itself: by a certificate that the system's authorities (or those
of a file) vouch for and, where one is set, by a pinned key. No redirect is followed. A general client takes
five times the processor and 7 MiB more.
"""

import select
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

import h11
import trio

from ambientd.core.answerhead import parse_plain_answer
from ambientd.net.control_plane_http import (
    ANSWER_MAX,
    CUT_OFF,
    KEEP_SEC,
    NO_HTTP,
    OTHER_KEY,
    TOO_LONG,
    TransportSettings,
    build_context,
    words_of,
)
from ambientd.net.quick_stream import QuickStream
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import UnavailableError

if TYPE_CHECKING:
    import ssl

RECEIVE_BYTES = 64 * 1024
HEAD_MAX = 16 * 1024


class DirectControlTransport:
    """Implements `ports.controlplane.ControlTransport`. For one request at a time."""

    def __init__(self, settings: TransportSettings, *, agent: str) -> None:
        """`agent` is the User-Agent. Nothing is opened or loaded."""
        self.settings = settings
        self._agent = agent
        self._kept: _Link | None = None
        self._context: ssl.SSLContext | None = None

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        """See the port; `target` begins behind the address's path."""
        given = {"Host": self.settings.address.host_header, "User-Agent": self._agent, **headers}
        try:
            with trio.fail_after(seconds):
                return await self._send(_Asked(method, self.settings.address.path + target, given, body))
        except trio.TooSlowError:
            raise UnavailableError("no answer in time") from None

    async def aclose(self) -> None:
        """Closes the connection."""
        link, self._kept = self._kept, None
        if link is not None:
            await trio.aclose_forcefully(link.stream)

    async def _send(self, asked: "_Asked") -> ControlAnswer:
        link, self._kept = await self._opened(), None
        again = False
        try:
            await link.stream.send_all(asked.raw)
            answer, again = await _read(link.stream, asked)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            when_cut = self.settings.when_cut
            raise UnavailableError(words_of(error, when_cut) or CUT_OFF + when_cut) from None
        except _CutOffError:
            raise UnavailableError(NO_HTTP + self.settings.when_cut) from None
        finally:  # also when cancelled: a connection with half an answer in it serves nobody
            if again:
                link.used_at, self._kept = trio.current_time(), link
            else:
                await trio.aclose_forcefully(link.stream)
        return answer

    # --- the connection

    async def _opened(self) -> "_Link":
        if self._kept is not None and self._kept.is_usable(trio.current_time()):
            return self._kept
        await self.aclose()
        address = self.settings.address
        try:
            plain = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, UnicodeError) as error:
            raise UnavailableError(words_of(error) or CUT_OFF) from None
        sock = socket.socket(fileno=plain.socket.detach())
        stream: trio.abc.Stream = QuickStream(sock)
        if not address.tls:
            return _Link(stream, sock)
        try:
            stream = await self._secured(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Link(stream, sock)

    async def _secured(self, plain: trio.abc.Stream) -> trio.abc.Stream:
        import ssl

        settings = self.settings
        if self._context is None:
            # Reading the authorities takes tens of milliseconds.
            self._context = await trio.to_thread.run_sync(build_context, settings)
            self._context.set_alpn_protocols(["http/1.1"])
        host = settings.address.host
        stream = trio.SSLStream(plain, self._context, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, ssl.CertificateError) as error:
            raise UnavailableError(words_of(error) or CUT_OFF) from None
        if settings.pin is not None:
            from ambientd.core.spki import pin_of

            shown = stream.getpeercert(binary_form=True)
            if shown is None or pin_of(shown) != settings.pin:
                raise UnavailableError(OTHER_KEY)
        return stream


class _CutOffError(Exception):
    """There is no whole answer."""


class _Asked:
    """One request, as bytes."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.target, self.headers = method, target, headers
        if body:
            self.headers["Content-Type"] = "application/json"
        if method != "GET":
            self.headers["Content-Length"] = str(len(body))
        lines = [f"{method} {self.target} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers.items())]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise UnavailableError("a header of the request cannot be sent")
        self.raw = "\r\n".join((*lines, "\r\n")).encode("ascii") + body


class _Link:
    """A connection, and when it was used last."""

    def __init__(self, stream: trio.abc.Stream, sock: socket.socket) -> None:
        self.stream = stream
        self.used_at = 0.0
        self._sock = sock

    def is_usable(self, now: float) -> bool:
        """Whether it is young, and the other side has said nothing since: that could only be farewell."""
        if now - self.used_at > KEEP_SEC or self._sock.fileno() < 0:
            return False
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return not poller.poll(0)


# --- answers


async def _read(stream: trio.abc.Stream, asked: _Asked) -> tuple[ControlAnswer, bool]:
    """The answer, and whether the connection may be used again."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_MAX:
            raise _CutOffError
        data += await _more(stream)
    head = parse_plain_answer(data)
    if head is None:
        return await _read_unusual(stream, asked, bytes(data))
    if head.length > ANSWER_MAX:
        raise UnavailableError(TOO_LONG)
    end = head.size + head.length
    while len(data) < end:
        data += await _more(stream)
    again = len(data) == end and "close" not in head.headers.get("connection", "").lower()
    return ControlAnswer(status=head.status, headers=head.headers, body=bytes(data[head.size : end])), again


async def _more(stream: trio.abc.Stream) -> bytes | bytearray:
    data = await stream.receive_some(RECEIVE_BYTES)
    if not data:
        raise _CutOffError
    return data


async def _read_unusual(stream: trio.abc.Stream, asked: _Asked, data: bytes) -> tuple[ControlAnswer, bool]:
    """In chunks, without a length, behind interim answers: h11 knows; the connection is not used again."""
    parser = h11.Connection(h11.CLIENT, HEAD_MAX)
    parser.send(h11.Request(method=asked.method, target=asked.target, headers=list(asked.headers.items())))
    parts: list[bytes] = []
    answer: h11.Response | None = None
    taken = 0
    try:
        parser.receive_data(data)
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
            elif isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                taken += len(event.data)
                if taken > ANSWER_MAX:
                    raise UnavailableError(TOO_LONG)
            elif not isinstance(event, h11.InformationalResponse):
                raise _CutOffError
    except h11.RemoteProtocolError:
        raise _CutOffError from None
    if answer is None:
        raise _CutOffError
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in answer.headers}
    return ControlAnswer(status=answer.status_code, headers=headers, body=b"".join(parts)), False
