"""From a table of routes to an application: who may call what, with which parameters and which body.

Checks run in one order and the first that fails answers: path, method, right to write, readiness, media
type, query, body. Equal requests get equal answers (R3.166).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from ambientd.api.errors import FAMILIES, refusal, rejection_of
from ambientd.core.decode import BodyDecoder, Problems
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Application, Caller, HttpLog, Request, Response
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import ErrorDetail

_PATH_SHOWN = 128
_VALUE_MAX_BYTES = 4096  # a query value; the longest of ours is a search text
_JSON_TYPES = frozenset(
    ("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8")
)
_FLAG_VALUES = frozenset(("", "1", "true"))

Answer = Response | Rejected | msgspec.Struct
"""What a handler returns: a struct becomes 200 and JSON."""

Handler = Callable[..., Awaitable[Answer]]
"""`handler(request)`, or `handler(request, body)` for a route with a body type."""


class Access(Enum):
    """Who may call a route: anybody who can connect, readers, writers."""

    OPEN = "open"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryParameter:
    """One parameter of the query; a handler finds it in `request.query`, as text that was checked.

    `kind` is "string", "integer" (digits within the bounds) or "flag" (given alone, or as 1 or true).
    """

    name: str
    doc: str
    kind: str = "string"
    required: bool = False
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One method on one path; `{name}` stands for a whole segment, found in `request.params`.

    `ready` says whether the route needs the store. `answers` names the type of each success status, or None
    where the body is not JSON; a function does so where only the document needs the types. With
    `optional_body` a request without one has its handler called with None. `body_max`: bytes, where the
    listener takes more than this route does. With `raw_body` the handler decodes `request.body` itself,
    after all other checks, and `body` only documents it; `refusals` are statuses of refusals that only it
    gives.
    `unauthorized` and `fault` are the codes of a caller without the right to write and of a defect.
    `action` names a control action: every call that never reaches the handler is audited under it, while
    the handler audits what it has done or refused itself.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    access: Access = Access.READ
    query: tuple[QueryParameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    answers: Mapping[int, Any] | Callable[[], Mapping[int, Any]] = field(default_factory=dict)
    optional_body: bool = False
    body_max: int | None = None
    ready: bool = True
    raw_body: bool = False
    refusals: tuple[int, ...] = ()
    unauthorized: str = "NOT_AUTHORIZED"
    fault: str = "INTERNAL_ERROR"
    action: str = ""

    @property
    def kinds(self) -> Mapping[int, Any]:
        """`answers`, looked up."""
        return self.answers() if callable(self.answers) else self.answers

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's parts, templates included."""
        return tuple(self.path.split("/")[1:])

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the template's parts."""
        return tuple(part[1:-1] for part in self.segments if part.startswith("{"))


class _Compiled:
    """A route with what the hot path needs at hand."""

    __slots__ = ("body", "places", "query", "route", "takes_body")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.query = {parameter.name: parameter for parameter in route.query}
        self.body = None if route.body is None or route.raw_body else BodyDecoder(route.body)
        self.takes_body = route.body is not None or route.raw_body
        self.places = tuple(
            (index, part[1:-1]) for index, part in enumerate(route.segments) if part.startswith("{")
        )


_Methods = dict[str, _Compiled]


def _shape(segments: Iterable[str]) -> tuple[str, ...]:
    return tuple("{}" if part.startswith("{") else part for part in segments)


