import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.net.unix_socket import (
    PATH_MAX_BYTES,
    ListenError,
    SocketInUseError,
    adopt_unix_listener,
    caller_of,
    group_id,
    open_unix_listener,
)

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="changes its uid")


@pytest.fixture
def folder() -> Iterator[str]:
    """A short path: `tmp_path` may be too long for a socket."""
    path = tempfile.mkdtemp(dir="/tmp")
    os.chmod(path, 0o755)  # noqa: S103 - strangers must reach the socket to be refused
    yield path
    shutil.rmtree(path)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(path)
        except OSError:
            return False
        return True


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_exact_under_any_umask_and_the_umask_is_left_alone(folder: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = open_unix_listener(folder + "/run/deep/s")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert mode_of(folder + "/run/deep/s") == 0o660
    assert mode_of(folder + "/run/deep") == mode_of(folder + "/run") == 0o755
    assert answers(folder + "/run/deep/s")
    listener.close()
    assert os.listdir(folder + "/run/deep") == []


def test_a_private_socket_gets_a_private_folder(folder: str) -> None:
    listener = open_unix_listener(folder + "/run/s", mode=0o600)
    assert (mode_of(folder + "/run/s"), mode_of(folder + "/run")) == (0o600, 0o700)
    listener.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_socket_is_never_wider_than_0660_while_it_is_made(folder: str, umask: int) -> None:
    """A watcher looks at every file in the folder as fast as it can, while sockets come and go."""
    path, wider, seen, stop = folder + "/s", [], [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                found = os.lstat(path)
            except OSError:
                continue
            seen[0] += 1
            if stat.S_IMODE(found.st_mode) & ~0o660:
                wider.append(oct(found.st_mode))

    watcher = threading.Thread(target=watch)
    before = os.umask(umask)
    watcher.start()
    try:
        for _ in range(330):
            open_unix_listener(path).close()
    finally:
        stop.set()
        watcher.join()
        os.umask(before)
    assert wider == []
    assert seen[0] > 0


_RACE = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path, got = sys.argv[1], 0
print("ready", flush=True)
while not os.path.exists(path + ".stop"):
    try:
        names = [path, *(os.path.join(d, n) for d, _, ns in os.walk(os.path.dirname(path)) for n in ns)]
    except OSError:
        names = [path]
    for name in names:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(name)
            got += 1
        except OSError:
            pass
        client.close()
print(got)
"""


@needs_root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_stranger_who_races_never_gets_a_connection(folder: str, umask: int) -> None:
    path = folder + "/s"
    stranger = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _RACE, path], stdout=subprocess.PIPE, text=True
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "ready\n"
    before = os.umask(umask)
    try:
        for _ in range(1000):
            open_unix_listener(path).close()
    finally:
        os.umask(before)
        Path(path + ".stop").touch()
        output, _ = stranger.communicate(timeout=20)
    assert output == "0\n"


@needs_root
def test_the_race_above_can_be_won_against_a_careless_server(folder: str) -> None:
    path = folder + "/s"
    stranger = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _RACE, path], stdout=subprocess.PIPE, text=True
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "ready\n"
    before = os.umask(0)
    try:
        for _ in range(300):
            with socket.socket(socket.AF_UNIX) as careless:
                careless.bind(path)
                careless.listen()
                time.sleep(0.002)  # the window is always there; held open so that two busy cores see it
                os.chmod(path, 0o660)
            os.unlink(path)
    finally:
        os.umask(before)
        Path(path + ".stop").touch()
        output, _ = stranger.communicate(timeout=20)
    assert int(output) > 0


def test_a_stale_socket_is_replaced(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(folder + "/s")
        dead.listen()
    assert not answers(folder + "/s")
    listener = open_unix_listener(folder + "/s")
    assert answers(folder + "/s")
    listener.close()
    assert os.listdir(folder) == []


def test_a_live_socket_is_left_alone(folder: str) -> None:
    first = open_unix_listener(folder + "/s")
    inode = os.lstat(folder + "/s").st_ino
    with pytest.raises(SocketInUseError, match="another daemon answers"):
        open_unix_listener(folder + "/s")
    assert os.lstat(folder + "/s").st_ino == inode
    assert os.listdir(folder) == ["s"]
    first.close()


def test_a_live_socket_with_a_full_queue_is_left_alone(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(folder + "/s")
        busy.listen(0)
        waiting = []
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(folder + "/s")
            waiting.append(client)
        with pytest.raises(SocketInUseError):
            open_unix_listener(folder + "/s")
        for client in waiting:
            client.close()
    assert os.path.exists(folder + "/s")


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_what_is_not_a_socket_is_named_and_left_alone(folder: str, kind: str) -> None:
    path = folder + "/s"
    match kind:
        case "file":
            Path(path).write_text("precious")
        case "folder":
            os.mkdir(path)
        case "symlink":
            os.symlink(folder + "/elsewhere", path)
        case _:
            os.mkfifo(path)
    before = os.lstat(path)
    with pytest.raises(ListenError, match="not a socket"):
        open_unix_listener(path)
    assert os.lstat(path).st_ino == before.st_ino
    assert os.listdir(folder) == ["s"]


def test_a_socket_of_another_type_is_left_alone(folder: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(folder + "/s")
        with pytest.raises(ListenError, match="cannot be asked"):
            open_unix_listener(folder + "/s")
    assert os.listdir(folder) == ["s"]


def test_the_longest_path_works_and_a_longer_one_is_refused_with_the_limit(folder: str) -> None:
    longest = folder + "/" + "x" * (PATH_MAX_BYTES - len(folder) - 1)
    listener = open_unix_listener(longest)
    assert answers(longest)
    listener.close()
    assert os.listdir(folder) == []
    with pytest.raises(ListenError, match=r"108 bytes, the kernel allows 107.*AMBIENT_SOCKET"):
        open_unix_listener(longest + "x")
    deep = folder + "/ä" * 60
    with pytest.raises(ListenError, match="the kernel allows 107"):
        open_unix_listener(deep)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("path", ["", "a\x00b"])
def test_an_impossible_path_is_refused(path: str) -> None:
    with pytest.raises(ListenError, match="empty or holds a NUL"):
        open_unix_listener(path)


def test_a_parent_that_cannot_be_made_is_named(folder: str) -> None:
    Path(folder + "/file").touch()
    with pytest.raises(ListenError, match="cannot make a socket"):
        open_unix_listener(folder + "/file/s")


def test_an_unknown_group_is_named_with_the_command_that_makes_it(folder: str) -> None:
    with pytest.raises(ListenError, match="groupadd --system no-such-group"):
        open_unix_listener(folder + "/s", group="no-such-group")
    assert os.listdir(folder) == []


@needs_root
def test_the_group_is_given(folder: str) -> None:
    listener = open_unix_listener(folder + "/s", group="nogroup")
    assert os.lstat(folder + "/s").st_gid == group_id("nogroup")
    assert mode_of(folder + "/s") == 0o660
    listener.close()


@needs_root
def test_a_group_that_may_not_be_given_is_named(folder: str) -> None:
    os.chmod(folder, 0o777)  # noqa: S103 - the child is nobody
    pid = os.fork()
    if pid == 0:  # a fork, because another user may not be able to read the interpreter
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            open_unix_listener(folder + "/s", group="root").close()
        except ListenError as error:
            os._exit(7 if "may not give the socket to the group 'root'" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert os.listdir(folder) == []


def test_closing_removes_only_what_was_made(folder: str) -> None:
    first = open_unix_listener(folder + "/s")
    os.rename(folder + "/s", folder + "/moved")
    second = open_unix_listener(folder + "/s")
    first.close()
    assert answers(folder + "/s")
    second.close()
    second.close()
    assert os.listdir(folder) == ["moved"]


def test_a_listener_that_was_handed_in_is_used_and_its_file_kept(folder: str) -> None:
    handed = socket.socket(socket.AF_UNIX)
    handed.bind(folder + "/s")
    handed.listen()
    listener = adopt_unix_listener(handed.detach())
    assert listener.path == folder + "/s"
    assert not listener.sock.getblocking()
    assert answers(folder + "/s")
    listener.close()
    assert os.path.exists(folder + "/s")


def test_what_is_not_a_listening_unix_socket_is_not_taken(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as idle, socket.socket() as inet, open("/dev/null") as file:
        inet.listen()
        for handed in (idle, inet):
            with pytest.raises(ListenError, match="not a listening Unix stream socket"):
                adopt_unix_listener(handed.fileno())
        with pytest.raises(ListenError, match="not a socket"):
            adopt_unix_listener(file.fileno())
        assert idle.fileno() >= 0


def _as_peer(path: str, uid: int, gid: int, groups: list[int]) -> None:
    """A child with these ids connects and waits for one byte."""
    pid = os.fork()
    if pid == 0:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.recv(1)
        os._exit(0)


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "groups", "writes"),
    [
        (0, 0, [], True),
        (4242, 4242, [], True),  # the daemon's uid
        (5001, 5001, [5001, 980], True),
        (5002, 980, [], True),
        (5003, 5003, [981], False),
        (5004, 5004, [], False),
        (5005, 5005, [*range(10_000, 10_200), 980], True),
        (5006, 5006, [*range(10_000, 10_400), 980], False),  # more than can be read: reads only
        (NOBODY, NOBODY, [980], False),
    ],
)
def test_credentials_of_real_peers_decide(
    folder: str, uid: int, gid: int, groups: list[int], writes: bool
) -> None:
    listener = open_unix_listener(folder + "/s", mode=0o666)
    listener.sock.settimeout(10)
    _as_peer(folder + "/s", uid, gid, groups)
    sock, _ = listener.sock.accept()
    try:
        caller = caller_of(sock, admin_gid=980, daemon_uid=4242)
        assert (caller.transport, caller.uid, caller.may_write) == ("unix", uid, writes)
        assert caller.pid is not None
        sock.send(b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(caller.pid, 0)[1]) == 0
    finally:
        sock.close()
        listener.close()


def test_who_is_asked_about_must_be_a_unix_socket() -> None:
    with socket.socket() as inet, pytest.raises(OSError, match="only a Unix socket"):
        caller_of(inet, admin_gid=None, daemon_uid=0)


def test_an_unknown_group_has_no_number() -> None:
    assert group_id("no-such-group") is None
    assert group_id("root") == 0
