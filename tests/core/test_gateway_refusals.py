import json
from typing import Any

import pytest

from ambientd.core.gateway.frames import Failure, GatewayFault, decode_frame
from ambientd.core.gateway.refusals import (
    Credentials,
    Pacing,
    Reaction,
    TokenMove,
    react_to_close,
    react_to_http,
    react_to_refusal,
    react_to_scopes,
)
from tests.fakes.gateway import recorded_failure, recordings
from tests.fakes.gateway.auth import STARTING, Refusal
from tests.fakes.gateway.methods import draining

SHARED = Credentials(shared=True, device=False)
BOTH = Credentials(shared=True, device=True)
WITH_DEVICE = Credentials(shared=True, device=True, sent_device=True)
ONLY_DEVICE = Credentials(shared=False, device=True, sent_device=True)


def fault(error: Any) -> GatewayFault:
    frame = decode_frame(json.dumps({"type": "res", "id": "1", "ok": False, "error": error}))
    assert isinstance(frame, Failure)
    return frame.fault


def react(refusal: Refusal | str, had: Credentials = SHARED) -> Reaction:
    refusal = recorded_failure(refusal) if isinstance(refusal, str) else refusal
    return react_to_refusal(fault(refusal.error()), had)


@pytest.mark.parametrize(
    ("case", "words", "remedy", "least"),
    [
        ("wrong token", "refused the token", "gateway.auth.token", 300),
        ("no auth at all", "wants a token", "gateway.token_file", 300),
        ("device, no token at all, loopback", "wants a token", "OPENCLAW_AUTH_TOKEN", 300),
        ("LAN right token while locked out", "locked this host out for 300 s", "Check the token", 299),
        (
            "LAN device identity + right token while locked out",
            "locked this host out",
            "Check the token",
            300,
        ),
        (
            "LAN: device + shared token, unpaired",
            "not approved yet",
            "openclaw devices approve 958e9098-7000-4806-bbfb-420889426eee",
            30,
        ),
        ("LAN: scope upgrade to admin", "more scopes", "approve 85dfff79-83cf-44d3-8a83-4338ebd24ba6", 30),
        ("platform change on paired device", "looks different", "openclaw devices approve", 30),
        ("bad signature", "DEVICE_AUTH_SIGNATURE_INVALID", "pair anew", 600),
        ("stale signedAt", "DEVICE_AUTH_SIGNATURE_EXPIRED", "clocks", 600),
        ("wrong nonce", "DEVICE_AUTH_NONCE_MISMATCH", "clocks", 600),
        ("wrong device id", "DEVICE_AUTH_DEVICE_ID_MISMATCH", "pair anew", 600),
        ("unknown client id", "invalid connect params", "too old or too new", 600),
        ("unknown extra connect param", "unexpected property", "too old or too new", 600),
        ("role bogus", "invalid role", "too old or too new", 600),
        ("deviceless openclaw-control-ui/ui with token", "took us for a browser", "log", 600),
    ],
)
def test_people_are_told_what_is_wrong_and_what_helps(
    case: str, words: str, remedy: str, least: float
) -> None:
    told = react(case)
    assert words in told.reason
    assert remedy in (told.remedy or "")
    assert told.refused
    assert (told.pacing, told.token) == (Pacing.SLOW, TokenMove.KEEP)
    assert told.pause >= least


@pytest.mark.parametrize(
    ("expected", "remedy"),
    [(5, "Upgrade ambientd."), (2, "Upgrade the gateway."), (None, "Upgrade ambientd.")],
)
def test_another_protocol_is_named(expected: int | None, remedy: str) -> None:
    details = {"code": "PROTOCOL_MISMATCH", "expectedProtocol": expected}
    told = react(Refusal("INVALID_REQUEST", "protocol mismatch", details))
    assert f"the gateway wants protocol {expected or 'another one'}" in told.reason
    assert (told.remedy, told.refused) == (remedy, True)


