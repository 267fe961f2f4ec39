"""Accounts, tokens and API keys over HTTP (fact sheet 2.3)."""

from datetime import timedelta

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.principal import Person, bearer_of, for_people
from ambientd.api.router import Access, Answer, Authenticate, Route
from ambientd.core.fleet.records import ApiKeyRecord
from ambientd.core.fleet.records import Caller as Account
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.accounts import Accounts, Issued, NewKey
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_auth_messages import (
    ApiKeyRequest,
    ApiKeysAnswer,
    ApiKeyView,
    DoneAnswer,
    LoginRequest,
    PasswordRequest,
    RefreshRequest,
    RegisterAnswer,
    RegisterRequest,
    TokensAnswer,
    WhoAnswer,
)
from ambientd.wire.messages import ErrorDetail

AUTH = "/api/v1/auth"
_SCOPES = frozenset({"tasks:read", "tasks:write", "nodes:read", "nodes:write"})
_NAME_MAX = 64
_LIFETIME_MAX = 10 * 366 * 86_400


def auth_routes(accounts: Accounts, authenticate: Authenticate) -> tuple[Route, ...]:
    """All of them; those that take credentials in their bodies are open."""
    return (*_open_routes(accounts, authenticate), *_key_routes(accounts))


def _open_routes(accounts: Accounts, authenticate: Authenticate) -> tuple[Route, ...]:
    async def register(request: Request, body: RegisterRequest) -> Answer:
        by: Account | None = None
        if bearer_of(request) is not None:
            caller = await authenticate(request, register_route)
            if isinstance(caller, Rejected):
                return caller
            if isinstance(caller.principal, Person):
                found = caller.principal
                by = Account(user_id=found.user_id, username=found.username, role=found.role, expires_at=None)
        outcome = await accounts.register(body.username, body.password, body.email, by=by, role=body.role)
        if isinstance(outcome, Rejected):
            return outcome
        user, key = outcome
        return created(
            RegisterAnswer(
                user_id=user.user_id,
                username=user.username,
                email=user.email,
                role=user.role,
                api_key=key.api_key,
                message="keep the API key: it is not shown again",
            )
        )

    async def login(_request: Request, body: LoginRequest) -> Answer:
        return _tokens(await accounts.log_in(body.username, body.password))

    async def refresh(_request: Request, body: RefreshRequest) -> Answer:
        return _tokens(await accounts.refresh(body.refresh_token))

    async def logout(_request: Request, body: RefreshRequest) -> Answer:
        await accounts.log_out(body.refresh_token)
        return DoneAnswer("logged out")  # also for an unknown token: there is nothing left to end

    register_route = Route(
        method="POST",
        path=f"{AUTH}/register",
        handler=register,
        summary="Adds an account and shows its first API key.",
        access=Access.OPEN,
        body=RegisterRequest,
        answers={201: RegisterAnswer},
        refusals=(401, 403, 409),
    )
    return (
        register_route,
        Route(
            method="POST",
            path=f"{AUTH}/login",
            handler=login,
            summary="Access and refresh token for who knows the password.",
            access=Access.OPEN,
            body=LoginRequest,
            answers={200: TokensAnswer},
            refusals=(401,),
        ),
        Route(
            method="POST",
            path=f"{AUTH}/refresh",
            handler=refresh,
            summary="The next pair of tokens; one whose answer was lost may be shown again.",
            access=Access.OPEN,
            body=RefreshRequest,
            answers={200: TokensAnswer},
            refusals=(401,),
        ),
        Route(
            method="POST",
            path=f"{AUTH}/logout",
            handler=logout,
            summary="Revokes all tokens of a log-in.",
            access=Access.OPEN,
            body=RefreshRequest,
            answers={200: DoneAnswer},
        ),
    )


