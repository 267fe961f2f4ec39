"""The handshake: what we say of ourselves, what must be signed, and what the gateway says in return."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from ambientd.core.gateway.frames import LONGEST_CODE, RemoteProtocolError, clean

OLDEST_PROTOCOL, NEWEST_PROTOCOL = 3, 4
# Both are closed lists on the other side; other ids are refused, other pairs are left without scopes.
CLIENT_ID, CLIENT_MODE = "gateway-client", "backend"
ROLE = "operator"
PLATFORM = "linux"  # pinned to a paired device: another one would need a new approval
READ, WRITE, ADMIN = "operator.read", "operator.write", "operator.admin"
NEEDED_SCOPES = (READ, WRITE)
# Row changes without the text of conversations; protocol 3 ignores it.
CAPABILITIES = ("session-scoped-events",)

MOST_FEATURES = 5_000
LONGEST_DEVICE_TOKEN = 4096
PUBLIC_KEY_SIZE = 32
_SHORTEST_TICK, _LONGEST_TICK = 1.0, 600.0
DEFAULT_TICK = 30.0


class Device(msgspec.Struct, frozen=True):
    """Who we are to a gateway: `id` is the hash of the public key."""

    id: str
    public_key: str


class Challenge(msgspec.Struct, frozen=True):
    """What the gateway opens with. `ts` is its clock in milliseconds, and becomes `signedAt`."""

    nonce: str
    ts: int


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway shows to its operator about us."""

    version: str
    instance_id: str
    display_name: str


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of hello-ok. `tick` and `uptime` are in seconds; the process may outlive a restart."""

    protocol: int
    version: str | None
    boot_id: str | None
    scopes: tuple[str, ...]
    features: frozenset[str]
    tick: float
    max_payload: int
    device_token: str | None = msgspec.field(default=None)
    uptime: float | None = None

    def lacks(self, needed: Sequence[str]) -> tuple[str, ...]:
        """Scopes that were not granted."""
        return tuple(scope for scope in needed if scope not in self.scopes)


def device_of(public_key: bytes) -> Device:
    """The device of an Ed25519 public key of 32 bytes."""
    if len(public_key) != PUBLIC_KEY_SIZE:
        raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_SIZE} bytes")
    return Device(hashlib.sha256(public_key).hexdigest(), _base64(public_key))


def payload_to_sign(device: Device, challenge: Challenge, *, scopes: Sequence[str], token: str) -> bytes:
    """The text whose signature proves the device (form v3); `token` is what is sent, or empty."""
    parts = ("v3", device.id, CLIENT_ID, CLIENT_MODE, ROLE, ",".join(scopes), str(challenge.ts))
    return "|".join((*parts, token, challenge.nonce, PLATFORM, "")).encode()


def build_connect(
    device: Device,
    challenge: Challenge,
    client: Client,
    *,
    scopes: Sequence[str],
    token: str,
    signature: bytes,
) -> dict[str, Any]:
    """The parameters of `connect`: only what the oldest supported version knows."""
    return {
        "minProtocol": OLDEST_PROTOCOL,
        "maxProtocol": NEWEST_PROTOCOL,
        "client": {
            "id": CLIENT_ID,
            "mode": CLIENT_MODE,
            "version": client.version,
            "platform": PLATFORM,
            "displayName": client.display_name,
            "instanceId": client.instance_id,
        },
        "role": ROLE,
        "scopes": list(scopes),
        "caps": list(CAPABILITIES),
        "commands": [],
        "permissions": {},
        "locale": "en-US",
        "userAgent": f"ambientd/{client.version}",
        **({"auth": {"token": token}} if token else {}),
        "device": {
            "id": device.id,
            "publicKey": device.public_key,
            "signature": _base64(signature),
            "signedAt": challenge.ts,
            "nonce": challenge.nonce,
        },
    }


def parse_challenge(payload: Any) -> Challenge:
    """Raises RemoteProtocolError when it cannot be answered."""
    match payload:
        case {"nonce": str() as nonce, "ts": int() as ts} if 0 < len(nonce) <= 256 and "|" not in nonce:
            return Challenge(nonce, ts)
    raise RemoteProtocolError("the challenge lacks a nonce or a time")


def parse_hello(payload: Any) -> Hello:
    """Strict about the protocol's number, lenient about the rest; raises RemoteProtocolError."""
    if not isinstance(payload, dict) or payload.get("type") != "hello-ok":
        raise RemoteProtocolError("the answer to connect is no hello-ok")
    protocol = payload.get("protocol")
    if type(protocol) is not int or not OLDEST_PROTOCOL <= protocol <= NEWEST_PROTOCOL:
        chosen = str(protocol) if type(protocol) is int else "nothing that is a number"
        raise RemoteProtocolError(f"the gateway chose protocol {clean(chosen, 32)}, which was not offered")
    server, auth = _table(payload, "server"), _table(payload, "auth")
    policy, features = _table(payload, "policy"), _table(payload, "features")
    token = auth.get("deviceToken")
    return Hello(
        protocol=protocol,
        version=clean(server.get("version"), LONGEST_CODE) or None,
        boot_id=clean(server.get("bootId"), LONGEST_CODE) or None,
        uptime=_uptime(_table(payload, "snapshot").get("uptimeMs")),
        scopes=_names(auth.get("scopes"), 64),
        features=frozenset(_names(features.get("methods"), MOST_FEATURES)),
        tick=_tick(policy.get("tickIntervalMs")),
        max_payload=_positive(policy.get("maxPayload"), 1024 * 1024),
        device_token=token if isinstance(token, str) and 0 < len(token) <= LONGEST_DEVICE_TOKEN else None,
    )


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _names(value: object, most: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(clean(name, LONGEST_CODE) for name in value[:most] if isinstance(name, str))


def _tick(ms: object) -> float:
    seconds = _positive(ms, int(DEFAULT_TICK * 1000)) / 1000
    return min(max(seconds, _SHORTEST_TICK), _LONGEST_TICK)


def _uptime(ms: object) -> float | None:
    return ms / 1000 if isinstance(ms, int) and not isinstance(ms, bool) and ms >= 0 else None


def _positive(value: object, default: int) -> int:
    return value if type(value) is int and value > 0 else default


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
