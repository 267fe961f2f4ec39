import errno
import socket

import trio
from trio.testing import MockClock

from ambientd.services.listening import Listening
from tests.fakes.log import ListLog


class Port:
    """An address that can be had, or not."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.tries: list[float] = []
        self.given: list[socket.socket] = []

    def open(self) -> socket.socket:
        self.tries.append(trio.current_time())
        if self.error is not None:
            raise OSError(self.error, "no")
        sock = socket.socket()
        self.given.append(sock)
        return sock


def listening(port: Port, log: ListLog, seconds: float = float("inf")) -> Listening:
    async def serve(sock: socket.socket) -> None:
        await trio.sleep(seconds)

    return Listening(wanted="127.0.0.1:7777", open_socket=port.open, serve=serve, log=log)


def listens(service: Listening) -> bool:
    return service.is_open and service.problem is None


async def test_a_taken_port_is_said_once_tried_again_and_forgotten_when_it_is_free(
    autojump_clock: MockClock,
) -> None:
    port, log = Port(), ListLog()
    port.error = errno.EADDRINUSE
    service = listening(port, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await service.wait_tried()
        assert service.problem is not None
        assert "another program" in service.problem
        assert not listens(service)
        await trio.sleep(200)
        port.error = None
        await trio.sleep(31)
        assert listens(service)
        nursery.cancel_scope.cancel()
    assert log.events() == ["http.not_listening", "http.listening_again"]
    gaps = [after - before for before, after in zip(port.tries, port.tries[1:], strict=False)]
    assert [round(gap) for gap in gaps[:6]] == [1, 2, 4, 8, 16, 30]
    assert not listens(service)
    assert port.given[0].fileno() == -1


async def test_another_reason_is_said_anew(autojump_clock: MockClock) -> None:
    port, log = Port(), ListLog()
    port.error = errno.EADDRNOTAVAIL
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening(port, log).run)
        await trio.sleep(10)
        port.error = errno.EACCES
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert log.events() == ["http.not_listening"] * 2
