"""Who may connect: the checks a gateway makes in its handshake, and its recorded refusals."""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from tests.fakes.gateway import recordings

Json = dict[str, Any]
_CLIENT_IDS = ("cli", "gateway-client", "node-host", "test", "openclaw-probe", "webchat", "openclaw-tui")
_MODES = ("cli", "backend", "ui", "node", "worker", "probe", "webchat", "test")
_KNOWN = {"minProtocol", "maxProtocol", "client", "role", "scopes", "caps", "commands", "permissions"}
_KNOWN |= {"locale", "userAgent", "auth", "device"}


@dataclass(frozen=True)
class Refusal:
    """A connect that fails: the error frame, then the close. `delay` is how long the answer takes."""

    code: str
    message: str
    details: Json | None = None
    close: tuple[int, str] = (1008, "")
    retryable: bool | None = None
    retry_after_ms: int | None = None
    delay: float = 0.0

    def error(self) -> Json:
        """The `error` object of the frame."""
        error: Json = {"code": self.code, "message": self.message}
        more = {"details": self.details, "retryable": self.retryable, "retryAfterMs": self.retry_after_ms}
        return error | {name: value for name, value in more.items() if value is not None}


def recorded_failure(case: str) -> Refusal:
    """A refusal of the files 40 to 42 by the name of its case; KeyError when there is none."""
    for name in ("40-connect-failures", "41-lan-pairing", "42-lan-ratelimit"):
        for found in recordings.cases(name):
            if found.name == case and found.error is not None and found.close is not None:
                return Refusal(
                    found.error["code"],
                    found.error["message"],
                    found.error.get("details"),
                    (found.close["code"], found.close.get("reason") or ""),
                    found.error.get("retryable"),
                    found.error.get("retryAfterMs"),
                )
    raise KeyError(case)


STARTING = Refusal(
    "UNAVAILABLE",
    "gateway starting; retry shortly",
    {"reason": "startup-sidecars"},
    (1013, "gateway starting"),
    retryable=True,
    retry_after_ms=500,
)


def bad_params(text: str) -> Refusal:
    """A connect whose form is wrong."""
    return Refusal(
        "INVALID_REQUEST", f"invalid connect params: {text}", None, (1008, f"invalid connect params: {text}")
    )


def unauthorized(code: str, message: str, next_step: str, *, device_token: bool = False) -> Refusal:
    """A connect whose credentials are refused."""
    details = {"code": code, "canRetryWithDeviceToken": device_token, "recommendedNextStep": next_step}
    return Refusal("INVALID_REQUEST", f"unauthorized: {message}", details, (1008, f"unauthorized: {message}"))


