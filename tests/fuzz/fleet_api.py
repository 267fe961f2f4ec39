"""Requests made from the control plane's own description, sent to its application over a real database.

    python tests/fuzz/fleet_api.py [--count 100000] [--seed N] [--engine sqlite|postgresql]

Callers are two accounts, an administrator, an API key, a joined node with good signatures, and nobody; ids
are theirs, another owner's, or nobody's; bodies and queries follow their schemas, and then are damaged.
Whatever is sent: no 5xx (but for "no node is free" and "not done here"), every refusal in the one shape,
nothing of the owner who stands by in any answer, and none of her rows changed. A short form runs in the suite
(`tests/api/fleet/test_fuzz.py`). A failure prints the seed and the request.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.api.openapi import openapi_document
from ambientd.core.target import Target, parse_target
from ambientd.ports.http import Response
from ambientd.wire.errors import ERRORS
from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import FleetApi, Joined, Person, api_over
from tests.store.fleet.kit import Place, PostgresqlPlace, SqlitePlace

MARKER = "MARKER-of-ann"
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.0, -0.0, 1.5, 1e300,
    "", " ", "\u0000", "a\u0000b", "\n", "\u202e", "é", "🦊", "x" * 65, "x" * 300, "x" * 20_000, "NaN",
    "null", "2026-11-20T12:00:00Z", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:60-23:59", "1969-12-31T23:59:59Z", "'; DROP TABLE nodes; --", "%s", "../..",
    "ed25519:" + "0" * 64,
    [], {}, [[]], [None] * 50, {"a": {"b": {"c": [1, {"d": None}]}}}, "any", "compute", "agent_session",
    "connect_only", "completed", "stopped", "bobs-node", "anns-node", "enrol",
]  # fmt: skip
DAMAGE = (b"", b"\xff", b"\x00", b'"', b"{", b"}", b",", b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"9" * 400)
DEPTH_MAX = 5
ANEW = 100  # requests


class Operation(NamedTuple):
    """One route, as the document describes it."""

    method: str
    path: str
    parameters: list[dict[str, Any]]
    body: dict[str, Any] | None


class Answered(NamedTuple):
    """A request and what came of it."""

    caller: str
    method: str
    target: str
    body: bytes
    answer: Response


class QuickPasswords:
    """Stands in for argon2id, which would take an hour of 100,000 requests."""

    async def hash(self, password: str) -> str:
        return f"quick:{password}"

    async def matches(self, password: str, stored: str | None) -> bool:
        return stored == f"quick:{password}"


class Maker:
    """Requests from a seed: the same seed, the same requests."""

    def __init__(self, seed: int, document: dict[str, Any], ids: dict[str, list[str]]) -> None:
        self.random = random.Random(seed)
        self._schemas: dict[str, Any] = document["components"]["schemas"]
        self._ids = ids
        self._all_ids = [one for some in ids.values() for one in some]
        self.operations = [
            Operation(
                method.upper(),
                path,
                found["parameters"],
                found.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"),
            )
            for path, methods in document["paths"].items()
            for method, found in methods.items()
        ]

    def request(self) -> tuple[Operation, str, bytes]:
        """An operation, its target, and a body."""
        r = self.random
        operation = r.choice(self.operations)
        target = operation.path
        for parameter in operation.parameters:
            if parameter["in"] == "path":
                target = target.replace("{" + parameter["name"] + "}", self._id(parameter["name"]), 1)
        query = [
            f"{parameter['name']}={quote(self._query(parameter['schema']), safe='')}"
            for parameter in operation.parameters
            if parameter["in"] == "query" and r.random() < 0.3
        ]
        if r.random() < 0.02:
            query.append("odd=1")
        if query:
            target += "?" + "&".join(query)
        return operation, target, self._body(operation)

    def _id(self, name: str) -> str:
        r = self.random
        if r.random() < 0.1:
            text = r.choice(NASTY)
            return quote(text if isinstance(text, str) and text else "x", safe="")
        return quote(r.choice(self._ids.get(name) or ["x"]), safe="")

    def _query(self, schema: dict[str, Any]) -> str:
        r = self.random
        if r.random() < 0.2:
            return str(r.choice(NASTY))
        if "enum" in schema:
            return str(r.choice(schema["enum"]))
        if schema.get("type") == "integer":
            return str(r.choice((schema.get("minimum", 0), schema.get("maximum", 100), 1, 7, 50)))
        return str(r.choice(["2026-11-20T12:00:00Z", "reviewer", "computation", *self._all_ids]))

    def _body(self, operation: Operation) -> bytes:
        r = self.random
        if operation.body is None:
            return b"" if r.random() < 0.97 else b"{}"
        raw = json.dumps(self._value(operation.body, 0)).encode()
        if r.random() < 0.05:
            place = r.randrange(len(raw) + 1)
            raw = raw[:place] + r.choice(DAMAGE) + raw[place + r.randrange(3) :]
        return raw

    def _value(self, schema: dict[str, Any], depth: int) -> Any:
        r = self.random
        if r.random() < 0.03 or depth > DEPTH_MAX:
            return r.choice(NASTY)
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], depth)
        if "anyOf" in schema:
            return self._value(r.choice(schema["anyOf"]), depth)
        if "enum" in schema:
            return r.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                inner = schema.get("items", {})
                return [self._value(inner, depth + 1) for _ in range(r.choice((0, 1, 1, 2, 3)))]
            case "integer":
                return r.choice((0, 1, 2, 3, 7, 50, 60, 100, 3600))
            case "number":
                return r.choice((0, 1, 12.5, 50, 100, 1000))
            case "boolean":
                return r.random() < 0.5
            case "null":
                return None
            case "string":
                return r.choice(self._words())
        return r.choice((1, "x", {"n": 1}, [1, 2], None))

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        r = self.random
        required = set(schema.get("required", ()))
        found: dict[str, Any] = {}
        for name, inner in schema.get("properties", {}).items():
            if (name in required and r.random() < 0.97) or r.random() < 0.5:
                found[name] = self._ids_or_value(name, inner, depth)
        if r.random() < 0.05:
            found[str(r.choice(NASTY))] = r.choice(NASTY)
        return found

    def _ids_or_value(self, name: str, schema: dict[str, Any], depth: int) -> Any:
        r = self.random
        if name in self._ids and r.random() < 0.8:
            return r.choice(self._ids[name])
        if name == "inputs" and r.random() < 0.7:
            return r.choice(
                (
                    {"agent_id": "a", "prompt": "p"},
                    {"n": 1},
                    {
                        "session_id": r.choice(("s-1", "s-2")),
                        "requester_id": "r",
                        "duration_seconds": 60,
                        "bandwidth_limit_mbps": 10,
                        "egress_profile": "protocol_limited",
                        "destination_policy_id": "web",
                    },
                )
            )
        return self._value(schema, depth + 1)

    def _words(self) -> list[str]:
        """Texts that are good somewhere."""
        return [
            "x", "compute", "any", "open_internet", "computation", "agent_session", "connect_only", "wait",
            "move", "eu", "2026-11-20T12:00:00Z", "2026-11-20T12:00:00.000Z", "ab" * 32, "0" * 128,
            "long enough", "nodes:read", "cHJvb2Y=",
        ]  # fmt: skip


class Cast:
    """Who asks, and the owner who only stands by."""

    def __init__(self, api: FleetApi, bob: Person, eve: Person, root: Person, node: Joined) -> None:
        self.api = api
        self.bob = bob
        self.eve = eve
        self.root = root
        self.node = node
        self.key = ""

    async def ask(self, who: str, operation: Operation, target: str, body: bytes) -> Response:
        tokens = {
            "bob": self.bob.token,
            "eve": self.eve.token,
            "root": self.root.token,
            "key": self.key,
            "nonsense": "at_" + "0" * 64,
        }
        headers = {}
        token = tokens.get(who)
        if who == "node":
            self.node.sequence += 1
            token = self.node.token
            headers = self.node.headers(operation.method, target, body, self.node.sequence)
        if who == "replayed":
            token = self.node.token
            headers = self.node.headers(operation.method, target, body, 1)
        return await self.api.ask(
            operation.method, "/" + target, body, token=token, headers=headers, ip=next(_ADDRESSES)
        )


def _addresses() -> Any:
    for number in itertools.count():
        yield f"2001:db8:0:{number % 60_000:x}::1"


_ADDRESSES = _addresses()
WEIGHTS = {"bob": 30, "eve": 10, "root": 10, "key": 10, "node": 30, "replayed": 3, "nonsense": 3, "nobody": 4}


async def cast_of(api: FleetApi) -> tuple[Cast, dict[str, list[str]]]:
    """The scene: Ann has something of everything, and Bob and his node are those who ask."""
    ann, bob = await api.person("ann"), await api.person("bob")
    eve, root = await api.person("eve"), await api.person("root", Role.ADMIN)
    anns = await ann.join("anns-node", region=MARKER, node_type="validator")
    await anns.beat({"seq": 1, "metadata": {"note": MARKER}})
    # Of a type that stays with her: other work may go to nodes of any owner.
    task = await ann.submit(task_type="agent_session", inputs={"agent_id": MARKER, "prompt": MARKER})
    await ann.post("/join-tokens", {"uses": 5}, status=201)
    await anns.post(
        "/ledger",
        {
            "after": 0,
            "records": [
                {
                    "seq": 1,
                    "session_id": "ses_ann",
                    "session": {
                        "agent_id": MARKER,
                        "agent_label": MARKER,
                        "model_id": MARKER,
                        "status": "running",
                        "started_at": "2026-11-20T11:00:00Z",
                    },
                }
            ],
        },
    )
    node = await bob.join("bobs-node", node_type="any")
    cast = Cast(api, bob, eve, root, node)
    scopes = ["tasks:read", "tasks:write", "nodes:read", "nodes:write"]
    cast.key = (await bob.post("/auth/api-keys", {"name": "k", "scopes": scopes}, status=201))["api_key"]
    own = await bob.submit(task_type="agent_session", inputs={"agent_id": "a", "prompt": "p"})
    join = await bob.post("/join-tokens", {}, status=201)
    ids = {
        "node_id": ["anns-node", "bobs-node", "bobs-node", "bobs-node", "nowhere"],
        "task_id": [task, own, own, "00000000-0000-4000-8000-000000000000"],
        "session_id": ["s-1", "ses_ann", "ses_1"],
        "token_id": [join["token_id"], "x"],
        "key_id": ["x"],
        "override_id": [await overridden(cast), "x"],
        "client": ["203.0.113.7", "203.0.113.0/24", "203.0.113.7/24", "::1", "::/0/0"],
        "user_id": ["id-of-ann", "id-of-ann", "id-of-nobody"],
        "expires_in": [60, 3600],
        "rpm": [60, 600],
        "tier": ["auth", "node", "task", "proof", "general", "device", "failed"],
        "proof_data": ["cHJvb2Y="],
        "public_inputs": ["cHJvb2Y=", ""],
        "username": ["bob", "ann", "newcomer"],
        "join_token": [join["join_token"]],
        "public_key": ["ed25519:" + "1" * 64],
    }
    return cast, ids


async def set_anew(cast: Cast, ids: dict[str, list[str]]) -> None:
    """Bob's task and the override are soon ended or gone; here are the next ones."""
    await cast.bob.ask("DELETE", f"/tasks/{ids['task_id'][1]}")
    ids["task_id"][1:3] = [await cast.bob.submit()] * 2
    ids["override_id"][0] = await overridden(cast)


