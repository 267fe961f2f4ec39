"""The control plane as it is put together, over a real database and without a socket."""

import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import trio

from ambientd.app.control_plane import ControlPlane, DatabasePlace, FleetOutside
from ambientd.config.parse import Layer, Parsed, parse
from ambientd.core.ed25519 import public_of, show_key, sign
from ambientd.core.fleet.records import UserRecord
from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.signing import enrol_bytes, request_bytes
from ambientd.core.target import Target, parse_target
from ambientd.host.issuer_keys import IssuerKeys
from ambientd.host.notify import Notifier
from ambientd.ports.http import Caller, Request, Response
from ambientd.wire.fleet_enums import Role
from tests.store.fleet.kit import Place, PostgresqlPlace
from tests.store.kit import StillClock

MANY = 1_000_000
ISSUER, LEASE_ISSUER = bytes([7]) * 32, bytes([8]) * 32
REGISTRATION = {
    "region": "eu-west",
    "node_type": "compute",
    "capabilities": {"bandwidth_mbps": 1000, "cpu_cores": 16, "memory_gb": 64, "gpu_available": False},
}
COMPUTATION = {"task_type": "computation", "inputs": {"n": 1}}


class ListLog:
    """Keeps the lines of the control plane's log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def bind(self, **_facts: Any) -> "ListLog":
        return self

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda event, **facts: self.lines.append((event, facts))

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Person:
    """An account with an access token."""

    def __init__(self, api: "FleetApi", user_id: str, token: str) -> None:
        self.api = api
        self.user_id = user_id
        self.token = token

    async def ask(self, method: str, path: str, body: Any = None) -> Response:
        return await self.api.ask(method, path, body, token=self.token)

    async def get(self, path: str) -> Any:
        return json_of(await self.ask("GET", path))

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        return json_of(await self.ask("POST", path, body), status)

    async def put(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        return json_of(await self.ask("PUT", path, body), status)

    async def delete(self, path: str, *, status: int = 200) -> Any:
        return json_of(await self.ask("DELETE", path), status)

    async def register(self, node_id: str, **fields: Any) -> Any:
        return await self.post("/nodes", {"node_id": node_id, **REGISTRATION, **fields}, status=201)

    async def submit(self, **fields: Any) -> str:
        found = await self.post("/tasks", {**COMPUTATION, **fields}, status=201)
        return str(found["task_id"])

    async def join(self, node_id: str, seed: bytes | None = None, **fields: Any) -> "Joined":
        """Enrols a node of this account by a join token."""
        seed = seed or node_id.encode().ljust(32, b"\1")[:32]
        found = json_of(await self.enrol(node_id, seed, **fields), 201)
        return Joined(self.api, node_id, seed, found["device_token"], found)

    async def enrol(self, node_id: str, seed: bytes, token_for: str | None = None, **fields: Any) -> Response:
        """The same, whatever comes of it; `token_for`: by a token that is good for just this id."""
        token = (await self.post("/join-tokens", {"node_id": token_for}, status=201))["join_token"]
        key = public_of(seed)
        proof = sign(seed, enrol_bytes(node_id=node_id, public_key=key, join_token=token))
        body = {
            "join_token": token,
            "node_id": node_id,
            "public_key": show_key(key),
            "proof": proof.hex(),
            **REGISTRATION,
            **fields,
        }
        return await self.api.ask("POST", "/nodes/enrol", body)


class Joined:
    """A node with its credential; every request is signed, with the next number."""

    def __init__(self, api: "FleetApi", node_id: str, seed: bytes, token: str, answer: Any) -> None:
        self.api = api
        self.node_id = node_id
        self.seed = seed
        self.token = token
        self.answer = answer
        self.sequence = 0

    def headers(self, method: str, target: str, body: bytes, sequence: int) -> dict[str, str]:
        message = request_bytes(
            node_id=self.node_id, sequence=sequence, method=method, target=target, body=body
        )
        return {
            "x-ambient-sequence": str(sequence),
            "x-ambient-signature": sign(self.seed, message).hex(),
        }

    async def ask(self, method: str, path: str, body: Any = None, *, sequence: int | None = None) -> Response:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        raw = b"" if body is None else json.dumps(body).encode()
        headers = self.headers(method, "/api/v1" + path, raw, sequence)
        return await self.api.ask(method, path, raw, token=self.token, headers=headers)

    def own(self, rest: str) -> str:
        return f"/nodes/{self.node_id}{rest}"

    async def get(self, rest: str) -> Any:
        return json_of(await self.ask("GET", self.own(rest)))

    async def post(self, rest: str, body: Any, *, status: int = 200) -> Any:
        return json_of(await self.ask("POST", self.own(rest), body), status)

    async def beat(self, body: Any = None, *, status: int = 200) -> Any:
        return json_of(await self.ask("PUT", self.own("/heartbeat"), body), status)


def json_of(answer: Response, status: int = 200) -> Any:
    """The JSON of an answer with the status that is expected."""
    assert answer.status == status, (answer.status, answer.body[:2000])
    return json.loads(answer.body)


class FleetApi:
    """Asks the application of a control plane."""

    def __init__(self, plane: ControlPlane, clock: StillClock, log: ListLog, place: Place) -> None:
        self.plane = plane
        self.clock = clock
        self.log = log
        self.place = place
        self._numbers: Iterator[int] = itertools.count(1)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        ip: str = "192.0.2.9",
    ) -> Response:
        """One request; `path` is below /api/v1 unless it begins with two slashes."""
        target_text = path[1:] if path.startswith("//") else "/api/v1" + path
        found = parse_target(target_text.encode())
        assert isinstance(found, Target), found
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json"} if raw else {}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return await self.plane.application(
            Request(
                method=method,
                path=found.path,
                query=found.query,
                headers=given | (headers or {}),
                body=raw,
                caller=Caller(transport="tcp", uid=None, pid=None, may_write=False, ip=ip),
                request_id="req-1",
                target=target_text,
            )
        )

    async def person(self, name: str, role: Role = Role.USER) -> Person:
        """A new account that is logged in."""
        user = UserRecord(user_id=f"id-of-{name}", username=name, role=role, created_at=self.clock.now())
        accounts, now = self.plane.accounts, self.clock.now()

        def work(tx: Any) -> str:
            assert tx.users.add(user, None)
            return accounts._issue(tx, user.user_id, f"family-{name}", now, parent=None).access_token

        return Person(self, user.user_id, await self.plane.store.write(work))

    def later(self, seconds: float) -> None:
        """Time passes, and somebody listens all the time."""
        self.clock.at += timedelta(seconds=seconds)
        self.clock.seconds += seconds
        self.listen()

    def listen(self) -> None:
        """As a sweep that found nothing."""
        now, monotonic = self.clock.now(), self.clock.monotonic()
        self.plane.hearing.looked(now, monotonic)
        self.plane.hearing.since(now, monotonic)

    async def sweep(self) -> None:
        """Every sweep once."""
        for sweep in self.plane.sweeps._sweeps:
            await sweep.run()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.place.rows(sql)


def config_of(**server: Any) -> Any:
    tiers = ("auth", "node", "task", "proof", "general", "device")
    limits: dict[str, object] = {f"{tier}_{word}": MANY for tier in tiers for word in ("rpm", "burst")}
    # Access tokens live as long as the tests' clock jumps.
    parsed = parse([Layer("tests", {"server": {**limits, "access_lifetime": "1d", **server}})])
    assert isinstance(parsed, Parsed), parsed
    return parsed.config


@contextmanager
def plane_socket() -> Iterator[socket.socket]:
    """One that is never listened on."""
    sock = socket.socket()
    with sock:
        yield sock


def plane_of(
    place: Place, sock: socket.socket, clock: StillClock, log: ListLog, **server: Any
) -> ControlPlane:
    if isinstance(place, PostgresqlPlace):
        database = DatabasePlace(address=place.server.address(place.database))
    else:
        database = DatabasePlace(file=place.path)
    outside = FleetOutside(
        database=database,
        listener=sock,
        secrets={name: name.value.encode() for name in SecretName},
        issuers=IssuerKeys(ISSUER, LEASE_ISSUER),
        notifier=Notifier(None),
        log=log,
        log_control=None,  # type: ignore[arg-type]  # for reloads only
        reload=list,
    )
    return ControlPlane(config_of(**server), outside, clock=clock)


@asynccontextmanager
async def api_over(
    place: Place, *, clock: StillClock | None = None, at_sec: float = 0.0, **server: Any
) -> AsyncIterator[FleetApi]:
    """A running control plane, but for its listener and the timers of its sweeps. `at_sec`: started so much
    later."""
    clock, log = clock or StillClock(), ListLog()
    clock.at += timedelta(seconds=at_sec)
    clock.seconds += at_sec
    with plane_socket() as sock:
        plane = plane_of(place, sock, clock, log, **server)
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.store.run)
            await plane.store.wait_settled()
            assert plane.store.reason is None, plane.store.reason
            nursery.start_soon(plane.reports.run)
            nursery.start_soon(plane.lookups.run)
            api = FleetApi(plane, clock, log, place)
            api.listen()
            yield api
            await plane.store.close()
            nursery.cancel_scope.cancel()


Body = Callable[[FleetApi], Awaitable[None]]


def on(place: Place, body: Body, **server: Any) -> None:
    """Runs a test's body against a control plane on a place."""

    async def main() -> None:
        async with api_over(place, **server) as api:
            await body(api)

    trio.run(main)