class _Branch:
    """Templates by their segments: a look at one segment after the other, however many routes there are."""

    __slots__ = ("methods", "parameter", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Branch] = {}
        self.parameter: _Branch | None = None
        self.methods: _Methods | None = None

    def grow(self, shape: Sequence[str], methods: _Methods) -> None:
        """Adds the methods of a template."""
        branch = self
        for part in shape:
            if part == "{}":
                if branch.parameter is None:
                    branch.parameter = _Branch()
                branch = branch.parameter
            else:
                branch = branch.words.setdefault(part, _Branch())
        branch.methods = methods

    def find(self, parts: Sequence[str], at: int = 0) -> _Methods | None:
        """The methods of the template that these segments fit; a template is a few segments deep."""
        branch: _Branch | None = self
        for place in range(at, len(parts)):
            if branch is None:
                return None
            part = parts[place]
            word, parameter = branch.words.get(part), branch.parameter if part else None
            if word is not None and parameter is not None:  # the word may lead nowhere
                return word.find(parts, place + 1) or parameter.find(parts, place + 1)
            branch = word or parameter
        return None if branch is None else branch.methods


class RouteTable:
    """Routes by path. Refuses duplicates and malformed routes with ValueError: a defect found at start."""

    def __init__(self, routes: Iterable[Route], *, log_ins: bool = False) -> None:
        """`log_ins`: routes that change something may be open, because they take credentials themselves."""
        self.routes = tuple(routes)
        self._log_ins = log_ins
        self._exact: dict[str, _Methods] = {}
        self._templates = _Branch()
        shapes: dict[tuple[str, ...], _Methods] = {}
        for route in self.routes:
            self._check(route)
            shape = _shape(route.segments)
            methods = shapes.get(shape)
            if methods is None:
                methods = shapes[shape] = {}
                if "{}" in shape:
                    self._templates.grow(shape, methods)
                else:
                    self._exact[route.path] = methods
            if route.method in methods:
                raise ValueError(f"two routes for {route.method} {route.path}")
            methods[route.method] = _Compiled(route)

    def _check(self, route: Route) -> None:
        if not route.path.startswith("/") or route.method != route.method.upper():
            raise ValueError(f"a malformed route: {route.method} {route.path}")
        if route.method in ("HEAD", "OPTIONS"):
            raise ValueError(f"{route.method} is answered by the router: {route.path}")
        changes = route.method not in ("GET", "DELETE") and route.access is not Access.WRITE
        if changes and not (self._log_ins and route.access is Access.OPEN):
            raise ValueError(
                f"{route.method} {route.path} changes something and must need the right to write"
            )

    def find(self, path: str) -> _Methods | None:
        """The methods of a path; an exact path wins over a template, and a word over a parameter."""
        methods = self._exact.get(path)
        return self._templates.find(path.split("/")[1:]) if methods is None else methods


def _allow(methods: Mapping[str, Any]) -> str:
    names = set(methods) | {"OPTIONS"}
    if "GET" in names:
        names.add("HEAD")
    return ", ".join(sorted(names))


def _check_value(parameter: QueryParameter, value: str) -> ErrorDetail | None:
    name, expected = parameter.name, ""
    if len(value.encode()) > _VALUE_MAX_BYTES:
        return ErrorDetail(
            field=name, issue="length", message="is too long", expected=f"at most {_VALUE_MAX_BYTES} bytes"
        )
    if parameter.choices and value not in parameter.choices:
        expected = "one of " + ", ".join(parameter.choices)
        return ErrorDetail(field=name, issue="enum", message=f"must be {expected}", expected=expected)
    if parameter.kind == "flag" and value not in _FLAG_VALUES:
        return ErrorDetail(
            field=name, issue="type", message="must be given alone, or as 1 or true", expected="flag"
        )
    if parameter.kind == "integer":
        return _check_integer(parameter, value)
    return None


def _check_integer(parameter: QueryParameter, value: str) -> ErrorDetail | None:
    digits = value.removeprefix("-")
    # Text first: int() would take spaces, underscores and other scripts' digits, and 5,000 of them.
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return ErrorDetail(
            field=parameter.name, issue="type", message="must be an integer", expected="integer"
        )
    number = int(value)
    low, high = parameter.minimum, parameter.maximum
    if (low is None or number >= low) and (high is None or number <= high):
        return None
    expected = " and ".join(
        text for text, bound in ((f">= {low}", low), (f"<= {high}", high)) if bound is not None
    )
    return ErrorDetail(field=parameter.name, issue="range", message=f"must be {expected}", expected=expected)


