"""What to do when a connection was refused or ended: every row of the protocol's error table.

Reasons and remedies are sentences for people; they hold codes and foreign texts, bounded, never a secret.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec

from ambientd.core.gateway.frames import GatewayFault, clean
from ambientd.core.gateway.hello import NEWEST_PROTOCOL, OLDEST_PROTOCOL
from ambientd.core.gateway.pacing import LONGEST_TOLD

PAIRING_PAUSE = 40.0
WRONG_TOKEN_PAUSE = 300.0  # ten wrong tokens in a minute lock a LAN client out for five
RATE_LIMIT_PAUSE = 300.0
MISTAKE_PAUSE = 600.0
SHARED_TOKEN_PAUSE = 1.0

_OPERATOR_LOGS = "See the gateway's log."


class Pacing(Enum):
    """How the pause before the next attempt is found."""

    PLAN = "plan"
    STARTING = "starting"
    SLOW = "slow"  # `pause` seconds


class TokenMove(Enum):
    """What becomes of the tokens."""

    KEEP = "keep"
    DROP_DEVICE = "drop"  # the stored device token is void
    TRY_DEVICE = "try"  # next time with the device token


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """What follows. `refused`: people must do something, `remedy` says what."""

    reason: str
    remedy: str | None = None
    refused: bool = False
    pacing: Pacing = Pacing.PLAN
    pause: float = 0.0
    told: float | None = None
    token: TokenMove = TokenMove.KEEP


class Credentials(msgspec.Struct, frozen=True):
    """Which tokens there are, and which one was sent."""

    shared: bool
    device: bool
    sent_device: bool = False


def _slow(reason: str, remedy: str | None, seconds: float) -> Reaction:
    return Reaction(reason=reason, remedy=remedy, refused=True, pacing=Pacing.SLOW, pause=seconds)


_GIVE_ONE = "Give the node the gateway's token: gateway.token_file or OPENCLAW_AUTH_TOKEN."


def _token_mismatch(fault: GatewayFault, had: Credentials) -> Reaction:
    if had.device and not had.sent_device and fault.retry_with_device_token:
        reason = "the gateway refused the shared token; trying the device's own"
        return Reaction(
            reason=reason, pacing=Pacing.SLOW, pause=SHARED_TOKEN_PAUSE, token=TokenMove.TRY_DEVICE
        )
    remedy = "Put the value of gateway.auth.token of the gateway's configuration into the node's token."
    return _slow("the gateway refused the token", remedy, WRONG_TOKEN_PAUSE)


def _token_missing(_fault: GatewayFault, _had: Credentials) -> Reaction:
    return _slow("the gateway wants a token", _GIVE_ONE, WRONG_TOKEN_PAUSE)


def _rate_limited(fault: GatewayFault, _had: Credentials) -> Reaction:
    seconds = min(max(fault.retry_after or RATE_LIMIT_PAUSE, 1.0), LONGEST_TOLD)
    reason = f"too many refused attempts: the gateway locked this host out for {seconds:.0f} s"
    return _slow(reason, "Check the token; wrong ones were sent before.", seconds)


def _pairing(fault: GatewayFault, _had: Credentials) -> Reaction:
    why = {
        "not-paired": "this node is not approved yet",
        "scope-upgrade": "this node asks for more scopes than were approved",
        "metadata-upgrade": "this node looks different from when it was approved",
    }.get(fault.reason or "", "the gateway wants this node approved")
    command = f"openclaw devices approve {fault.request_id}" if fault.request_id else "openclaw devices list"
    return _slow(f"pairing required: {why}", f"On the gateway's machine: {command}", PAIRING_PAUSE)


def _device_token_void(_fault: GatewayFault, had: Credentials) -> Reaction:
    reason = "the gateway no longer accepts this node's device token"
    if had.shared:
        return Reaction(
            reason=reason, pacing=Pacing.SLOW, pause=SHARED_TOKEN_PAUSE, token=TokenMove.DROP_DEVICE
        )
    return msgspec.structs.replace(_slow(reason, _GIVE_ONE, WRONG_TOKEN_PAUSE), token=TokenMove.DROP_DEVICE)


def _bad_signature(fault: GatewayFault, _had: Credentials) -> Reaction:
    reason = f"the gateway refused the device's signature ({fault.detail})"
    return _slow(reason, "Check the clocks; else remove gateway_device.key and pair anew.", MISTAKE_PAUSE)


def _protocol(fault: GatewayFault, _had: Credentials) -> Reaction:
    wanted = "another one" if fault.expected_protocol is None else str(fault.expected_protocol)
    spoken = f"{OLDEST_PROTOCOL} to {NEWEST_PROTOCOL}"
    reason = f"the gateway wants protocol {wanted}; this version speaks {spoken}"
    newer = fault.expected_protocol is None or fault.expected_protocol > NEWEST_PROTOCOL
    remedy = "Upgrade ambientd." if newer else "Upgrade the gateway."
    return _slow(reason, remedy, MISTAKE_PAUSE)


def _origin(fault: GatewayFault, _had: Credentials) -> Reaction:
    return _slow(f"the gateway took us for a browser ({fault.detail})", _OPERATOR_LOGS, MISTAKE_PAUSE)


_BY_DETAIL = {
    "AUTH_TOKEN_MISMATCH": _token_mismatch,
    "AUTH_TOKEN_MISSING": _token_missing,
    "AUTH_PASSWORD_MISMATCH": _token_mismatch,
    "DEVICE_IDENTITY_REQUIRED": _token_missing,
    "AUTH_RATE_LIMITED": _rate_limited,
    "PAIRING_REQUIRED": _pairing,
    "AUTH_DEVICE_TOKEN_MISMATCH": _device_token_void,
    "AUTH_SCOPE_MISMATCH": _device_token_void,
    "DEVICE_AUTH_SIGNATURE_INVALID": _bad_signature,
    "DEVICE_AUTH_SIGNATURE_EXPIRED": _bad_signature,
    "DEVICE_AUTH_NONCE_MISMATCH": _bad_signature,
    "DEVICE_AUTH_DEVICE_ID_MISMATCH": _bad_signature,
    "PROTOCOL_MISMATCH": _protocol,
    "CONTROL_UI_ORIGIN_NOT_ALLOWED": _origin,
    "CONTROL_UI_DEVICE_IDENTITY_REQUIRED": _origin,
}


def react_to_refusal(fault: GatewayFault, had: Credentials) -> Reaction:
    """A connect that was answered with an error."""
    decide = _BY_DETAIL.get(fault.detail or "")
    if decide is not None:
        return decide(fault, had)
    if fault.code == "UNAVAILABLE" or fault.retryable:
        starting = (
            "the gateway is starting" if fault.reason != "gateway-restarting" else "the gateway restarts"
        )
        return Reaction(reason=starting, pacing=Pacing.STARTING, told=fault.retry_after)
    if fault.code == "NOT_PAIRED":
        return _pairing(fault, had)
    reason = f"the gateway refused the connection: {fault.message} ({fault.code})"
    return _slow(reason, f"It may be too old or too new for this version. {_OPERATOR_LOGS}", MISTAKE_PAUSE)


def react_to_scopes(missing: tuple[str, ...], granted: tuple[str, ...]) -> Reaction:
    """hello stands, but it does not allow what this node is for."""
    given = ", ".join(granted) or "none"
    reason = f"the gateway grants too little: {', '.join(missing)} is missing (granted: {given})"
    remedy = "On the gateway's machine: openclaw devices list, then approve this node with these scopes."
    return _slow(reason, remedy, WRONG_TOKEN_PAUSE)


_CLOSES: Mapping[int, tuple[str, Pacing]] = {
    1000: ("the gateway closed the connection", Pacing.PLAN),
    1001: ("the gateway is going away", Pacing.PLAN),
    1005: ("the gateway closed the connection without a reason", Pacing.PLAN),
    1006: ("the connection was cut", Pacing.PLAN),
    1011: ("the gateway failed", Pacing.PLAN),
    1012: ("the gateway restarts", Pacing.PLAN),
    1013: ("the gateway is starting", Pacing.STARTING),
    4000: ("the gateway was silent for too long", Pacing.PLAN),
    4001: ("the gateway's access settings changed", Pacing.PLAN),
}


def react_to_close(code: int, text: str | None, *, greeted: bool) -> Reaction:
    """A connection that ended without a refusal. `greeted`: hello had been said."""
    told = clean(text, 100)
    if code in _CLOSES:
        reason, pacing = _CLOSES[code]
        return Reaction(reason=reason, pacing=pacing)
    said = f" ({told})" if told else ""
    if code == 1009:
        return _slow(f"a message was too large{said}", _OPERATOR_LOGS, 60.0)
    if code in (1002, 1003, 1007):
        reason = f"the gateway's protocol broke: close code {code}{said}"
        return Reaction(reason=reason, pacing=Pacing.PLAN if greeted else Pacing.SLOW, pause=30.0)
    if code == 1008 and not greeted:
        return _slow(f"the gateway turned us away{said}", _OPERATOR_LOGS, WRONG_TOKEN_PAUSE)
    return Reaction(reason=f"the gateway closed with code {code}{said}")


def react_to_http(status: int) -> Reaction:
    """An answer to the upgrade that is no websocket."""
    if 300 <= status < 400:
        return _slow(
            f"the address answers with a redirect ({status}); redirects are not followed",
            "Set gateway.url to where the gateway itself listens.",
            WRONG_TOKEN_PAUSE,
        )
    if status == 503:
        return Reaction(reason="the gateway is starting", pacing=Pacing.STARTING)
    reason = f"the address answers HTTP {status} instead of a websocket"
    return _slow(reason, "Check gateway.url, and that no proxy is between.", 60.0)


def react_to_silence(what: str) -> Reaction:
    """No connection, or nothing said on it."""
    return Reaction(reason=what)


def react_to_credentials(what: str) -> Reaction:
    """A key or token of ours that cannot be used; looked at again now and then."""
    return _slow(what, "Mend the file; the next attempt reads it anew.", 60.0)