def _key_routes(accounts: Accounts) -> tuple[Route, ...]:
    async def validate(person: Person, _request: Request) -> Answer:
        return WhoAnswer(
            user_id=person.user_id, username=person.username, role=person.role, authenticated_via=person.via
        )

    async def password(person: Person, _request: Request, body: PasswordRequest) -> Answer:
        revoked = await accounts.change_password(
            person.user_id, body.old_password, body.new_password, revoke_keys=body.revoke_api_keys
        )
        if isinstance(revoked, Rejected):
            return revoked
        keys = f"{revoked} API keys revoked" if body.revoke_api_keys else "API keys go on"
        return DoneAnswer(f"password changed; log in again everywhere; {keys}")

    async def list_keys(person: Person, _request: Request) -> Answer:
        return ApiKeysAnswer([view_key(key) for key in await accounts.keys(person.user_id)])

    async def add_key(person: Person, _request: Request, body: ApiKeyRequest) -> Answer:
        problems = _check_key(body)
        if problems:
            return Rejected("VALIDATION_ERROR", "the key is not valid", problems)
        lifetime = None if body.expires_in is None else timedelta(seconds=body.expires_in)
        outcome = await accounts.add_key(person.user_id, body.name, tuple(body.scopes), lifetime)
        return outcome if isinstance(outcome, Rejected) else created(_new_key(outcome))

    async def revoke_key(person: Person, request: Request) -> Answer:
        if await accounts.revoke_key(person.user_id, request.params["key_id"]):
            return DoneAnswer("revoked")
        return Rejected("NOT_FOUND", "there is no such key that is still good")

    return (
        Route(
            method="GET",
            path=f"{AUTH}/api-key/validate",
            handler=for_people(validate),
            summary="Who a token or an API key stands for.",
            answers={200: WhoAnswer},
        ),
        Route(
            method="POST",
            path=f"{AUTH}/password",
            handler=for_people(password),
            summary="Changes the password and revokes every token of the account; API keys if asked for.",
            access=Access.WRITE,
            body=PasswordRequest,
            answers={200: DoneAnswer},
        ),
        Route(
            method="GET",
            path=f"{AUTH}/api-keys",
            handler=for_people(list_keys),
            summary="The account's API keys, without their secrets.",
            answers={200: ApiKeysAnswer},
        ),
        Route(
            method="POST",
            path=f"{AUTH}/api-keys",
            handler=for_people(add_key),
            summary="A further API key, shown this once.",
            access=Access.WRITE,
            body=ApiKeyRequest,
            answers={201: ApiKeyView},
            refusals=(409,),
        ),
        Route(
            method="DELETE",
            path=f"{AUTH}/api-keys/{{key_id}}",
            handler=for_people(revoke_key),
            summary="Revokes an API key.",
            access=Access.WRITE,
            answers={200: DoneAnswer},
            refusals=(404,),
        ),
    )


def _check_key(body: ApiKeyRequest) -> tuple[ErrorDetail, ...]:
    found = []
    if not 1 <= len(body.name) <= _NAME_MAX or not body.name.isprintable():
        found.append(("name", "length", f"1 to {_NAME_MAX} printable characters"))
    if not body.scopes or not set(body.scopes) <= _SCOPES:
        found.append(("scopes", "enum", "some of " + ", ".join(sorted(_SCOPES))))
    if body.expires_in is not None and not 60 <= body.expires_in <= _LIFETIME_MAX:
        found.append(("expires_in", "range", f"60 to {_LIFETIME_MAX} seconds"))
    return tuple(ErrorDetail(name, issue, f"must be {text}", text) for name, issue, text in found)


def _tokens(outcome: Issued | Rejected) -> Answer:
    if isinstance(outcome, Rejected):
        return outcome
    return TokensAnswer(outcome.access_token, outcome.refresh_token, "Bearer", outcome.expires_in)


def _new_key(key: NewKey) -> ApiKeyView:
    view = view_key(key.record)
    view.api_key = key.api_key
    return view


def view_key(key: ApiKeyRecord) -> ApiKeyView:
    """A key as its owner sees it."""
    return ApiKeyView(
        key_id=key.key_id,
        name=key.name,
        prefix=key.prefix,
        scopes=list(key.scopes),
        created_at=rfc3339_ms(key.created_at),
        expires_at=None if key.expires_at is None else rfc3339_ms(key.expires_at),
        last_used_at=None if key.last_used_at is None else rfc3339_ms(key.last_used_at),
        revoked_at=None if key.revoked_at is None else rfc3339_ms(key.revoked_at),
    )
