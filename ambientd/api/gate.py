"""The door of the TCP listener: the secret first, then where the request comes from (R3.30-R3.40).

Nothing about a request is looked at before its key: a wrong one is 401 whatever the path, the method, the
media type or the body, and the body is not read. Foreign hosts and origins are 403 for whoever has the key,
and on the routes that need none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ambientd.api.router import Access, Audited, Route, RouteTable, actor_of
from ambientd.core.site import Site, client_address, fault_of_site
from ambientd.ports.http import Caller, Turned
from ambientd.wire.routes import KEY_HEADER

if TYPE_CHECKING:
    from ambientd.core.site import Network

KeyCheck = Callable[[bytes], bool]
"""Whether these bytes open the door, in a time that tells nothing. The dashboard's tokens are another one."""

_KEY = KEY_HEADER.lower()
_MESSAGE = f"this needs the header {KEY_HEADER} with the secret of this node"
_CHALLENGE = (("WWW-Authenticate", f'SecretKey header="{KEY_HEADER}"'),)


class Gate:
    """Implements `ports.http.Door` for one listener."""

    def __init__(
        self,
        *,
        table: RouteTable,
        site: Site,
        keys: Sequence[KeyCheck],
        proxies: "Sequence[Network]",
        audited: Audited,
    ) -> None:
        """`keys`: any of them opens; `proxies` are believed in what they say of the client's address."""
        self._table = table
        self._site = site
        self._keys = tuple(keys)
        self._proxies = tuple(proxies)
        self._audited = audited

    def admit(self, method: str, path: str, headers: Mapping[str, str], caller: Caller) -> Caller | Turned:
        """The caller with its address, allowed to write with the key; 401 or 403 otherwise."""
        caller = caller._replace(ip=self._address(headers, caller))
        route = self._route(method, path)
        has_key = self._opens(headers.get(_KEY, ""))
        if not has_key and (route is None or route.access is not Access.OPEN):
            code = "NOT_AUTHORIZED" if route is None else route.unauthorized
            return self._turn(Turned(401, code, _MESSAGE, _CHALLENGE), route, caller)
        fault = fault_of_site(self._site, headers)
        if fault is not None:
            return self._turn(Turned(403, "NOT_AUTHORIZED", fault), route, caller)
        return caller._replace(may_write=has_key)

    def illegible(self) -> Turned:
        """No key was found in a head of that size."""
        return Turned(401, "NOT_AUTHORIZED", _MESSAGE, _CHALLENGE)

    def nameless(self) -> Turned:
        """Host is what keeps foreign pages out; a request has exactly one."""
        return Turned(403, "NOT_AUTHORIZED", "a request has exactly one Host header")

    def _opens(self, key: str) -> bool:
        """All are asked, so that the time does not tell which one it was."""
        raw = key.encode("latin-1", "replace")
        found = [check(raw) for check in self._keys]
        return bool(raw) and any(found)

    def _route(self, method: str, path: str) -> Route | None:
        methods = self._table.find(path) or {}
        compiled = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        return None if compiled is None else compiled.route

    def _address(self, headers: Mapping[str, str], caller: Caller) -> str | None:
        if caller.ip is None:
            return None
        return client_address(caller.ip, headers.get("x-forwarded-for"), self._proxies)

    def _turn(self, turned: Turned, route: Route | None, caller: Caller) -> Turned:
        """Control actions that are refused here are audited like the others."""
        if route is not None and route.action:
            self._audited(action=route.action, actor=actor_of(caller), pid=None, refused=turned.code)
        return turned