def _check_query(compiled: _Compiled, query: Mapping[str, str]) -> list[ErrorDetail]:
    problems = []
    for name, value in query.items():
        parameter = compiled.query.get(name)
        if parameter is None:
            problems.append(
                ErrorDetail(
                    field=name[:_PATH_SHOWN], issue="unknown", message="is not a parameter of this route"
                )
            )
        elif (problem := _check_value(parameter, value)) is not None:
            problems.append(problem)
    problems.extend(
        ErrorDetail(field=parameter.name, issue="required", message="is required")
        for parameter in compiled.route.query
        if parameter.required and parameter.name not in query
    )
    return problems


def _check_form(compiled: _Compiled, request: Request) -> Rejected | None:
    """Size and media type of the body."""
    most = compiled.route.body_max
    if most is not None and len(request.body) > most:
        return Rejected("PAYLOAD_TOO_LARGE", f"the body is larger than {most} bytes")
    if not compiled.takes_body or (compiled.route.optional_body and not request.body):
        return None
    if request.headers.get("content-type", "").lower() in _JSON_TYPES:
        return None
    detail = ErrorDetail("Content-Type", "type", "must be application/json", "application/json")
    return Rejected("UNSUPPORTED_MEDIA_TYPE", "the body must be application/json", (detail,))


Audited = Callable[..., object]
"""Writes the `[AUDIT]` line of one action: `audited(action=…, actor=…, pid=…, refused=…)`."""


def actor_of(caller: Caller) -> str:
    """Who acts, as the audit names it: numbers from the kernel, or the address of a connection."""
    if caller.uid is not None:
        return f"uid:{caller.uid}"
    return f"ip:{caller.ip}" if caller.ip is not None else caller.transport


Authenticate = Callable[[Request, Route], Awaitable[Caller | Rejected]]
"""Who is behind a request to a route that is not open, or why nobody is. Asked before all else is checked."""


