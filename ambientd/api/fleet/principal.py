"""Who calls the control plane: a person, a program with a key, or a joined node that signs its requests."""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.api.router import Access, Answer, Authenticate, Handler, Route
from ambientd.core.fleet.records import Caller as Account
from ambientd.core.fleet.records import Device
from ambientd.core.fleet.signing import is_signed, parse_sequence, parse_signature, request_bytes
from ambientd.core.fleet.tokens import TokenKind, kind_of
from ambientd.flows.fleet.accounts import Accounts
from ambientd.flows.fleet.devices import Devices
from ambientd.flows.fleet.reach import replayed
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Caller, Request
from ambientd.wire.fleet_enums import Role

SEQUENCE_HEADER = "x-ambient-sequence"
SIGNATURE_HEADER = "x-ambient-signature"
API_KEY_HEADER = "x-api-key"
_NOBODY = Rejected("NOT_AUTHENTICATED", "this needs a valid token in the header Authorization: Bearer …")
_NOT_SIGNED = Rejected("NOT_AUTHENTICATED", "the signature is not the node's over this request")
_NO_ADMIN = Rejected("NOT_AUTHORIZED", "administrators only")
# What an API key needs a scope of, by the beginning of the path; everything else is about nodes.
_SUBJECTS = (
    ("/api/v1/tasks", "tasks"),
    ("/api/v1/connect-sessions", "tasks"),
    ("/api/v1/proofs/", "tasks"),
    ("/api/v1/auth/", ""),
    ("/api/v1/cluster/", ""),
    ("/openapi.json", ""),
)


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """An account behind an access token or an API key."""

    user_id: str
    username: str
    role: Role
    via: str  # "access_token" or "api_key"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A joined node whose signature over this request was good. `sequence` is the request's number."""

    device: Device
    sequence: int

    @property
    def node_id(self) -> str:
        """The node."""
        return self.device.credential.node_id


Principal = Person | Machine


def principal_of(request: Request) -> Principal:
    """Who was found behind the request's token."""
    found = request.caller.principal
    if not isinstance(found, Person | Machine):
        raise TypeError("the route is open, but asks who calls")
    return found


def person_of(request: Request) -> Person | Rejected:
    """A person, or why a node may not do this."""
    found = principal_of(request)
    if isinstance(found, Person):
        return found
    return Rejected("NOT_AUTHORIZED", "a node's credential cannot do this; use an account's token")


def for_people(handler: Callable[..., Awaitable[Answer]]) -> Handler:
    """A route's handler from `handler(person, request[, body])`; joined nodes are refused."""

    async def checked(request: Request, *body: msgspec.Struct) -> Answer:
        person = person_of(request)
        return person if isinstance(person, Rejected) else await handler(person, request, *body)

    return checked


def for_admins(handler: Callable[..., Awaitable[Answer]]) -> Handler:
    """The same for administrators alone."""

    async def checked(person: Person, request: Request, *body: msgspec.Struct) -> Answer:
        return await handler(person, request, *body) if person.role is Role.ADMIN else _NO_ADMIN

    return for_people(checked)


def owner_of(request: Request) -> str:
    """The account in whose name the request is made; a node acts for its owner."""
    found = principal_of(request)
    return found.user_id if isinstance(found, Person) else found.device.owner_id


def build_authenticate(accounts: Accounts, devices: Devices) -> Authenticate:
    """The router's hook. Refusals do not tell whether a token exists."""

    async def authenticate(request: Request, route: Route) -> Caller | Rejected:
        token = bearer_of(request)
        if token is None:
            return _NOBODY
        kind = kind_of(token)
        if kind is TokenKind.DEVICE:
            return await _machine(request, route, token, devices)
        if kind not in (TokenKind.ACCESS, TokenKind.API_KEY):
            return _NOBODY
        account = await accounts.caller(token)
        if account is None:
            return _NOBODY
        lacking = _lacks_scope(account, route)
        if lacking is not None:
            return Rejected("NOT_AUTHORIZED", f"this needs {lacking}")
        via = "access_token" if kind is TokenKind.ACCESS else "api_key"
        person = Person(user_id=account.user_id, username=account.username, role=account.role, via=via)
        return request.caller._replace(may_write=True, principal=person)

    return authenticate


def bearer_of(request: Request) -> str | None:
    """The token of a request, from either header; None without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get(API_KEY_HEADER)


def _lacks_scope(account: Account, route: Route) -> str | None:
    """What an API key lacks for a route; None when it may pass, as every access token may."""
    if account.scopes is None:
        return None
    # An open route that asks who calls (registration) changes something as well.
    change = route.access is not Access.READ
    if change and route.path.startswith("/api/v1/admin/"):
        return "an access token: an API key does nothing that administrators do"
    subject = next((word for path, word in _SUBJECTS if route.path.startswith(path)), "nodes")
    if subject == "":
        return "an access token: an API key does not change accounts" if change else None
    wanted = f"{subject}:{'write' if change else 'read'}"
    return None if wanted in account.scopes else f"an API key with the scope {wanted}"


async def _machine(request: Request, route: Route, token: str, devices: Devices) -> Caller | Rejected:
    sequence = parse_sequence(request.headers.get(SEQUENCE_HEADER, ""))
    signature = parse_signature(request.headers.get(SIGNATURE_HEADER, ""))
    if sequence is None or signature is None:
        return Rejected(
            "NOT_AUTHENTICATED", f"a device token needs the headers {SEQUENCE_HEADER} and {SIGNATURE_HEADER}"
        )

    def check(device: Device) -> Rejected | None:
        return _check_signature(request, device, sequence, signature)

    device = await devices.device(token, check)
    if device is None:
        return _NOBODY
    if isinstance(device, Rejected):
        return device
    # Whoever changes something takes the number in its transaction; a copy of what reads is looked at here.
    if route.access is not Access.WRITE and sequence < device.credential.last_seq:
        return replayed(device.credential.last_seq)
    return request.caller._replace(may_write=True, principal=Machine(device=device, sequence=sequence))


def _check_signature(request: Request, device: Device, sequence: int, signature: bytes) -> Rejected | None:
    credential = device.credential
    signed = request_bytes(
        node_id=credential.node_id,
        sequence=sequence,
        method=request.method,
        target=request.target,
        body=request.body,
    )
    # The key was checked when the node was enrolled with it.
    return None if is_signed(credential.public_key, signed, signature, sound=True) else _NOT_SIGNED
