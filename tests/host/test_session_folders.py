import os
from pathlib import Path

from ambientd.host.run_folder import remove_session
from ambientd.host.session_folders import DiskSessionFolders


async def _discard(session_id: str) -> None:
    raise AssertionError("nothing is discarded here")


def _descend(top: Path, name: str, depth: int) -> None:
    """Makes `depth` folders in one another; their path may be longer than a path can be named. A file of one
    byte lies in each."""
    place = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=place)
        below = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
        file = os.open("f" * 200, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=place)
        os.write(file, b"x")
        os.close(file)
    os.close(place)


async def test_no_tree_that_an_agent_can_make_keeps_the_folders_from_being_listed(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    for name in ("deep", "long", "plain"):
        (sessions / name).mkdir(parents=True)
    _descend(sessions / "deep", "d", 1500)  # deeper than Python recurses
    _descend(sessions / "long", "d" * 250, 30)  # longer than a path may be
    (sessions / "plain" / "file").write_bytes(b"123")
    (sessions / "plain" / "link").symlink_to("/")
    try:
        found = dict(await DiskSessionFolders(tmp_path, discard=_discard).folders())
    finally:
        remove_session(sessions / "deep")  # pytest's own cleaning would recurse
        remove_session(sessions / "long")
    assert found.keys() == {"deep", "long", "plain"}
    assert found["plain"] == 3 + len("/")
    assert 1000 < found["deep"] <= 1500
    assert 10 < found["long"] < 30


async def test_without_any_session_there_are_no_folders(tmp_path: Path) -> None:
    assert await DiskSessionFolders(tmp_path, discard=_discard).folders() == []
