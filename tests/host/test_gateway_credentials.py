import os
import stat
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from ambientd.host.gateway_credentials import KEY_FILE, FileGatewayCredentials, load_device_key
from ambientd.host.threads import run_inline
from ambientd.ports.errors import UnavailableError
from ambientd.ports.gateway_socket import CredentialsError

URL, OTHER = "ws://127.0.0.1:18789", "wss://gate.example.net:443"


def credentials(state: Path, token_file: str | None = None, **environ: str) -> FileGatewayCredentials:
    return FileGatewayCredentials(state, environ=environ, token_file=token_file, run_sync=run_inline)


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_the_key_is_made_once_private_and_signs(tmp_path: Path) -> None:
    key = load_device_key(tmp_path)
    path = tmp_path / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_device_key(tmp_path).public_key == key.public_key
    VerifyKey(key.public_key).verify(b"payload", key.sign(b"payload"))
    assert os.listdir(tmp_path) == [KEY_FILE]
    assert len(key.sign(b"x")) == 64


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 33, "\x00"])
def test_a_file_that_is_no_key_is_not_replaced(text: str, tmp_path: Path) -> None:
    private(tmp_path / KEY_FILE, text)
    with pytest.raises(CredentialsError) as refused:
        load_device_key(tmp_path)
    assert KEY_FILE in str(refused.value)
    assert "00" * 31 not in str(refused.value)
    assert (tmp_path / KEY_FILE).read_text() == text


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    load_device_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(CredentialsError, match="0640"):
        load_device_key(tmp_path)


def test_a_link_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / KEY_FILE).symlink_to(elsewhere)
    with pytest.raises(CredentialsError, match="symbolic link"):
        load_device_key(tmp_path)
    assert not elsewhere.exists()


def test_a_state_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="cannot be written"):
        load_device_key(tmp_path / "missing")


async def test_the_token_is_taken_from_the_first_place_that_gives_one(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    private(folder / "gateway.token", "from-credential\n")
    file = private(tmp_path / "token", "from-file\n")
    both = {"OPENCLAW_AUTH_TOKEN": "from-first", "HELICARRIER_GATEWAY_TOKEN": "from-second"}
    second = {"HELICARRIER_GATEWAY_TOKEN": "from-second"}
    assert (
        await credentials(tmp_path, file, CREDENTIALS_DIRECTORY=str(folder), **both).shared_token()
        == "from-credential"
    )
    assert await credentials(tmp_path, file, **both).shared_token() == "from-file"
    assert await credentials(tmp_path, **both).shared_token() == "from-first"
    assert await credentials(tmp_path, **second).shared_token() == "from-second"
    assert await credentials(tmp_path).shared_token() is None


async def test_a_new_token_in_the_file_is_read_without_a_restart(tmp_path: Path) -> None:
    file = private(tmp_path / "token", "one")
    known = credentials(tmp_path, file)
    assert await known.shared_token() == "one"
    private(tmp_path / "token", "two")
    assert await known.shared_token() == "two"


async def test_a_token_file_that_is_not_safe_is_an_error_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("planted-secret")
    file.chmod(0o644)
    known = credentials(tmp_path, str(file), OPENCLAW_AUTH_TOKEN="other")
    with pytest.raises(CredentialsError, match="0644") as refused:
        await known.shared_token()
    assert "planted-secret" not in str(refused.value)
    assert known.has_token()


async def test_issued_tokens_are_kept_per_url_private_and_can_be_dropped(tmp_path: Path) -> None:
    known = credentials(tmp_path)
    assert not known.has_token()
    await known.keep_device_token(URL, "device-1")
    await known.keep_device_token(URL, "device-2")
    await known.keep_device_token(OTHER, "device-3")
    again = credentials(tmp_path)
    assert await again.device_token(URL) == "device-2"
    assert await again.device_token(OTHER) == "device-3"
    assert await again.device_token(URL + "/x") is None
    assert again.has_token()
    for path in (tmp_path / "gateway_tokens").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await again.drop_device_token(URL)
    await again.drop_device_token(URL)
    assert await again.device_token(URL) is None
    assert await again.device_token(OTHER) == "device-3"


async def test_an_issued_token_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    known = credentials(tmp_path)
    await known.keep_device_token(URL, "device-1")
    next((tmp_path / "gateway_tokens").iterdir()).chmod(0o644)
    assert await known.device_token(URL) is None
    await known.keep_device_token(URL, "device-2")
    assert await known.device_token(URL) == "device-2"


async def test_a_token_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "gateway_tokens").write_text("in the way")
    with pytest.raises(UnavailableError, match="cannot be stored"):
        await credentials(tmp_path).keep_device_token(URL, "x")
