"""The baseline of the benches over HTTP: the least that h11 and trio need to answer."""

import contextlib
from collections.abc import Awaitable, Callable

import h11
import trio


def bare_answer(
    headers: list[tuple[str, str]], body: bytes
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A handler of connections that gives every request the same answer and keeps the connection."""

    async def answer(stream: trio.SocketStream) -> None:
        parser = h11.Connection(h11.SERVER)
        with contextlib.suppress(trio.BrokenResourceError):  # the generator leaves in mid-request
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(await stream.receive_some(16384))
                elif isinstance(event, h11.EndOfMessage):
                    head = parser.send(h11.Response(status_code=200, reason=b"OK", headers=headers))
                    data = parser.send(h11.Data(data=body))
                    end = parser.send(h11.EndOfMessage())
                    await stream.send_all((head or b"") + (data or b"") + (end or b""))
                    parser.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    break
        await stream.aclose()

    return answer
