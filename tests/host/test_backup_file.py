"""Backup files on the disk: whole or not at all, and read with distrust."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from ambientd.core.backup import (
    DATABASE,
    FORMAT,
    MANIFEST,
    Manifest,
    Member,
    encode_manifest,
)
from ambientd.flows.backup import Backups, make_backup
from ambientd.host.backup_file import BackupError, open_backup, write_whole
from ambientd.host.backup_place import DiskBackupPlace, HeldFile
from ambientd.host.backup_sources import configuration_members, identity_key
from ambientd.host.config_files import ConfigFile
from ambientd.host.threads import run_inline
from ambientd.ports.backup import ExtraFile, Progress, SnapshotFacts

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
CONTENT = os.urandom(3 * 1024 * 1024 + 17)


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Nobody listens."""


class OneFile:
    """A database of which only the bytes matter."""

    def __init__(self, content: bytes = CONTENT, error: Exception | None = None) -> None:
        self.content = content
        self.error = error

    async def snapshot(self, target: str, progress: Progress) -> SnapshotFacts:
        Path(target).write_bytes(self.content)
        progress("copying", 1, 1)
        if self.error is not None:
            raise self.error
        return SnapshotFacts(len(self.content), 2, {"session_ledger": 3})


class Still:
    """A clock that stands."""

    def now(self) -> datetime:
        return AT

    def monotonic(self) -> float:
        return 0.0


def backups(state: Path, source: OneFile | None = None, key: bytes | None = b"key") -> Backups:
    return Backups(
        snapshots=source or OneFile(),
        place=DiskBackupPlace(state, run_sync=run_inline, still_wanted=lambda: None),
        clock=Still(),
        version="0.1.0",
        configuration=lambda: [ExtraFile("config/ambient.toml", b"[node]\n")],
        identity=lambda: key,
    )


async def written(folder: Path, *, with_identity: bool = False) -> Path:
    """A good backup file."""
    image = await make_backup(backups(folder), with_identity=with_identity, progress=quiet)
    path = folder / "b.tar"
    write_whole(str(path), read=image.read, size=image.size, replace=True, progress=quiet)
    image.close()
    return path


async def test_a_backup_holds_manifest_configuration_and_database(tmp_path: Path) -> None:
    path = await written(tmp_path)
    with tarfile.open(path) as tar:
        assert tar.getnames() == [MANIFEST, "config/ambient.toml", DATABASE]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with open_backup(str(path)) as reader:
        reader.check(quiet)
        assert reader.manifest.counts == {"session_ledger": 3}
        assert reader.content("config/ambient.toml") == b"[node]\n"
        reader.extract(DATABASE, str(tmp_path / "out"), quiet)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "backup") == []


async def test_the_identity_goes_in_only_when_it_is_asked_for(tmp_path: Path) -> None:
    for asked in (False, True):
        path = await written(tmp_path, with_identity=asked)
        with open_backup(str(path)) as reader:
            assert (reader.manifest.member("identity.key") is not None) is asked
            if asked:
                assert reader.content("identity.key") == b"key"


async def test_any_piece_of_an_image_is_what_the_whole_says(tmp_path: Path) -> None:
    image = await make_backup(backups(tmp_path), with_identity=False, progress=quiet)
    whole = image.read(0, image.size)
    assert len(whole) == image.size
    for offset, length in ((0, 1), (511, 2), (1500, 5000), (image.size - 3, 10), (image.size, 5), (700, 0)):
        assert image.read(offset, length) == whole[offset : offset + length]
    image.close()
    with pytest.raises(OSError, match="Bad file"):
        image.read(0, image.size)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(28, "full")])
async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        await make_backup(backups(tmp_path, OneFile(error=error)), with_identity=False, progress=quiet)
    assert os.listdir(tmp_path / "backup") == []


