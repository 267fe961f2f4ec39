"""The folders of local runs: `<state>/sessions/<session id>/run-<attempt>/`, as the daemon sees them.

Blocking file work, called from worker threads. The agent may write into these folders, so nothing in them
is followed, trusted or read without a bound.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ambientd.ports.runner import ArtifactFile, OutputChunk, OutputLine, RunResult

CHUNK_SIZE = 256 * 1024
RECORD_MAX = 1024 * 1024  # a longer record was not written by a shim
# The largest `sessions.output_limit`: what lies behind it, no shim wrote.
OUTPUT_MAX = 1024 * 1024 * 1024
SMALL_FILE_MAX = 64 * 1024
ARTIFACT_DEPTH = 16
ARTIFACTS_SEEN_MAX = 10_000
HASH_FILE_MAX = 64 * 1024 * 1024  # a larger artifact is listed without its hash
HASH_TOTAL_MAX = 256 * 1024 * 1024
# Past these no shim wrote it, and nothing that follows could hold it.
INSTANT_MS_MAX = 99_999_999_999_999
COUNT_MAX = 2**53
CAUSES = frozenset({"exit", "timeout", "ended", "start_failed", "lost"})
# What opening says when the name is not there or, by the agent's hand, not a plain file any more.
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEADER = re.compile(rb"(\d{1,14}) ([oe])([01]) (\d{1,7})\n")
_HEADER_MAX = 32
_RUN = re.compile(r"run-(\d{1,9})")


def session_folder(state: Path, session_id: str) -> Path:
    """Where everything of a session lives. Raises ValueError for an id that is not a plain name."""
    if not _SAFE_ID.fullmatch(session_id):
        raise ValueError("not a session id")
    return state / "sessions" / session_id


def run_folder(state: Path, session_id: str, attempt: int) -> Path:
    """Where one attempt lives."""
    return session_folder(state, session_id) / f"run-{attempt}"


def make_run_folder(folder: Path) -> None:
    """Makes the folder and its parents, durably, for us alone; there already is fine. Raises OSError."""
    for place in (folder.parent.parent, folder.parent, folder, folder / "artifacts"):
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            continue
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Makes the folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim_for_good(folder: Path) -> bool:
    """True when no shim was ever here and none can come any more; false when one was.

    A directory is our claim and a file is a shim's: both are made in one step that cannot half happen.
    """
    try:
        (folder / "claim").mkdir(mode=0o700)
    except FileExistsError:
        return (folder / "claim").is_dir()
    sync_folder(folder)
    return True


def is_alive(folder: Path) -> bool:
    """Whether a shim lives here: it holds the lock until its last instant. Raises OSError."""
    descriptor = _open_plain(folder / "shim.lock")
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def started_at_ms(folder: Path) -> int | None:
    """When the agent's process was started, from the shim's claim; None when it says nothing."""

    class Started(msgspec.Struct):
        started_at_ms: int

    try:
        found = msgspec.json.decode(_read_small(folder / "claim"), type=Started).started_at_ms
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    return found if is_instant(found) else None


def is_instant(value: object) -> bool:
    """Whether this is a time in epoch milliseconds that the ledger can hold."""
    return type(value) is int and 0 <= value <= INSTANT_MS_MAX


def last_sign_ms(folder: Path) -> int:
    """The last time that the run's files show it alive. Raises OSError when there is no folder."""
    newest = folder.stat().st_mtime_ns
    for name in ("claim", "output"):
        try:
            newest = max(newest, (folder / name).lstat().st_mtime_ns)
        except FileNotFoundError:
            continue
    return newest // 1_000_000


def read_result(folder: Path) -> RunResult | None:
    """What the shim wrote at the end, or None: not there, or not a shim's writing."""
    try:
        found = msgspec.json.decode(_read_small(folder / "result.json"), type=RunResult)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    return checked_result(found)


def checked_result(found: RunResult) -> RunResult | None:
    """A result that can be stored and shown, or None: the agent can write the file and take the socket."""
    if not _is_plausible(found):
        return None
    message = None if found.message is None else _shown(found.message)
    return msgspec.structs.replace(found, message=message)