class _Router:
    def __init__(
        self,
        table: RouteTable,
        *,
        readiness: Callable[[], str | None],
        log: HttpLog,
        admin_group: str,
        audited: Audited | None,
        authenticate: Authenticate | None,
    ) -> None:
        self._table = table
        self._audited = audited
        self._readiness = readiness
        self._log = log
        self._admin_group = admin_group
        self._authenticate = authenticate
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, request: Request) -> Response:
        """Answers every request; raises nothing but cancellation."""
        try:
            answer = await self._dispatch(request)
        except FAMILIES as error:
            answer = self._not_done(request, rejection_of(error))
        except Exception as error:  # noqa: BLE001 - a defect in a handler costs one request, not the listener
            self._log.fault(
                f"{request.method} {request.path[:_PATH_SHOWN]}", error, request_id=request.request_id
            )
            answer = self._fault(request)
        if isinstance(answer, Rejected):
            return self._refuse(request, answer)
        if isinstance(answer, Response):
            return answer
        return Response(200, self._encoder.encode(answer))

    def _fault(self, request: Request) -> Rejected:
        compiled = (self._table.find(request.path) or {}).get(request.method)
        code = "INTERNAL_ERROR" if compiled is None else compiled.route.fault
        return self._not_done(request, Rejected(code, ERRORS[code].sentence))

    def _not_done(self, request: Request, rejected: Rejected) -> Rejected:
        """Audits a control action that came to nothing outside its handler (R3.52)."""
        compiled = (self._table.find(request.path) or {}).get(request.method)
        if self._audited is not None and compiled is not None and compiled.route.action:
            caller = request.caller
            self._audited(
                action=compiled.route.action, actor=actor_of(caller), pid=caller.pid, refused=rejected.code
            )
        return rejected

    def _refuse(
        self, request: Request, answer: Rejected, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        response = refusal(
            answer.code, answer.message, answer.details, request_id=request.request_id, headers=headers
        )
        self._log.refused(
            request_id=request.request_id,
            status=response.status,
            code=answer.code,
            method=request.method,
            path=request.path[:_PATH_SHOWN],
        )
        return response

    async def _dispatch(self, request: Request) -> Answer:
        methods = self._table.find(request.path)
        if methods is None:
            if request.method == "OPTIONS" and request.path == "*":
                return Response(204, headers=(("Allow", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),))
            return Rejected("NOT_FOUND", "there is no such path")
        compiled = methods.get(request.method)
        if compiled is None:
            if request.method != "HEAD" or "GET" not in methods:
                return self._other_method(request, methods)
            compiled = methods["GET"]
        if self._authenticate is not None and compiled.route.access is not Access.OPEN:
            caller = await self._authenticate(request, compiled.route)
            if isinstance(caller, Rejected):
                return self._not_done(request, caller)
            request = msgspec.structs.replace(request, caller=caller)
        rejected = self._may_enter(compiled.route, request)
        if rejected is not None:
            return self._not_done(request, rejected)
        checked = self._check(compiled, request)
        if isinstance(checked, Rejected):
            return self._not_done(request, checked)
        return await compiled.route.handler(*checked)

    def _other_method(self, request: Request, methods: _Methods) -> Answer:
        allow = (("Allow", _allow(methods)),)
        if request.method == "OPTIONS":
            return Response(204, headers=allow)
        return self._refuse(
            request, Rejected("METHOD_NOT_ALLOWED", f"allowed here: {_allow(methods)}"), allow
        )

    def _may_enter(self, route: Route, request: Request) -> Rejected | None:
        if route.access is Access.WRITE and not request.caller.may_write:
            group = self._admin_group
            return Rejected(
                route.unauthorized,
                f"changing something needs membership of the group {group!r}; "
                f'run: sudo usermod -aG {group} "$USER" and log in again',
            )
        if route.ready:
            reason = self._readiness()
            if reason is not None:
                return Rejected("NOT_READY", reason)
        return None

    @staticmethod
    def _check(compiled: _Compiled, request: Request) -> Rejected | tuple[Any, ...]:
        """The arguments of the handler, or what is wrong with the request."""
        refused = _check_form(compiled, request)
        if refused is not None:
            return refused
        if request.query or compiled.query:
            problems = _check_query(compiled, request.query)
            if problems:
                return Rejected("VALIDATION_ERROR", "the query is not valid", tuple(problems))
        if compiled.places:
            parts = request.path.split("/")[1:]
            params = {name: parts[index] for index, name in compiled.places}
            if any(not value.isprintable() for value in params.values()):
                return Rejected("NOT_FOUND", "there is no such path")
            request = msgspec.structs.replace(request, params=params)
        if compiled.body is None:
            if request.body and not compiled.takes_body:
                problem = ErrorDetail(field="body", issue="unknown", message="this route takes no body")
                return Rejected("VALIDATION_ERROR", "this route takes no body", (problem,))
            return (request,)
        if compiled.route.optional_body and not request.body:
            return request, None
        body = compiled.body.decode(request.body)
        if isinstance(body, Problems):
            return Rejected("VALIDATION_ERROR", "the body is not valid", body.details)
        return request, body


def build_application(
    routes: Iterable[Route] | RouteTable,
    *,
    readiness: Callable[[], str | None],
    log: HttpLog,
    admin_group: str,
    audited: Audited | None = None,
    authenticate: Authenticate | None = None,
) -> Application:
    """The application of a listener. Raises ValueError for a malformed or duplicate route.

    `readiness` answers None when the store may be used, else the reason why not, without waiting.
    `authenticate` is for listeners that tokens open; without it the caller is who the transport says.
    """
    table = routes if isinstance(routes, RouteTable) else RouteTable(routes)
    return _Router(
        table,
        readiness=readiness,
        log=log,
        admin_group=admin_group,
        audited=audited,
        authenticate=authenticate,
    )