async def overridden(cast: Cast) -> str:
    """Of Ann's, not of those who ask, or they would hear nothing but 429."""
    wanted = {"tier": "general", "rpm": 60, "burst": 10, "expires_in": 3600, "user_id": "id-of-ann"}
    answer = await cast.api.ask(
        "POST", "/admin/throttle-overrides", wanted, token=cast.root.token, ip=next(_ADDRESSES)
    )
    return str(json.loads(answer.body)["override_id"])


def anns_rows(api: FleetApi) -> list[Any]:
    """What nobody else may have changed."""
    return [
        api.rows("SELECT region, status, deleted_at, report_seq FROM nodes WHERE node_id = 'anns-node'"),
        api.rows("SELECT count(*) FROM node_heartbeat_history WHERE node_id = 'anns-node'"),
        api.rows("SELECT task_id, creator_id FROM tasks WHERE creator_id = 'id-of-ann'"),
        api.rows("SELECT token_id, uses_left, revoked_at FROM join_tokens WHERE owner_id = 'id-of-ann'"),
        api.rows("SELECT session_id, agent_id FROM node_sessions WHERE node_id = 'anns-node'"),
        api.rows("SELECT credential_id, revoked_at FROM device_credentials WHERE node_id = 'anns-node'"),
        api.rows("SELECT user_id, role FROM users WHERE username = 'ann'"),
    ]


