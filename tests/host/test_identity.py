"""The node's key on the disk: made once, never over something that is there, refused where it is not ours."""

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.ed25519 import public_of, verify
from ambientd.core.identity import KeyFile, parse_key_file
from ambientd.host.identity import FileIdentity
from ambientd.host.threads import run_inline
from ambientd.ports.autonomy import NodeIdentity
from ambientd.ports.errors import IdentityError
from tests.fakes.identity import NamedIdentity, SeedIdentity

HERE, THERE = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
SEED = bytes(range(32))


def identity(folder: Path, host: str = HERE, **environ: str) -> FileIdentity:
    found = FileIdentity(folder, host_id=host, environ=environ, run_sync=run_inline)
    found.load()
    return found


def written(folder: Path, text: str | None = None, mode: int = 0o600) -> Path:
    path = folder / "identity.key"
    path.write_text(KeyFile(seed=SEED, host=HERE).text if text is None else text)
    path.chmod(mode)
    return path


def test_the_key_is_made_once_and_bound_to_this_host(tmp_path: Path) -> None:
    made = identity(tmp_path)
    path = tmp_path / "identity.key"
    assert made.problem is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = parse_key_file(path.read_text())
    assert isinstance(file, KeyFile)
    assert (file.host, public_of(file.seed)) == (HERE, made.public_key)
    before = path.read_bytes()
    assert identity(tmp_path).public_key == made.public_key
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["identity.key"]
    other = tmp_path / "other"
    other.mkdir()
    assert identity(other).public_key != made.public_key


def test_it_signs_as_everybody_can_verify(tmp_path: Path) -> None:
    node = identity(tmp_path)
    assert verify(node.public_key, b"message", node.sign(b"message"))


@pytest.fixture(scope="module", params=["real", "fake"])
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[NodeIdentity]:
    if request.param == "fake":
        return [NamedIdentity("a"), NamedIdentity("b"), SeedIdentity(SEED)]
    return [identity(tmp_path_factory.mktemp("node")) for _ in range(3)]


