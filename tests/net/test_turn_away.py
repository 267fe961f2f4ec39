"""Clients in the queue of a socket that nobody will serve get their answer, and nobody can hold that up."""

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.net.turn_away import ALL_SEC, turn_away

ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(Path(folder) / "s"))
        sock.listen(128)
        yield sock


def client(listener: socket.socket, request: bytes = b"") -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(5)
    link.connect(listener.getsockname())
    link.sendall(request)
    return link


def test_everybody_who_waits_is_answered_and_the_queue_is_empty(listener: socket.socket) -> None:
    links = [client(listener, b"GET / HTTP/1.1\r\n\r\n") for _ in range(5)]
    assert turn_away(listener, ANSWER, time.monotonic) == 5
    for link in links:
        with link:
            assert link.recv(1024) == ANSWER
            assert link.recv(1024) == b"", "the end is clean, not a reset"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_an_empty_queue_is_nothing_to_wait_for(listener: socket.socket) -> None:
    assert turn_away(listener, ANSWER, time.monotonic) == 0


def test_clients_that_say_nothing_are_answered_too_and_cost_a_bounded_time(listener: socket.socket) -> None:
    links = [client(listener) for _ in range(60)]
    began = time.monotonic()
    assert turn_away(listener, ANSWER, time.monotonic) == 60
    assert time.monotonic() - began < ALL_SEC + 5
    for link in links:
        with link:
            assert link.recv(1024) == ANSWER


def test_a_client_that_has_gone_is_no_trouble(listener: socket.socket) -> None:
    client(listener, b"GET /").close()
    with client(listener, b"GET /") as link:
        turn_away(listener, ANSWER, time.monotonic)
        assert link.recv(1024) == ANSWER
