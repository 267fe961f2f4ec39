import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.records import RefreshTokenRecord
from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.tokens import (
    ANSWER_LOST,
    Refresh,
    TokenHashes,
    TokenKind,
    build_token,
    decide_refresh,
    keyed_hash,
    kind_of,
    sentence_of,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HASHES = TokenHashes({name: name.value.encode() for name in SecretName})
TOKEN = RefreshTokenRecord(
    token_hash=b"a" * 32, family_id="f", user_id="u", issued_at=NOW, expires_at=NOW + timedelta(days=30)
)
NEXT = msgspec.structs.replace(TOKEN, token_hash=b"b" * 32, parent_hash=TOKEN.token_hash)
USED = msgspec.structs.replace(TOKEN, used_at=NOW, successor_hash=NEXT.token_hash)


def lost_after(seconds: float) -> RefreshTokenRecord:
    """A successor that was taken for lost so long after it was issued."""
    at = NOW + timedelta(seconds=seconds)
    return msgspec.structs.replace(NEXT, revoked_at=at, revoked_reason=ANSWER_LOST)


@given(st.sampled_from(TokenKind), st.binary(min_size=32, max_size=32))
def test_a_token_tells_its_kind_and_no_other(kind: TokenKind, random: bytes) -> None:
    token = build_token(kind, random)
    assert kind_of(token) is kind
    assert kind_of(token[:-1]) is kind_of(token + "0") is kind_of(token.upper()) is None


def test_hashes_differ_by_kind_key_and_token() -> None:
    token = "x" * 64
    assert len({HASHES.of(kind, token) for kind in TokenKind}) == len(TokenKind)
    other = TokenHashes(dict.fromkeys(SecretName, b"another"))
    assert other.of(TokenKind.ACCESS, token) != HASHES.of(TokenKind.ACCESS, token)
    assert HASHES.of(TokenKind.ACCESS, token) == HASHES.of(TokenKind.ACCESS, token)


VECTORS = json.loads((Path(__file__).parents[2] / "data/vectors/token_hash.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["case"] for vector in VECTORS])
def test_hashes_are_keyed_as_the_fleet_api_keys_them(vector: dict[str, str]) -> None:
    assert keyed_hash(vector["pepper"].encode(), vector["token"].encode()).hexdigest() == vector["stored"]


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("rt_", TokenKind.REFRESH), ("vcp_", TokenKind.API_KEY), ("cs_", TokenKind.CONNECT)],
)
def test_what_is_hashed_is_the_kind_and_the_token(prefix: str, kind: TokenKind) -> None:
    """The fleet API hashes the token alone: rows of its database open nothing here."""
    (vector,) = (one for one in VECTORS if one["token"].startswith(prefix))
    pepper, token = vector["pepper"].encode(), vector["token"]
    ours = TokenHashes(dict.fromkeys(SecretName, pepper)).of(kind, token)
    assert ours == keyed_hash(pepper, b"ambient-token-v1\0" + f"{prefix}\0{token}".encode()).digest()
    assert ours.hex() != vector["stored"]


@pytest.mark.parametrize(
    ("shown", "successor", "verdict"),
    [
        (None, None, Refresh.UNKNOWN),
        (TOKEN, None, Refresh.ROTATE),
        (USED, NEXT, Refresh.REISSUE),
        (USED, msgspec.structs.replace(NEXT, used_at=NOW), Refresh.REUSE),
        (USED, msgspec.structs.replace(NEXT, revoked_at=NOW), Refresh.REUSE),
        (USED, None, Refresh.REUSE),
        (msgspec.structs.replace(TOKEN, revoked_at=NOW), None, Refresh.REVOKED),
        (lost_after(60), None, Refresh.REVOKED),  # two processes at once
        (lost_after(61), None, Refresh.REUSE),
        (msgspec.structs.replace(TOKEN, expires_at=NOW), None, Refresh.EXPIRED),
    ],
)
def test_a_lost_answer_is_told_from_theft(
    shown: RefreshTokenRecord | None, successor: RefreshTokenRecord | None, verdict: Refresh
) -> None:
    assert decide_refresh(shown, successor, NOW) is verdict


@pytest.mark.parametrize("verdict", [Refresh.UNKNOWN, Refresh.REUSE, Refresh.REVOKED, Refresh.EXPIRED])
def test_every_refusal_has_a_sentence(verdict: Refresh) -> None:
    assert sentence_of(verdict)
