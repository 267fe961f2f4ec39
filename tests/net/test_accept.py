import contextlib
import errno
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.testing

from ambientd.net.accept import PAUSE_MAX, SAY_AGAIN, Seldom, accept_forever
from tests.fakes import http_app
from tests.fakes.http_log import ListHttpLog
from tests.fakes.http_rig import get, serving


class StubbornListener(socket.socket):
    """A real listener whose `accept` fails as often as it is told."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(0), "told to")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[StubbornListener]:
    folder = tempfile.mkdtemp(dir="/tmp")
    with StubbornListener(socket.AF_UNIX) as sock:
        sock.failures = []
        sock.bind(folder + "/s")
        sock.listen()
        yield sock
    shutil.rmtree(folder)


def _call(listener: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.getsockname())
    return client


async def _accept_one(listener: socket.socket, log: ListHttpLog) -> None:
    taken = trio.Event()

    def take(sock: socket.socket) -> None:
        sock.close()
        taken.set()

    with _call(listener):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(accept_forever, listener, take, log=log))
            await taken.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EAGAIN, errno.EPERM])
async def test_a_connection_that_died_in_the_queue_is_passed_over(
    listener: StubbornListener, autojump_clock: trio.testing.MockClock, code: int
) -> None:
    log, begin = ListHttpLog(), trio.current_time()
    listener.failures = [code] * 5
    await _accept_one(listener, log)
    assert log.notes == []
    assert trio.current_time() == begin


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_is_waited_out_and_told_once(
    listener: StubbornListener, autojump_clock: trio.testing.MockClock, code: int
) -> None:
    log, begin = ListHttpLog(), trio.current_time()
    listener.failures = [code] * 20
    await _accept_one(listener, log)
    assert log.notes == [("accept_paused", {"reason": errno.errorcode[code], "kept_back": 0})]
    assert 10 < trio.current_time() - begin <= 20 * PAUSE_MAX


async def test_a_long_shortage_is_told_once_a_minute(
    listener: StubbornListener, autojump_clock: trio.testing.MockClock
) -> None:
    log = ListHttpLog()
    listener.failures = [errno.EMFILE] * int(SAY_AGAIN * 2 + 10)
    await _accept_one(listener, log)
    assert len(log.notes) == 3
    assert sum(int(str(facts["kept_back"])) for _, facts in log.notes) >= SAY_AGAIN * 2 - 5


async def test_an_unusable_listener_is_an_error(listener: StubbornListener) -> None:
    listener.failures = [errno.EINVAL]
    with pytest.raises(BaseExceptionGroup) as caught:
        await _accept_one(listener, ListHttpLog())
    assert caught.group_contains(OSError, match="told to")


def test_seldom_counts_what_it_keeps_back() -> None:
    seldom = Seldom()
    assert [seldom.due(at) for at in (0.0, 1.0, 2.0, SAY_AGAIN, SAY_AGAIN + 1)] == [0, None, None, 2, None]


async def _starve_and_recover() -> ListHttpLog:
    async with serving(http_app.build()) as rig:
        assert (await rig.ask(get("/livez"))).status == 200
        await trio.testing.wait_all_tasks_blocked()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        hoard = []
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
        for client in clients:
            client.setblocking(False)
            client.connect(rig.path)
            client.send(get("/livez"))
        await trio.sleep(2.5)
        assert rig.server.connections == 0
        for fd in hoard:
            os.close(fd)
        await trio.sleep(1.5)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            client.close()
        return rig.log


def test_a_process_without_free_descriptors_stays_and_recovers() -> None:
    """In a child, because the limit would starve the test run itself."""
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            log = trio.run(_starve_and_recover)
            assert [event for event, _ in log.notes] == ["accept_paused"], log.notes
            assert log.faults == []
        except BaseException:  # noqa: BLE001 - the child must not go on as the test run
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