async def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "ambient.db-journal").write_text("x")
    place = DiskBackupPlace(tmp_path, run_sync=run_inline, still_wanted=lambda: None)
    path = await place.prepare()
    assert os.listdir(tmp_path / "backup") == []
    Path(path).write_bytes(b"abc")
    held = await place.hold(path, quiet)
    assert (held.size, held.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
    assert os.listdir(tmp_path / "backup") == []
    assert held.read(1, 5) == b"bc"
    held.close()
    held.close()


async def test_hashing_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    place = DiskBackupPlace(tmp_path)
    path = await place.prepare()
    Path(path).write_bytes(CONTENT)
    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()
    seen = []

    def cancel(_stage: str, done: int, _total: int) -> None:
        seen.append(done)
        trio.from_thread.run_sync(scope.cancel, trio_token=token)

    with scope:
        await place.hold(path, cancel)
    assert scope.cancelled_caught
    assert seen == [256 * 1024]


def test_a_file_that_is_there_is_not_replaced_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_whole(str(path), read=lambda *_: b"x", size=1, replace=False, progress=quiet)
    assert path.read_text() == "mine"
    write_whole(str(path), read=lambda *_: b"x", size=1, replace=True, progress=quiet)
    assert path.read_text() == "x"


@pytest.mark.parametrize("reason", ["early", "error"])
def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, reason: str) -> None:
    def read(offset: int, _length: int) -> bytes:
        if offset and reason == "error":
            raise OSError(28, "full")
        return b"" if offset else b"12345"

    with pytest.raises(OSError, match=r"full|ends early"):
        write_whole(str(tmp_path / "b"), read=read, size=10, replace=False, progress=quiet)
    assert os.listdir(tmp_path) == []


# --- what is not what it says


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def manifest_of(**contents: bytes) -> bytes:
    return encode_manifest(
        Manifest(
            format=FORMAT,
            made_at="2026-11-21T09:30:00.000Z",
            version="1",
            schema_version=2,
            counts={},
            members=[
                Member(name=name.replace("__", "/"), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for name, data in contents.items()
            ],
        )
    )


GOOD = manifest_of(**{DATABASE: b"db"})


def plain(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "members",
    [
        [],
        [(plain(DATABASE), b"db")],
        [(plain(MANIFEST), b"{")],
        [(plain(MANIFEST), GOOD)],
        [(plain(MANIFEST), GOOD), (plain(DATABASE), b"longer")],
        [(plain(MANIFEST), GOOD), (plain(DATABASE), b"db"), (plain("more"), b"")],
        [(plain(MANIFEST), GOOD), (plain(DATABASE), b"db"), (plain(DATABASE), b"db")],
        [(plain(MANIFEST), GOOD), (link(DATABASE), b"")],
        [(plain(MANIFEST), GOOD), (plain("../" + DATABASE), b"db")],
    ],
)
def test_a_tar_that_is_no_backup_is_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    path = tar_of(tmp_path / "b.tar", members)
    with pytest.raises(BackupError), open_backup(path):
        pass


def test_a_changed_byte_is_found_and_nothing_is_kept_of_it(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "b.tar", [(plain(MANIFEST), GOOD), (plain(DATABASE), b"dc")])
    with open_backup(path) as reader:
        with pytest.raises(BackupError, match="does not match"):
            reader.check(quiet)
        with pytest.raises(BackupError, match="does not match"):
            reader.extract(DATABASE, str(tmp_path / "out"), quiet)
        with pytest.raises(BackupError, match="holds no"):
            reader.extract("identity.key", str(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("change", [cut, lambda data: data[:700], lambda _: b"", lambda _: os.urandom(2000)])
async def test_a_file_that_is_cut_off_or_noise_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = await written(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BackupError), open_backup(str(path)) as reader:
        reader.check(quiet)


def test_a_backup_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_backup(str(tmp_path / "never")):
        pass


# --- what goes in


def test_the_main_file_gets_its_usual_name_and_missing_files_are_left_out() -> None:
    files = (
        ConfigFile("/srv/my config.toml", "x", "a = 1\n"),
        ConfigFile("/srv/conf.d/10-a.toml", "x", "b = 2\n"),
        ConfigFile("/srv/conf.d/20-b.toml", "x", None),
    )
    assert configuration_members(files) == [
        ExtraFile("config/ambient.toml", b"a = 1\n"),
        ExtraFile("config/conf.d/10-a.toml", b"b = 2\n"),
    ]
    assert configuration_members((ConfigFile("/x", "x", None),)) == []


def test_a_node_without_a_key_has_none_to_give(tmp_path: Path) -> None:
    assert identity_key(tmp_path) is None
    (tmp_path / "identity.key").write_bytes(b"seed")
    assert identity_key(tmp_path) == b"seed"


def test_a_held_file_without_a_descriptor_cannot_be_read() -> None:
    held = HeldFile(-1, 0, "")
    with pytest.raises(OSError, match="Bad file"):
        held.read(0, 1)
