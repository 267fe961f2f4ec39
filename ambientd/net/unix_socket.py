"""The Unix socket of the local API: made without a gap, and who is at its other end (FAULTS A6, A7, 6.1)."""

import errno
import grp
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

from ambientd.core.access import may_write
from ambientd.ports.http import Caller

# sockaddr_un.sun_path holds 108 bytes with the terminating zero.
PATH_MAX_BYTES = 107
# More than the connection cap, so that a short burst waits in the kernel instead of failing.
BACKLOG = 128
# A live daemon accepts within microseconds; its kernel queue answers even when it is busy.
PROBE_SECONDS = 2.0

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
_GID = struct.Struct("I")
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUPS_BYTES = 1024  # the most that Python's getsockopt takes: 256 groups


class ListenError(Exception):
    """The socket cannot be opened; the text says why and what to do."""


class SocketInUseError(ListenError):
    """Another process answers on this path."""


class UnixListener:
    """A listening socket, and the file it owns. `sock` is non-blocking."""

    def __init__(self, sock: socket.socket, *, path: str | None, inode: tuple[int, int] | None) -> None:
        self.sock = sock
        self.path = path
        self._inode = inode

    def close(self) -> None:
        """Stops listening and removes the file, if it is still the one that was made. Repeatable."""
        self.sock.close()
        if self.path is None or self._inode is None:
            return
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # a read-only or vanished directory: the next start replaces a stale socket anyway
        self._inode = None


def group_id(name: str) -> int | None:
    """The number of a group, or None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _check_length(path: str) -> None:
    length = len(os.fsencode(path))
    if length > PATH_MAX_BYTES:
        raise ListenError(
            f"the socket path has {length} bytes, the kernel allows {PATH_MAX_BYTES}: {path!r}; "
            "choose a shorter one with --socket or AMBIENT_SOCKET"
        )
    if "\x00" in path or not path:
        raise ListenError("the socket path is empty or holds a NUL character")


def _make_parent(path: str, mode: int) -> None:
    """Creates missing folders: 0755 when others than the owner may connect, else 0700."""
    wanted = 0o755 if mode & 0o077 else 0o700
    missing = []
    folder = Path(path).parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(wanted)  # mkdir's mode is cut by the umask


def _probe(path: str) -> tuple[int, int] | None:
    """Who is at the path: None when nothing is there, device and inode of a stale socket.

    Raises SocketInUseError for a live one and ListenError for anything that is not ours to touch.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(
            f"{path} exists and is not a socket; it was left as it is. Move it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return found.st_dev, found.st_ino
        except FileNotFoundError:
            return None
        except OSError as error:
            # A full queue (EAGAIN) or a time-out: somebody holds it, only slowly.
            if error.errno in (errno.EAGAIN, None, errno.ECONNRESET):
                raise SocketInUseError(f"another daemon holds {path}, though it does not answer") from error
            raise ListenError(f"{path} exists and cannot be asked who listens: {error.strerror}") from error
    raise SocketInUseError(f"another daemon answers at {path}")


def _give_to(path: str, group: str) -> None:
    gid = group_id(group)
    if gid is None:
        raise ListenError(
            f"the group {group!r} does not exist (socket.group); create it with: groupadd --system {group}"
        )
    try:
        os.chown(path, -1, gid)
    except PermissionError as error:
        raise ListenError(
            f"this user may not give the socket to the group {group!r} (socket.group); "
            "run the daemon as a member of it, or leave the setting away"
        ) from error


def _take_place(made: str, path: str, stale: tuple[int, int] | None) -> None:
    """Moves the finished socket to its path; never over something that was not seen to be stale."""
    if stale is not None:
        aside = made + ".stale"
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            pass
        else:
            moved = os.lstat(aside)
            if (moved.st_dev, moved.st_ino) != stale:
                os.rename(aside, path)
                raise SocketInUseError(f"another daemon opened {path} at the same moment")
            os.unlink(aside)
    try:
        os.link(made, path)
    except FileExistsError as error:
        raise SocketInUseError(f"another daemon opened {path} at the same moment") from error
    os.unlink(made)


def open_unix_listener(path: str, *, mode: int = 0o660, group: str | None = None) -> UnixListener:
    """Listens on `path`, replacing a stale socket there. Blocks shortly; call it at start.

    The socket is made, given its group and its mode inside a private folder beside the path and only then
    linked to its place: at no instant can anybody connect who may not, whatever the umask is, and the
    umask of the process is not touched. Raises SocketInUseError and ListenError; nothing is left behind.
    """
    path = os.path.abspath(path) if path else path
    _check_length(path)
    try:
        _make_parent(path, mode)
        stale = _probe(path)
        folder = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(path))
    except OSError as error:
        raise ListenError(f"cannot make a socket at {path}: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        inode = _bind_in(sock, folder, path, mode=mode, group=group, stale=stale)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot make a socket at {path}: {error.strerror}") from error
    except ListenError:
        sock.close()
        raise
    finally:
        _remove(folder)
    return UnixListener(sock, path=path, inode=inode)


def _bind_in(
    sock: socket.socket,
    folder: str,
    path: str,
    *,
    mode: int,
    group: str | None,
    stale: tuple[int, int] | None,
) -> tuple[int, int]:
    made = f"{folder}/{os.path.basename(path)}"
    if len(os.fsencode(made)) <= PATH_MAX_BYTES:
        sock.bind(made)  # the name that `ss -x` will show
    else:
        made = f"{folder}/s"
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.bind(f"/proc/self/fd/{handle}/s")
        finally:
            os.close(handle)
    if group is not None:
        _give_to(made, group)
    os.chmod(made, mode)
    sock.listen(BACKLOG)
    found = os.lstat(made)
    _take_place(made, path, stale)
    return found.st_dev, found.st_ino


def _remove(folder: str) -> None:
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError:
        pass  # an empty private folder is litter, not a fault


def adopt_unix_listener(fd: int) -> UnixListener:
    """Takes a listening socket that was handed in (socket activation); its file is never removed.

    Raises ListenError when the descriptor is not a listening Unix stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"descriptor {fd} is not a socket: {error.strerror}") from error
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        sock.detach()
        raise ListenError(f"descriptor {fd} is not a listening Unix stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)
    name = sock.getsockname()
    return UnixListener(sock, path=name if isinstance(name, str) and name else None, inode=None)


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """Supplementary groups of the peer; none when there are more than 256 or the kernel is old."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return ()
    return tuple(gid for (gid,) in _GID.iter_unpack(raw))


def caller_of(sock: socket.socket, *, admin_gid: int | None, daemon_uid: int) -> Caller:
    """Who connected, as the kernel noted it at that moment; numbers only, no text is parsed.

    Raises OSError when the socket is not a connected Unix socket.
    """
    if sock.family != socket.AF_UNIX:
        raise OSError(errno.EAFNOSUPPORT, "only a Unix socket knows its peer")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    allowed = may_write(
        uid=uid,
        gid=gid,
        groups=_peer_groups(sock),
        daemon_uid=daemon_uid,
        admin_gid=admin_gid,
    )
    return Caller(transport="unix", uid=uid, pid=pid, may_write=allowed)