@given(message=st.binary(max_size=200))
def test_only_the_recipient_opens_what_was_sealed_and_knows_who_sealed_it(
    three: list[NodeIdentity], message: bytes
) -> None:
    one, two, other = three
    sealed = one.seal(two.public_key, message)
    assert two.open(one.public_key, sealed) == message
    assert other.open(one.public_key, sealed) is None
    assert two.open(other.public_key, sealed) is None
    broken = bytearray(sealed)
    broken[len(broken) // 2] ^= 1
    assert two.open(one.public_key, bytes(broken)) is None
    assert two.open(one.public_key, sealed[:-1]) is None
    assert two.open(one.public_key, b"") is None
    assert one.seal(two.public_key, message) != sealed


def test_nothing_is_sealed_to_a_key_that_nobody_can_have(three: list[NodeIdentity]) -> None:
    node = three[2]
    with pytest.raises(ValueError, match="none that anybody can have"):
        node.seal(bytes(32), b"x")
    assert node.open(bytes(32), bytes(100)) is None


# --- what is refused


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "0644": (lambda path: path.chmod(0o644), "has mode 0644"),
    "0640": (lambda path: path.chmod(0o640), "has mode 0640"),
    "link": (_link, "is a symbolic link"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "newlines": (lambda path: path.write_bytes(b"\n\n"), "is empty"),
    "garbage": (lambda path: path.write_bytes(b"garbage"), "is no node's key"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe"), "is not UTF-8"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is damaged"),
    "folder": (_folder, "is not a regular file"),
    "large": (lambda path: path.write_bytes(b"x" * 100_000), "is larger than"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_refused_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    path = written(tmp_path)
    damage(path)
    before = (path.lstat(), path.read_bytes() if path.is_file() else b"")
    found = identity(tmp_path)
    assert found.problem is not None
    assert words in found.problem
    assert "ambientctl identity renew" in found.problem
    assert SEED.hex() not in found.problem
    uses: list[Callable[[], object]] = [
        lambda: found.sign(b"x"),
        lambda: found.public_key,
        lambda: found.seal(SEED, b"x"),
        lambda: found.open(SEED, b"x" * 50),
    ]
    for use in uses:
        with pytest.raises(IdentityError, match="may not be used"):
            use()
    after = (path.lstat(), path.read_bytes() if path.is_file() else b"")
    assert (after[0].st_ino, after[0].st_mode, after[1]) == (before[0].st_ino, before[0].st_mode, before[1])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    os.chown(path, 12_345, -1)
    assert "belongs to user 12345" in str(identity(tmp_path).problem)


def test_a_trailing_newline_does_not_matter(tmp_path: Path) -> None:
    written(tmp_path, KeyFile(seed=SEED, host=HERE).text.rstrip() + "\n\n")
    assert identity(tmp_path).public_key == public_of(SEED)


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    found = identity(tmp_path / "missing")
    assert "cannot be written" in str(found.problem)
    with pytest.raises(IdentityError):
        found.sign(b"x")


def test_a_look_makes_nothing(tmp_path: Path) -> None:
    found = FileIdentity(tmp_path, host_id=HERE, environ={})
    found.load(create=False)
    assert "is not there" in str(found.problem)
    assert os.listdir(tmp_path) == []


def test_what_a_crash_left_of_an_earlier_start_is_removed(tmp_path: Path) -> None:
    (tmp_path / "identity.new77").write_text("half a k")
    identity(tmp_path)
    assert os.listdir(tmp_path) == ["identity.key"]


# --- a copy of the state on another host


async def test_a_copy_is_refused_until_it_is_kept(tmp_path: Path) -> None:
    key = identity(tmp_path).public_key
    copy = identity(tmp_path, THERE)
    assert "was made on another host" in str(copy.problem)
    assert copy.known_key == key
    with pytest.raises(IdentityError, match="another host"):
        copy.sign(b"x")
    assert await copy.keep() is True
    assert (copy.problem, copy.public_key, copy.bound_to) == (None, key, THERE)
    assert await copy.keep() is False
    assert identity(tmp_path, THERE).public_key == key
    assert identity(tmp_path, HERE).problem is not None


async def test_a_copy_that_is_renewed_is_another_node_and_says_whom_it_followed(tmp_path: Path) -> None:
    old = identity(tmp_path)
    text = (tmp_path / "identity.key").read_text()
    copy = identity(tmp_path, THERE)
    previous = await copy.renew(AT)
    assert previous == tmp_path / "identity.key.previous-20261120T120000000Z"
    assert previous.read_text() == text
    assert stat.S_IMODE(previous.stat().st_mode) == 0o600
    assert copy.public_key != old.public_key
    assert (copy.problem, copy.bound_to) == (None, THERE)
    rollover = copy.rollover
    assert rollover is not None
    assert rollover.is_genuine
    assert (rollover.old_key, rollover.new_key) == (old.public_key, copy.public_key)
    assert (rollover.from_host, rollover.to_host) == (HERE, THERE)
    again = identity(tmp_path, THERE)
    assert (again.public_key, again.rollover) == (copy.public_key, rollover)


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"folder"}))
async def test_what_is_damaged_is_set_aside_by_renew_and_by_nothing_else(name: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    DAMAGES[name][0](path)
    found = identity(tmp_path)
    with pytest.raises(IdentityError, match="there is no key to keep"):
        await found.keep()
    previous = await found.renew(AT)
    assert previous is not None
    assert os.path.lexists(previous)
    assert found.rollover is None
    assert found.problem is None
    assert identity(tmp_path).public_key == found.public_key


async def test_when_nothing_can_be_written_the_old_key_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = identity(tmp_path)
    before = node.public_key

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ambientd.host.identity.replace_private", full)
    with pytest.raises(OSError, match="No space"):
        await node.renew(AT)
    assert node.public_key == before
    assert identity(tmp_path).public_key == before


# --- given from outside


@pytest.mark.parametrize("text", [SEED.hex(), SEED.hex() + "\n", KeyFile(seed=SEED, host=HERE).text])
async def test_a_credential_comes_first_and_is_changed_where_it_comes_from(text: str, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials, text, 0o400).rename(credentials / "ambient.identity")
    state = tmp_path / "state"
    state.mkdir()
    node = identity(state, CREDENTIALS_DIRECTORY=str(credentials))
    assert node.public_key == public_of(SEED)
    assert node.from_credential
    assert os.listdir(state) == []
    for act in (node.keep, lambda: node.renew(AT)):
        with pytest.raises(IdentityError, match="change it where the unit gets it from"):
            await act()


def test_a_damaged_credential_does_not_bring_the_file_back(tmp_path: Path) -> None:
    written(tmp_path)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials, "garbage").rename(credentials / "ambient.identity")
    node = identity(tmp_path, CREDENTIALS_DIRECTORY=str(credentials))
    assert "credential ambient.identity is no node's key" in str(node.problem)


def test_a_credential_of_another_host_is_refused(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials, KeyFile(seed=SEED, host=THERE).text).rename(credentials / "ambient.identity")
    node = identity(tmp_path, CREDENTIALS_DIRECTORY=str(credentials))
    assert "was made on another host" in str(node.problem)
