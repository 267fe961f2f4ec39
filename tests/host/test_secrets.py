import copy
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ambientd.host.secrets import (
    Secret,
    SecretError,
    equal_bytes,
    find_secret,
    read_environment_file,
    read_secret_file,
)

VALUE = "hunter2-hunter2"
NOBODY = 65534


def put(path: Path, content: bytes = VALUE.encode(), mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(SecretError) as caught:
        read_secret_file(path)
    assert VALUE not in str(caught.value)
    return str(caught.value)


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret(VALUE)
    assert f"{secret} {secret!r} {secret:>20} {[secret]} {secret!s}" == "*** *** *** [***] ***"
    assert "%s" % secret == "***"  # noqa: UP031 - one of the ways it could get out
    assert secret.reveal() == VALUE
    assert len(secret) == len(VALUE)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_are_compared_as_bytes() -> None:
    assert Secret("ü").matches("ü".encode())
    assert not Secret("a").matches(b"b")
    assert Secret("a") == Secret("a")
    assert Secret("a") != "a"
    assert equal_bytes(b"", b"")
    assert not equal_bytes(b"a", b"ab")


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read_and_its_newline_trimmed(tmp_path: Path, mode: int) -> None:
    assert read_secret_file(put(tmp_path / "s", VALUE.encode() + b"\r\n\n", mode)).reveal() == VALUE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    assert f"mode {mode:04o}" in refusal(put(tmp_path / "s", mode=mode))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"  \n", "is empty"),
        (VALUE.encode() + b"\0", "NUL"),
        (VALUE.encode() + b"\xff", "not UTF-8"),
        (VALUE.encode() * 10_000, "larger than 64 KiB"),
    ],
)
def test_a_file_without_a_usable_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(put(tmp_path / "s", content))


def test_what_is_no_file_of_its_own_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(put(tmp_path / "s"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "symbolic link" in refusal(str(link))
    assert "not a regular file" in refusal(str(fifo))
    assert "not a regular file" in refusal(str(tmp_path))
    assert "no such file" in refusal(str(tmp_path / "nothing"))
    assert "NUL" in refusal("a\0b")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter (pytest's own cannot be entered)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to someone else")
def test_a_file_of_another_user_is_refused() -> None:
    with open_folder() as folder:
        path = put(folder / "s")
        os.chown(path, NOBODY, NOBODY)
        assert f"belongs to user {NOBODY}" in refusal(path)
        os.seteuid(NOBODY)
        try:
            assert read_secret_file(path).reveal() == VALUE
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else and back")
def test_a_file_that_cannot_be_read_says_so() -> None:
    with open_folder() as folder:
        path = put(folder / "s")
        os.seteuid(NOBODY)
        try:
            assert "permission denied" in refusal(path)
        finally:
            os.seteuid(0)


def test_the_credential_comes_before_the_file_and_the_file_before_variables(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "ONE": "", "TWO": "from-variable"}
    file = put(tmp_path / "file", b"from-file")

    def found(file: str | None) -> str | None:
        secret = find_secret("gateway.token", environ=environ, file=file, variables=("ONE", "TWO"))
        return secret.reveal() if secret else None

    assert found(None) == "from-variable"
    assert found(file) == "from-file"
    put(tmp_path / "gateway.token", b"from-credential\n", 0o440)  # as systemd makes them
    assert found(file) == "from-credential"


def test_a_place_that_is_named_but_unusable_is_an_error_not_a_reason_to_go_on(tmp_path: Path) -> None:
    file = put(tmp_path / "file", mode=0o644)
    with pytest.raises(SecretError):
        find_secret("x", environ={"V": "other"}, file=file, variables=("V",))
    put(tmp_path / "x", mode=0o444)
    with pytest.raises(SecretError, match="mode 0444"):
        find_secret("x", environ={"CREDENTIALS_DIRECTORY": str(tmp_path), "V": "other"}, variables=("V",))
    with pytest.raises(SecretError, match="variable V is not UTF-8"):
        find_secret("y", environ={"V": "\udcff"}, variables=("V",))


def test_a_secret_given_nowhere_is_none() -> None:
    assert find_secret("x", environ={"V": ""}, variables=("V",)) is None


def test_an_environment_file_is_read_with_comments_and_quotes(tmp_path: Path) -> None:
    text = r"""
# comment
; comment
PLAIN=a b#c
SPACED = x
EMPTY=
SINGLE='a "b" $c \n'
DOUBLE="a \"b\" \$c\n\\"
URL=https://x/?a=b
"""
    variables = read_environment_file(put(tmp_path / "e", text.encode()))
    assert {name: secret.reveal() for name, secret in variables.items()} == {
        "PLAIN": "a b#c",
        "SPACED": "x",
        "EMPTY": "",
        "SINGLE": r'a "b" $c \n',
        "DOUBLE": 'a "b" $c\n\\',
        "URL": "https://x/?a=b",
    }
    assert VALUE not in repr(variables)


def test_every_bad_line_is_named_by_number_and_never_shown(tmp_path: Path) -> None:
    lines = [
        f"A={VALUE}",
        VALUE,
        f"1A={VALUE}",
        f'B="{VALUE}',
        f"A={VALUE}",
        f"export C={VALUE}",
        f"='{VALUE}'",
    ]
    path = put(tmp_path / "e", "\n".join(lines).encode())
    with pytest.raises(SecretError) as caught:
        read_environment_file(path)
    assert [problem.removeprefix(path) for problem in caught.value.problems] == [
        ": line 2 is not KEY=value",
        ": line 3 does not begin with the name of a variable and =",
        ": line 4 has a quote that is not closed at its end",
        ": line 5 sets A a second time",
        ": line 6 does not begin with the name of a variable and =",
        ": line 7 does not begin with the name of a variable and =",
    ]
    assert VALUE not in str(caught.value)


def test_an_environment_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="mode 0644"):
        read_environment_file(put(tmp_path / "e", b"A=1", 0o644))
