"""Opening the activity feed without being led astray: only a regular file, only where it was named.

Runs in the feed's helper process: standard library only, and no clock of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

FILE_MODE = 0o644
FOLDER_MODE = 0o750

# Regular files there are doors into the kernel: /proc/self/mem passes every other test.
KERNEL_FILE_SYSTEMS = {
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
}

_OPEN_TRIES = 16
_LOCK_PAUSE_FIRST = 0.0005
_LOCK_PAUSE_LAST = 0.02


class FeedRefusedError(Exception):
    """The path leads to something that is no activity feed; a person must change it. Nothing was written."""


class FeedLostError(Exception):
    """This beat could not be written (lock held, tail still moving …); the next one may."""


class OpenFeed:
    """An open feed. `name` is the regular file's name in the folder, links resolved."""

    __slots__ = ("fd", "folder_fd", "name")

    def __init__(self, fd: int, folder_fd: int, name: str) -> None:
        self.fd = fd
        self.folder_fd = folder_fd
        self.name = name

    def close(self) -> None:
        """Closes both descriptors, which also lets go of the lock."""
        os.close(self.fd)
        os.close(self.folder_fd)


def open_feed(path: str, state_dir: str, known: set[int]) -> OpenFeed:
    """Opens the feed for reading and appending, creating it when its folder is there.

    Missing folders are created below `state_dir` only. `known` collects the devices whose file system
    was found to be an ordinary one, so that the kernel's mount table is read once. Raises
    FeedRefusedError for what is not a regular file with one name, OSError for what may pass. Nothing is
    opened before it was looked at, because opening a device acts on it.
    """
    folder, _, name = path.rpartition("/")
    folder_fd = _open_folder(folder or "/", state_dir)
    try:
        _refuse_kernel_file_system(folder_fd, known)
        name = _resolve_link(folder_fd, folder or "/", name)
        return OpenFeed(_open_file(folder_fd, name, known), folder_fd, name)
    except BaseException:
        os.close(folder_fd)
        raise


def lock_feed(
    fd: int, deadline: float, *, monotonic: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Takes the exclusive lock, trying until `deadline`; raises FeedLostError when it stays taken."""
    pause = _LOCK_PAUSE_FIRST
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = deadline - monotonic()
            if left <= 0:
                raise FeedLostError("another process holds the feed's lock") from None
            sleep(min(pause, left))
            pause = min(pause * 2, _LOCK_PAUSE_LAST)
        else:
            return


def is_current(feed: OpenFeed) -> bool:
    """Whether the open file is still the one at its place: rotation may come between open and lock."""
    try:
        there = os.stat(feed.name, dir_fd=feed.folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(feed.fd))


def sync_folder(feed: OpenFeed) -> None:
    """Makes a new or changed name durable, where the file system can."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=feed.folder_fd)
    except OSError:  # a folder we may enter but not read
        return
    try:
        os.fsync(fd)
    except OSError:
        return
    finally:
        os.close(fd)


def _open_folder(folder: str, state_dir: str) -> int:
    try:
        return os.open(folder, _FOLDER)
    except FileNotFoundError:
        root = state_dir.rstrip("/") + "/"
        if not (folder + "/").startswith(root):
            raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FeedRefusedError("the feed's folder is a loop of symlinks") from error
        raise
    return _make_folders(root, folder[len(root) :].split("/"))


def _make_folders(root: str, parts: list[str]) -> int:
    fd = os.open(root, _FOLDER)
    for part in parts:
        try:
            make_folder(part, fd)
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def make_folder(name: str, folder_fd: int) -> bool:
    """Makes a folder unless something of that name is there; True when it was made."""
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=folder_fd)
    except FileExistsError:
        return False
    return True


def _resolve_link(folder_fd: int, folder: str, name: str) -> str:
    """The name itself, or what a symlink there names in the same folder (one step, no more)."""
    try:
        target = os.readlink(name, dir_fd=folder_fd)
    except OSError:  # no link: what it is shows when it is opened
        return name
    target_folder, _, target_name = target.rpartition("/")
    if target_folder or target.startswith("/"):
        place = target_folder or "/"
        try:
            there = os.stat(place if place.startswith("/") else f"{folder}/{place}")
        except OSError:
            raise FeedRefusedError("the feed is a symlink that leads nowhere") from None
        if not os.path.samestat(there, os.fstat(folder_fd)):
            raise FeedRefusedError("the feed is a symlink out of its folder")
    try:
        found = os.stat(target_name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        raise FeedRefusedError("the feed is a symlink that leads nowhere") from None
    if stat.S_ISLNK(found.st_mode):
        raise FeedRefusedError("the feed is a symlink to a symlink")
    return target_name


def _open_file(folder_fd: int, name: str, known: set[int]) -> int:
    for _ in range(_OPEN_TRIES):
        before = _look(folder_fd, name)
        if before is not None:
            _refuse_unless_plain(before)
        flags = _FLAGS if before is not None else _FLAGS | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(name, flags, FILE_MODE, dir_fd=folder_fd)
        except (FileExistsError, FileNotFoundError):
            continue  # it came or went in between: look again
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue
            raise
        try:
            opened = os.fstat(fd)
            _refuse_unless_plain(opened)
            _refuse_kernel_file_system(fd, known)
            if before is None or os.path.samestat(before, opened):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise FeedLostError("the feed was replaced again and again while it was opened")


def _look(folder_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _refuse_unless_plain(found: os.stat_result) -> None:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISLNK, "a symlink"),
    )
    for test, word in kinds:
        if test(found.st_mode):
            raise FeedRefusedError(f"the feed is {word}, not a regular file")
    if found.st_nlink > 1:
        raise FeedRefusedError("the feed is a hard link: the file has another name elsewhere")


def _refuse_kernel_file_system(fd: int, known: set[int]) -> None:
    device = os.fstat(fd).st_dev
    if device in known:
        return
    kind = file_system_of(fd)
    if kind in KERNEL_FILE_SYSTEMS:
        raise FeedRefusedError(f"the feed is on {kind}, which holds no ordinary files")
    known.add(device)


def file_system_of(fd: int) -> str | None:
    """The type of the file system an open file is on, by its mount; None when the kernel does not say.

    `statvfs` does not carry the type, and `st_dev` is not the mount's on btrfs; the mount id is exact.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            mount = next((line.split()[1] for line in info if line.startswith(b"mnt_id:")), None)
        with open("/proc/self/mountinfo", "rb") as mounts:
            fields = next((line.split() for line in mounts if line.split(None, 1)[0] == mount), None)
    except OSError:
        return None
    if fields is None or b"-" not in fields:
        return None
    return fields[fields.index(b"-") + 1].decode("ascii", "replace")