@dataclass
class Keeper:
    """What the gateway remembers of tokens and devices."""

    token: str
    protocol: int
    lan: bool = False
    scopes: list[str] | None = None
    device_tokens: dict[str, str] = field(default_factory=dict)  # device id -> token
    approved: dict[str, list[str]] = field(default_factory=dict)  # device id -> scopes
    pending: dict[str, str] = field(default_factory=dict)  # device id -> request id

    def check(self, params: Json, *, nonce: str, ts: int) -> Json | Refusal:
        """hello's `auth`, or why not."""
        return (
            self._form(params)
            or self._range(params)
            or self._device(params, nonce, ts)
            or self._credentials(params)
        )

    def _form(self, params: Json) -> Refusal | None:
        unknown = sorted(params.keys() - _KNOWN)
        if unknown:
            return bad_params(f"at root: unexpected property '{unknown[0]}'")
        client = params.get("client")
        if not isinstance(client, dict):
            return bad_params("must have required property 'client'")
        if client.get("id") not in _CLIENT_IDS:
            return bad_params("at /client/id: must be equal to one of the allowed values")
        if client.get("mode") not in _MODES:
            return bad_params("at /client/mode: must be equal to one of the allowed values")
        return None

    def _range(self, params: Json) -> Refusal | None:
        if params["minProtocol"] <= self.protocol <= params["maxProtocol"]:
            return None
        details: Json = {"code": "PROTOCOL_MISMATCH", "expectedProtocol": self.protocol}
        if self.protocol >= 4:
            details |= {
                "clientMinProtocol": params["minProtocol"],
                "clientMaxProtocol": params["maxProtocol"],
            }
        return Refusal("INVALID_REQUEST", "protocol mismatch", details, (1002, "protocol mismatch"))

    def _device(self, params: Json, nonce: str, ts: int) -> Refusal | None:
        device = params.get("device")
        if device is None:
            return None
        public = base64.urlsafe_b64decode(device["publicKey"] + "=")
        wrong = None
        if hashlib.sha256(public).hexdigest() != device["id"]:
            wrong = "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device identity mismatch"
        elif device["nonce"] != nonce:
            wrong = "DEVICE_AUTH_NONCE_MISMATCH", "device nonce mismatch"
        elif abs(device["signedAt"] - ts) > 120_000:
            wrong = "DEVICE_AUTH_SIGNATURE_EXPIRED", "device signature expired"
        elif not _signed(params, public):
            wrong = "DEVICE_AUTH_SIGNATURE_INVALID", "device signature invalid"
        return (
            None
            if wrong is None
            else Refusal("INVALID_REQUEST", wrong[1], {"code": wrong[0]}, (1008, wrong[1]))
        )

    def _credentials(self, params: Json) -> Json | Refusal:
        auth = params.get("auth") or {}
        sent = auth.get("token") or auth.get("password") or auth.get("deviceToken") or ""
        device = params.get("device")
        if device is None:
            return self._without_device(params, sent)
        known = self.device_tokens.get(device["id"])
        if sent and sent == known:
            if set(params["scopes"]) - set(self.approved[device["id"]]):
                return unauthorized(
                    "AUTH_SCOPE_MISMATCH", "device token scope mismatch", "review_auth_configuration"
                )
            return self._grant(params, "device-token", device["id"])
        if not sent:
            return unauthorized("AUTH_TOKEN_MISSING", "gateway token missing", "update_auth_configuration")
        if sent.startswith("device-token-"):
            return unauthorized(
                "AUTH_DEVICE_TOKEN_MISMATCH",
                "device token mismatch (rotate/reissue device token)",
                "update_auth_credentials",
            )
        if sent != self.token:
            step = "retry_with_device_token" if known else "update_auth_credentials"
            return unauthorized(
                "AUTH_TOKEN_MISMATCH", "gateway token mismatch", step, device_token=known is not None
            )
        return self._pairing(params, device["id"]) or self._grant(params, "token", device["id"])

    def _without_device(self, params: Json, sent: str) -> Json | Refusal:
        if not sent:
            details = {"code": "DEVICE_IDENTITY_REQUIRED"}
            return Refusal(
                "NOT_PAIRED", "device identity required", details, (1008, "device identity required")
            )
        if sent != self.token:
            return unauthorized("AUTH_TOKEN_MISMATCH", "gateway token mismatch", "update_auth_credentials")
        ours = params["client"]["id"] == "gateway-client" and params["client"]["mode"] == "backend"
        return self._grant(params, "token", None, keep=ours and not self.lan)

    def _pairing(self, params: Json, device_id: str) -> Refusal | None:
        approved = self.approved.get(device_id)
        if approved is None and not self.lan:
            return None
        more = set(params["scopes"]) - set(approved or ())
        if approved is not None and not more:
            return None
        request_id = self.pending.setdefault(device_id, f"request-{len(self.pending) + 1}")
        reason = "not-paired" if approved is None else "scope-upgrade"
        text = "pairing required: device is not approved yet"
        details = {
            "code": "PAIRING_REQUIRED",
            "reason": reason,
            "requestId": request_id,
            "deviceId": device_id,
            "requestedScopes": params["scopes"],
        }
        return Refusal("NOT_PAIRED", text, details, (1008, f"{text} (requestId: {request_id})"))

    def _grant(self, params: Json, method: str, device_id: str | None, *, keep: bool = True) -> Json:
        scopes = params.get("scopes", []) if keep else []
        if self.scopes is not None:
            scopes = self.scopes
        auth: Json = {"method": method, "role": params["role"], "scopes": list(scopes)}
        token = self.device_tokens.get(device_id or "")
        return auth | ({"deviceToken": token, "issuedAtMs": 1} if token else {})

    def approve(self, scopes: tuple[str, ...] = ("operator.read", "operator.write")) -> None:
        """What `openclaw devices approve` does, for every device that waits."""
        for device_id in self.pending:
            self.approved[device_id] = list(scopes)
            self.device_tokens[device_id] = f"device-token-{device_id[:8]}"
        self.pending.clear()


def _signed(params: Json, public: bytes) -> bool:
    device, client, auth = params["device"], params["client"], params.get("auth") or {}
    token = auth.get("token") or auth.get("password") or auth.get("deviceToken") or ""
    parts = [
        device["id"],
        client["id"],
        client["mode"],
        params["role"],
        ",".join(params["scopes"]),
        str(device["signedAt"]),
        token,
        device["nonce"],
    ]
    family = str(client.get("deviceFamily", "")).lower()
    texts = ("|".join(["v3", *parts, client["platform"].lower(), family]), "|".join(["v2", *parts]))
    signature = base64.urlsafe_b64decode(device["signature"] + "==")
    for text in texts:
        try:
            VerifyKey(public).verify(text.encode(), signature)
        except BadSignatureError:
            continue
        return True
    return False