def _is_plausible(result: RunResult) -> bool:
    instants = (result.started_at_ms or 0, result.ended_at_ms)
    counts = (result.runtime_ms, result.output_bytes, result.dropped_bytes, result.survivors_ended)
    codes = (result.exit_code or 0, result.signal or 0)
    return (
        result.cause in CAUSES
        and all(0 <= value <= INSTANT_MS_MAX for value in instants)
        and all(0 <= value <= COUNT_MAX for value in counts)
        and all(0 <= value <= 0xFFFF for value in codes)
        and (result.error or "").isprintable()
    )


def write_result(folder: Path, result: RunResult) -> None:
    """Keeps a result that no shim could write. Raises OSError.

    Through no link: the agent can put one in place of the file and of the folders above it, and sees less
    of this machine than we do.
    """
    place = _open_run_folder(folder)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("result.lost", dir_fd=place)
        part = os.open("result.lost", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place)
        with open(part, "wb") as file:
            file.write(msgspec.json.encode(result))
            file.flush()
            os.fsync(file.fileno())
        os.replace("result.lost", "result.json", src_dir_fd=place, dst_dir_fd=place)
        os.fsync(place)
    finally:
        os.close(place)


def _open_run_folder(folder: Path) -> int:
    """The folder itself; a link at its name or at its session's is refused with OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    session = os.open(folder.parent, flags)
    try:
        return os.open(folder.name, flags, dir_fd=session)
    finally:
        os.close(session)


def _open_plain(path: Path) -> int | None:
    """A plain file for reading; None when there is none. Never waits, as opening a pipe would, and never
    follows a link. Raises OSError when it cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _read_small(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(descriptor, SMALL_FILE_MAX)
    finally:
        os.close(descriptor)


# --- output


def read_output(folder: Path, offset: int) -> OutputChunk:
    """Complete records from `offset` on, about `CHUNK_SIZE` of them; an incomplete last one is left.

    Raises OSError, but for a file that is not there, or is no plain file: that is no output. Nothing is read
    from `OUTPUT_MAX` on, so that a file that the agent has blown up comes to an end.
    """
    descriptor = _open_plain(folder / "output") if offset < OUTPUT_MAX else None
    if descriptor is None:
        return OutputChunk(lines=(), next_offset=offset)
    try:
        data = os.pread(descriptor, CHUNK_SIZE, offset)
        need = _first_record(data)
        if len(data) < need <= RECORD_MAX:
            data = os.pread(descriptor, need, offset)
    finally:
        os.close(descriptor)
    return _parse(data, offset)


def _first_record(data: bytes) -> int:
    header = _HEADER.match(data)
    return header.end() + int(header[4]) + 1 if header else 0


def _parse(data: bytes, offset: int) -> OutputChunk:
    lines: list[OutputLine] = []
    at = 0
    while at < len(data):
        header = _HEADER.match(data, at)
        end = header.end() + int(header[4]) if header else 0
        if header is None or end - header.end() > RECORD_MAX:
            skipped = _skip_foreign(data, at)
            if skipped == at:
                break
            at = skipped
            continue
        if end >= len(data):
            break
        lines.append(_line(header, data[header.end() : end]))
        at = end + 1
    return OutputChunk(lines=tuple(lines), next_offset=offset + at)


def _line(header: re.Match[bytes], text: bytes) -> OutputLine:
    return OutputLine(
        at_ms=int(header[1]),
        stream="out" if header[2] == b"o" else "err",
        text=text.decode("utf-8", "replace"),
        partial=header[3] == b"1",
    )


def _skip_foreign(data: bytes, at: int) -> int:
    """Where to go on after bytes that no shim wrote; `at` itself when a header may still be arriving."""
    newline = data.find(b"\n", at)
    if newline >= 0:
        return newline + 1
    return at if len(data) - at <= _HEADER_MAX else len(data)


# --- artifacts


def list_alive(state: Path, limit: int) -> list[tuple[str, int]]:
    """Sessions whose newest run is held by a shim now, at most `limit`. Raises OSError."""
    try:
        names = sorted(os.listdir(state / "sessions"))
    except FileNotFoundError:
        return []
    found: list[tuple[str, int]] = []
    for name in names:
        if len(found) >= limit or not _SAFE_ID.fullmatch(name):
            continue
        runs = (_RUN.fullmatch(run) for run in _names(state / "sessions" / name))
        attempt = max((int(run[1]) for run in runs if run), default=0)
        if attempt and is_alive(run_folder(state, name, attempt)):
            found.append((name, attempt))
    return found


def list_artifacts(session: Path, limit: int) -> list[ArtifactFile]:
    """Regular files of the newest attempt's artifacts folder, by name, at most `limit`."""
    attempts = [match for name in _names(session) if (match := _RUN.fullmatch(name))]
    if not attempts:
        return []
    newest = max(attempts, key=lambda match: int(match[1]))[0]
    try:
        top = os.open(session / newest / "artifacts", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        paths = sorted(_walk(top, "", ARTIFACT_DEPTH, [ARTIFACTS_SEEN_MAX]))[:limit]
        budget = HASH_TOTAL_MAX
        found = []
        for path in paths:
            item = _describe(top, path, budget)
            if item is not None:
                budget -= item.bytes if item.sha256 else 0
                found.append(item)
    finally:
        os.close(top)
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _walk(folder: int, prefix: str, depth: int, left: list[int]) -> Iterator[str]:
    """Paths below an open folder; never through a link, at most `left[0]` entries in all."""
    with os.scandir(folder) as entries:
        for entry in entries:
            left[0] -= 1
            if left[0] < 0:
                return
            if entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
            elif entry.is_dir(follow_symlinks=False) and depth > 1:
                try:
                    below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                except OSError:
                    continue
                try:
                    yield from _walk(below, prefix + entry.name + "/", depth - 1, left)
                finally:
                    os.close(below)


def _describe(top: int, path: str, budget: int) -> ArtifactFile | None:
    *folders, name = path.split("/")
    place = os.dup(top)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = below
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    except OSError:
        return None
    finally:
        os.close(place)
    with open(file, "rb") as reader:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            return None
        small = facts.st_size <= min(HASH_FILE_MAX, budget)
        digest = hashlib.file_digest(reader, "sha256").hexdigest() if small else None
    return ArtifactFile(name=_plain(path), bytes=facts.st_size, sha256=digest)


def _plain(name: str) -> str:
    """A name that can be stored and shown: no undecodable bytes, no control characters."""
    return _shown(os.fsencode(name).decode("utf-8", "replace"))


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)


# --- removal


def remove_session(session: Path) -> None:
    """Removes the folder and everything in it, links as links. Gone already is fine. Raises OSError.

    Folders below the first level are moved up before they are emptied, so that no depth an agent can make
    costs recursion or descriptors.
    """
    try:
        top = os.open(session, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        serial = 0
        while folders := _remove_files(top):
            for folder in folders:
                serial = _flatten(top, folder, serial)
    finally:
        os.close(top)
    session.rmdir()


def _remove_files(folder: int) -> list[str]:
    """Unlinks all but the folders of an open folder; returns their names."""
    os.fchmod(folder, 0o700)
    below = []
    for name in os.listdir(folder):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            below.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return below


def _flatten(top: int, folder: str, serial: int) -> int:
    _open_up(folder, top)
    inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for name in _remove_files(inner):
            _open_up(name, inner)  # moving a folder writes into it
            serial += 1
            while os.path.lexists(f"/proc/self/fd/{top}/.moved-{serial}"):
                serial += 1
            os.rename(name, f".moved-{serial}", src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(folder, dir_fd=top)
    return serial


def _open_up(name: str, parent: int) -> None:
    """Makes a folder ours to read and write; never what a link names."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
    finally:
        os.close(place)
