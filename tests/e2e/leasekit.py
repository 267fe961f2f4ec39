"""A node that believes an issuer of policies and one of leases, and the issuers' tools."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.e2e.harness import Node
from tests.e2e.linkskit import ONLINE, Links

FAKETIME = tuple(
    f"/usr/lib/{folder}/faketime/libfaketimeMT.so.1"
    for folder in ("x86_64-linux-gnu", "aarch64-linux-gnu", "arm-linux-gnueabihf")
)
DRAFT = """
network = "fleet-1"
[[policy]]
id = "web"
revision = 1
destinations = ["https://api.example.com"]
protocols = ["https"]
valid_for = "90d"
"""
ALLOWED = "https://api.example.com/v1"
DAY = 86_400


def faketime() -> str | None:
    """The library that sets a process's wall clock, where it is installed."""
    return next((path for path in FAKETIME if os.path.exists(path)), None)


class Leased:
    """One node with a policy `web`. `shift` sets its wall clock, in seconds from the true one."""

    def __init__(self, folder: Path, *, clock: bool = False) -> None:
        self.folder = folder
        self.node = Node()
        self.links = Links(self.node, folder, ONLINE)
        keys = {name: self._new_key(name) for name in ("policy", "lease")}
        self._file = folder / "faketime"
        self._library = faketime() if clock else None
        if self._library is not None:
            self.shift(0)
            self.node.environment |= {
                "LD_PRELOAD": self._library,
                "FAKETIME_TIMESTAMP_FILE": str(self._file),
                "FAKETIME_NO_CACHE": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        self.node.configure(
            {
                "agents": {"sleeper": {"command": ["/bin/sleep", "1"]}},
                "policy": {
                    "network": "fleet-1",
                    "issuers": [keys["policy"]],
                    "lease_issuers": [keys["lease"]],
                },
            }
        )
        self.node.start()
        draft, bundle = folder / "draft.toml", folder / "fleet.ndjson"
        draft.write_text(DRAFT)
        self._tool("policy", "sign", "--key", str(folder / "policy.key"), str(draft), "-o", str(bundle))
        done = self.node.ctl("policy", "import", str(bundle))
        assert done.returncode == 0, done

    def _tool(self, *arguments: str) -> str:
        done = self.node.ambientd(*arguments)
        assert done.returncode == 0, done
        return done.stdout

    def _new_key(self, name: str) -> str:
        return self._tool("policy", "new-key", str(self.folder / f"{name}.key")).strip()

    def shift(self, seconds: int) -> None:
        """From now on the wall clock is off by so much."""
        self._file.write_text(f"{seconds:+d}\n")

    def set_clock(self, text: str) -> None:
        """From now on the wall clock goes on from an instant."""
        self._file.write_text(f"@{text}\n")

    # --- leases

    def sign(self, jti: str, session: str = "ses-1", **more: str) -> str:
        """A file with a lease, for an hour unless told otherwise."""
        facts = {
            "key": str(self.folder / "lease.key"),
            "network": "fleet-1",
            "node": self.node.get("/api/v1/node/identity").json["key"],
            "session": session,
            "policy": "web",
            "protocol": "https",
            "valid-for": "1h",
            "mbps": "8",
            "jti": jti,
            "output": str(self.folder / f"{jti}-{len(os.listdir(self.folder))}.json"),
        } | {name.replace("_", "-"): value for name, value in more.items()}
        words = [word for name, value in facts.items() for word in (f"--{name}", value)]
        self._tool("lease", "sign", *words)
        return str(facts["output"])

    def revoke_file(self, jti: str) -> str:
        """A file with a revocation."""
        path = str(self.folder / f"{jti}-revoked.json")
        key = str(self.folder / "lease.key")
        self._tool("lease", "revoke", "--key", key, "--network", "fleet-1", jti, "-o", path)
        return path

    def activate(self, path: str) -> str:
        """`ok`, or the reason that was told."""
        answer = self.node.post("/api/v1/node/leases", Path(path).read_bytes())
        return "ok" if answer.status == 200 else str(answer.json["error"]["details"][0]["issue"])

    def code(self, destination: str = ALLOWED, **more: Any) -> str:
        """What the egress check says."""
        answer = self.node.post("/api/v1/node/egress/check", {"destination": destination, **more})
        assert answer.status == 200, answer
        found = answer.json
        assert found["allowed"] == (found["code"] == "allowed")
        code: str = found["code"]
        return code

    def lease(self, jti: str) -> dict[str, Any]:
        """What the node says of a lease."""
        found: dict[str, Any] = self.node.get(f"/api/v1/node/leases/{jti}").json
        return found

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """What a command of `ambientctl` says as JSON."""
        done = self.node.ctl(*arguments, "--json")
        assert done.returncode == code, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def audits(self, *kinds: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Kind, subject and detail of audit records."""
        path = f"file:{self.node.state}/ambient.db?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as link:
            rows = link.execute(
                "SELECT kind, subject, detail_json FROM audit_records ORDER BY seq"
            ).fetchall()
        return ((kind, subject, json.loads(text)) for kind, subject, text in rows if kind in kinds)
