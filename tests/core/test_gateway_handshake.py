import base64
import hashlib
from typing import Any

import pytest
from nacl.signing import SigningKey

from ambientd.core.gateway.frames import RemoteProtocolError
from ambientd.core.gateway.hello import (
    NEEDED_SCOPES,
    Challenge,
    Client,
    build_connect,
    device_of,
    parse_challenge,
    parse_hello,
    payload_to_sign,
)
from tests.fakes.gateway import FakeGateway, Refusal, recordings
from tests.fakes.gateway.auth import Keeper

KEY = SigningKey(bytes(range(32)))
CLIENT = Client(version="0.1.0", instance_id="i-1", display_name="ambientd on edge-07")
CHALLENGE = Challenge("nonce-1", 1_795_194_787_189)


def connect(
    token: str, scopes: tuple[str, ...] = NEEDED_SCOPES, challenge: Challenge = CHALLENGE
) -> dict[str, Any]:
    device = device_of(bytes(KEY.verify_key))
    signature = KEY.sign(payload_to_sign(device, challenge, scopes=scopes, token=token)).signature
    return build_connect(device, challenge, CLIENT, scopes=scopes, token=token, signature=signature)


def recorded_connects() -> list[dict[str, Any]]:
    return [
        row.frame["params"]
        for name in recordings.names()
        for row in recordings.frames(name)
        if row.frame.get("method") == "connect"
    ]


def test_the_device_is_the_hash_of_its_key_as_recorded() -> None:
    devices = [params["device"] for params in recorded_connects() if "device" in params]
    checked = 0
    for device in devices:
        raw = base64.urlsafe_b64decode(device["publicKey"] + "=")
        ours = device_of(raw)
        checked += (ours.id, ours.public_key) == (device["id"], device["publicKey"])
    assert checked >= 15  # one recorded case sends a wrong id on purpose
    assert checked >= len(devices) - 1


def test_what_is_signed_is_the_form_that_the_gateway_documents() -> None:
    device = device_of(bytes(KEY.verify_key))
    text = payload_to_sign(device, CHALLENGE, scopes=("a", "b"), token="t").decode()
    digest = hashlib.sha256(bytes(KEY.verify_key)).hexdigest()
    assert text == f"v3|{digest}|gateway-client|backend|operator|a,b|1795194787189|t|nonce-1|linux|"


def test_connect_sends_nothing_that_the_recorded_versions_did_not_take() -> None:
    good = [
        recorded
        for name in ("40-connect-failures", "41-lan-pairing")
        for case in recordings.cases(name)
        if case.ok
        for recorded in [row.frame["params"] for row in case.frames if row.frame.get("method") == "connect"]
    ]
    known = set().union(*good)
    params = connect("secret")
    assert set(params) <= known
    assert (params["minProtocol"], params["maxProtocol"]) == (3, 4)
    assert params["device"]["signedAt"] == CHALLENGE.ts


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_gateway_that_checks_signatures_lets_us_in(protocol: int) -> None:
    verdict = Keeper("secret", protocol).check(connect("secret"), nonce="nonce-1", ts=CHALLENGE.ts)
    assert not isinstance(verdict, Refusal)
    assert verdict["scopes"] == list(NEEDED_SCOPES)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"nonce": "other"}, "DEVICE_AUTH_NONCE_MISMATCH"),
        ({"signedAt": 1}, "DEVICE_AUTH_SIGNATURE_EXPIRED"),
        ({"id": "0" * 64}, "DEVICE_AUTH_DEVICE_ID_MISMATCH"),
        ({"signature": "A" * 86}, "DEVICE_AUTH_SIGNATURE_INVALID"),
    ],
)
def test_a_changed_proof_is_noticed(change: dict[str, Any], code: str) -> None:
    params = connect("secret")
    params["device"] |= change
    verdict = Keeper("secret", 4).check(params, nonce="nonce-1", ts=CHALLENGE.ts)
    assert isinstance(verdict, Refusal)
    assert verdict.details == {"code": code}


def test_the_recorded_hello_is_understood() -> None:
    hello = parse_hello(recordings.answers("00-handshake", "connect")[0])
    assert (hello.protocol, hello.version) == (4, "2026.9.6")
    assert hello.boot_id == "c5244b64-72bf-4949-8cc8-f1230d9046d2"
    assert hello.lacks(NEEDED_SCOPES) == ()
    assert "sessions.list" in hello.features
    assert len(hello.features) == 466
    assert (hello.tick, hello.max_payload) == (30.0, 26_214_400)


async def test_the_older_versions_hello_is_understood() -> None:
    gateway = FakeGateway(protocol=3)
    auth = {"role": "operator", "scopes": ["operator.read"]}
    payload = gateway.dialect.hello(
        gateway.world, auth=auth, boot_id="b", conn_id="c", tick_ms=30_000, uptime_ms=5
    )
    hello = parse_hello(payload)
    assert (hello.protocol, hello.version, hello.boot_id) == (3, "2026.5.7", None)
    assert hello.lacks(NEEDED_SCOPES) == ("operator.write",)


@pytest.mark.parametrize(
    "case",
    [case for case in recordings.cases("40-connect-failures") if case.auth is not None],
    ids=lambda c: c.name,
)
def test_granted_scopes_are_what_hello_says_and_not_what_was_asked(case: recordings.Case) -> None:
    assert case.auth is not None
    hello = parse_hello({"type": "hello-ok", "protocol": 4, "auth": case.auth})
    assert list(hello.scopes) == case.auth["scopes"]
    assert (hello.device_token is not None) == ("deviceToken" in case.auth)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        5,
        {},
        {"type": "hello-ok"},
        {"type": "hello-ok", "protocol": "4"},
        {"type": "hello-ok", "protocol": 5},
    ],
)
def test_an_answer_that_is_no_hello_ends_the_connection(payload: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_hello(payload)


def test_a_hello_with_everything_misshapen_still_gives_a_protocol() -> None:
    odd = {"auth": 1, "server": [], "policy": {"tickIntervalMs": -5, "maxPayload": "x"}, "features": None}
    hello = parse_hello({"type": "hello-ok", "protocol": 4} | odd)
    assert (hello.scopes, hello.features, hello.tick) == ((), frozenset(), 30.0)


@pytest.mark.parametrize(
    "payload", [None, {}, {"nonce": "", "ts": 1}, {"nonce": "a|b", "ts": 1}, {"nonce": "a", "ts": "1"}]
)
def test_a_challenge_that_cannot_be_signed_ends_the_connection(payload: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_challenge(payload)


def test_a_key_of_another_size_is_no_device() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        device_of(b"short")
