"""What stands before every route of the control plane: whose address counts, rate limits, headers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from ambientd.api.errors import FAMILIES, refusal
from ambientd.api.fleet.principal import API_KEY_HEADER, bearer_of
from ambientd.core.fleet.ratelimit import RateLimiter, Tier, client_of, tier_of
from ambientd.core.fleet.throttle import Override
from ambientd.core.fleet.tokens import TokenKind, kind_of
from ambientd.core.site import client_address
from ambientd.flows.fleet.throttle import Throttle
from ambientd.ports.clock import Clock
from ambientd.ports.http import Application, Caller, Request, Response, Turned

if TYPE_CHECKING:
    from ambientd.core.site import Network

_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_OVER_TLS = (("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),)
_CHALLENGE = ("WWW-Authenticate", "Bearer")
BARE_BODY_MAX = 64 * 1024  # many times what logging in or enrolling takes
_TOKEN_HEADERS = frozenset({"authorization", API_KEY_HEADER})
UNLIMITED = frozenset({"/livez", "/readyz", "/api/v1/health"})


class FleetDoor:
    """`ports.http.Door`: reads whose address counts; tokens are looked at with the whole request."""

    def __init__(self, proxies: "Sequence[Network]") -> None:
        """`proxies` are believed in what they say of the client's address."""
        self._proxies = tuple(proxies)

    def admit(self, method: str, path: str, headers: Mapping[str, str], caller: Caller) -> Caller | Turned:
        """The caller with its address. A large body is not read from somebody who shows no token."""
        turned = None if _TOKEN_HEADERS & headers.keys() else _too_large(headers)
        if turned is not None:
            return turned
        forwarded = headers.get("x-forwarded-for")
        if caller.ip is None or forwarded is None:
            return caller
        return caller._replace(ip=client_address(caller.ip, forwarded, self._proxies))

    def illegible(self) -> Turned:
        """The head is larger than any of ours."""
        return Turned(431, "HEADERS_TOO_LARGE", "the header block is too large")

    def nameless(self) -> Turned:
        """A request has exactly one Host."""
        return Turned(400, "BAD_REQUEST", "a request has exactly one Host header")


def _too_large(headers: Mapping[str, str]) -> Turned | None:
    if "transfer-encoding" in headers:
        return Turned(411, "LENGTH_REQUIRED", "without a token a body needs a Content-Length")
    length = headers.get("content-length", "0")
    if not length.isdigit() or len(length) > 9 or int(length) > BARE_BODY_MAX:
        return Turned(413, "PAYLOAD_TOO_LARGE", f"without a token at most {BARE_BODY_MAX} bytes are read")
    return None


def build_front(
    app: Application, limiter: RateLimiter, throttle: Throttle, *, clock: Clock, secure: bool
) -> Application:
    """The application behind limits, with security headers on every answer. `secure`: clients use TLS."""
    counter = _Counter(limiter, throttle, clock)
    always = (*_ALWAYS, *_OVER_TLS) if secure else _ALWAYS

    async def front(request: Request) -> Response:
        wait = await counter.wait(request)
        if wait:
            seconds = str(math.ceil(wait))
            response = refusal(
                "TOO_MANY_REQUESTS",
                f"too many requests; the next one is taken in {seconds} s",
                request_id=request.request_id,
            )
            others = tuple(pair for pair in response.headers if pair[0] != "Retry-After")
            headers: tuple[tuple[str, str], ...] = (*others, ("Retry-After", seconds))
        else:
            response = await app(request)
            headers = response.headers
            if response.status == 401:
                limiter.take(Tier.FAILED, client_of(request.caller.ip), clock.monotonic())
                headers = (*headers, _CHALLENGE)
        return msgspec.structs.replace(response, headers=(*headers, *always))

    return front


class _Counter:
    """Counts requests: by the clients' addresses, joined nodes by themselves, or as an override says."""

    def __init__(self, limiter: RateLimiter, throttle: Throttle, clock: Clock) -> None:
        self._limiter = limiter
        self._throttle = throttle
        self._clock = clock

    async def wait(self, request: Request) -> float:
        """Seconds until a request would be taken; 0.0 when it is."""
        if request.path in UNLIMITED:
            return 0.0
        token, address = bearer_of(request), str(request.caller.ip)
        device = token is not None and kind_of(token) is TokenKind.DEVICE
        now = self._clock.monotonic()
        client = client_of(address)
        guessing = self._limiter.wait(Tier.FAILED, client, now)
        if guessing:
            return guessing
        tier = tier_of(request.method, request.path, device=device)
        if device and token is not None:
            client = f"{client} {token[:19]}"  # many nodes may share an address
        if not self._throttle.table:
            return self._limiter.take(tier, client, now)
        override = await self._override(tier, address, token)
        if override is None:
            return self._limiter.take(tier, client, now)
        # A bucket of its own, so that a change counts at once; an account's is one for all its addresses.
        name = override.override_id if override.network is None else f"{override.override_id} {client}"
        return self._limiter.take(tier, name, now, override.rate)

    async def _override(self, tier: Tier, address: str, token: str | None) -> Override | None:
        table, now = self._throttle.table, self._clock.now()
        if token is not None and table.speaks_of_users(tier):
            try:
                user_id = await self._throttle.user_of(token)
            except FAMILIES:  # counted by its address then
                return table.of_address(tier, address, now)
            if user_id is None:  # a guess: looking it up is not free
                self._limiter.take(Tier.FAILED, client_of(address), self._clock.monotonic())
            elif (found := table.of_user(tier, user_id, now)) is not None:
                return found
        return table.of_address(tier, address, now)