def fault_of(asked: Answered) -> str | None:
    """What is wrong with an answer; None when nothing is."""
    answer, text = asked.answer, asked.answer.body.decode("utf-8", "replace")
    if asked.caller != "root" and (MARKER in text or "id-of-ann" in text):
        return "something of another owner is in it"
    if answer.status < 400:
        return None
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return "the refusal has another shape"
    if set(error) != {"code", "message", "details", "requestId"} or error["code"] not in ERRORS:
        return "the refusal has another shape"
    if ERRORS[error["code"]].status != answer.status:
        return f"the status is not that of {error['code']}"
    if answer.status >= 500 and error["code"] not in ("NO_NODE_FREE", "NOT_IMPLEMENTED"):
        return "a fault of the control plane"
    return None


async def fuzz(place: Place, count: int, seed: int, say: Callable[[str], None]) -> Counter[str]:
    """Sends so many requests; outcomes by status. Raises AssertionError with the request at fault."""
    outcomes: Counter[str] = Counter()
    async with api_over(place, registration=True) as api:
        api.plane.accounts._passwords = QuickPasswords()
        cast, ids = await cast_of(api)
        document = openapi_document(api.plane.routes(), version="0")
        maker = Maker(seed, document, ids)
        before = anns_rows(api)
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for number in range(count):
            if number % ANEW == 0:
                await set_anew(cast, ids)
            who = maker.random.choices(names, weights)[0]
            operation, target, body = maker.request()
            if not isinstance(parse_target(target.encode()), Target):
                outcomes["no target"] += 1
                continue
            if operation.path.startswith("/api/v1/auth/password") or operation.path.endswith("/credential"):
                continue  # it would lock the cast out
            if "bobs-node" in target and (operation.method == "DELETE" or target.endswith("/reject")):
                continue  # it would get no work any more
            answer = await cast.ask(who, operation, target, body)
            fault = fault_of(Answered(who, operation.method, target, body, answer))
            assert fault is None, (
                f"seed {seed}, request {number}: {who} {operation.method} {target[:300]!r} {body[:1500]!r}"
                f" → {answer.status} {answer.body[:1000]!r}: {fault}; {api.log.lines[-3:]}"
            )
            outcomes[str(answer.status)] += 1
            if number % 10_000 == 9_999:
                say(f"{number + 1} requests: {dict(outcomes)}")
        assert anns_rows(api) == before
    return outcomes


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.engine == "sqlite":
            outcomes = trio.run(fuzz, SqlitePlace(Path(folder)), chosen.count, chosen.seed, print)
        else:
            from tests.pgkit import started

            server = started()
            try:
                place = PostgresqlPlace(server, server.new_database())
                outcomes = trio.run(fuzz, place, chosen.count, chosen.seed, print)
            finally:
                server.remove()
    print(dict(sorted(outcomes.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