def test_every_recorded_refusal_is_decided_and_none_is_retried_fast() -> None:
    cases = [
        c for n in ("40-connect-failures", "41-lan-pairing", "42-lan-ratelimit") for c in recordings.cases(n)
    ]
    refused = [case for case in cases if not case.ok]
    assert len(refused) > 30
    for case in refused:
        told = react_to_refusal(fault(case.error), SHARED)
        if told.token is TokenMove.KEEP:
            assert told.refused, case.name
            assert told.pause >= 30, case.name


def test_a_wrong_shared_token_is_followed_by_the_devices_own_once() -> None:
    assert react("device, wrong token", BOTH).token is TokenMove.TRY_DEVICE
    again = react("device, wrong token", WITH_DEVICE)
    assert (again.token, again.refused) == (TokenMove.KEEP, True)
    never = react("wrong token", BOTH)  # the gateway says that it would not help
    assert (never.token, never.refused) == (TokenMove.KEEP, True)


@pytest.mark.parametrize("case", ["device token with other identity", "device token, asks admin too"])
def test_a_void_device_token_is_dropped_and_the_shared_one_used(case: str) -> None:
    told = react(case, WITH_DEVICE)
    assert (told.token, told.refused, told.pause) == (TokenMove.DROP_DEVICE, False, 1.0)
    alone = react(case, ONLY_DEVICE)
    assert (alone.token, alone.refused, alone.pause) == (TokenMove.DROP_DEVICE, True, 300.0)


def test_a_gateway_that_starts_or_drains_is_waited_for() -> None:
    starting = react(STARTING)
    assert (starting.pacing, starting.told, starting.refused) == (Pacing.STARTING, 0.5, False)
    drains = react_to_refusal(fault(draining("connect").error()), SHARED)
    assert (drains.pacing, drains.refused) == (Pacing.STARTING, False)
    assert "restarts" in drains.reason


def test_an_unknown_refusal_is_told_and_tried_slowly() -> None:
    told = react(Refusal("SOMETHING_NEW", "no \x1b[31mway", {"code": "NEW_DETAIL"}))
    assert "SOMETHING_NEW" in told.reason
    assert "\x1b" not in told.reason
    assert (told.refused, told.pause) == (True, 600.0)


def test_a_lockout_of_absurd_length_is_cut() -> None:
    error = {"code": "X", "message": "x", "retryAfterMs": 10**15, "details": {"code": "AUTH_RATE_LIMITED"}}
    assert react_to_refusal(fault(error), SHARED).pause == 3600.0


@pytest.mark.parametrize(
    ("code", "pacing", "refused"),
    [
        (1000, Pacing.PLAN, False),
        (1001, Pacing.PLAN, False),
        (1005, Pacing.PLAN, False),
        (1006, Pacing.PLAN, False),
        (1008, Pacing.SLOW, True),
        (1009, Pacing.SLOW, True),
        (1011, Pacing.PLAN, False),
        (1012, Pacing.PLAN, False),
        (1013, Pacing.STARTING, False),
        (1002, Pacing.SLOW, False),
        (4001, Pacing.PLAN, False),
        (4999, Pacing.PLAN, False),
    ],
)
def test_each_close_code_has_its_reaction_before_hello(code: int, pacing: Pacing, refused: bool) -> None:
    told = react_to_close(code, "some reason", greeted=False)
    assert (told.pacing, told.refused) == (pacing, refused)
    assert told.reason


@pytest.mark.parametrize("code", [1002, 1006, 1007, 1008, 1012])
def test_after_hello_a_close_is_a_lost_link_and_follows_the_plan(code: int) -> None:
    told = react_to_close(code, "slow \x07consumer", greeted=True)
    assert (told.pacing, told.refused) == (Pacing.PLAN, False)
    assert "\x07" not in told.reason


def test_an_answer_in_plain_http_is_told_apart() -> None:
    assert "redirects are not followed" in react_to_http(302).reason
    assert react_to_http(503).pacing is Pacing.STARTING
    assert "HTTP 403" in react_to_http(403).reason


def test_missing_scopes_are_named_with_what_was_granted() -> None:
    told = react_to_scopes(("operator.write",), ("operator.read",))
    assert "operator.write is missing (granted: operator.read)" in told.reason
    assert told.refused
    assert "granted: none" in react_to_scopes(("operator.read", "operator.write"), ()).reason
