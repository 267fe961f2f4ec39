"""Real daemons on a LAN of network namespaces, an issuer of policies, and what they came to hold."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.identity import KeyFile
from tests.e2e.harness import Node
from tests.lan.kit import Host, Lan, Trouble

NETWORK = "lan-1"
PORT = 7946
LOOK_EVERY = 0.02


def seed_of(name: str) -> bytes:
    """A key's seed, the same for the same name."""
    return hashlib.sha256(f"lan {name}".encode()).digest()


def key_of(name: str) -> str:
    """A key in its text form."""
    return show_key(public_of(seed_of(name)))


ISSUER = key_of("issuer")


def bundle(folder: Path, tool: Node, *policies: str, revision: int = 1) -> Path:
    """A bundle of policies, signed by the program that issuers use."""
    key = folder / "issuer.key"
    key.write_text(seed_of("issuer").hex() + "\n")
    key.chmod(0o600)
    draft = f'network = "{NETWORK}"\n' + "".join(
        f'[[policy]]\nid = "{name}"\nrevision = {revision}\nvalid_for = "90d"\nprotocols = ["https"]\n'
        f'destinations = ["https://{name}.example.com"]\n'
        for name in policies
    )
    source, out = folder / "draft.toml", folder / f"{'-'.join(policies)[:40]}-{revision}.ndjson"
    source.write_text(draft)
    done = tool.ambientd("policy", "sign", "--key", str(key), str(source), "-o", str(out))
    assert done.returncode == 0, done
    return out


class Member:
    """One daemon of the fleet."""

    def __init__(self, name: str, host: Host, config: Mapping[str, Any]) -> None:
        self.name = name
        self.host = host
        self.key = key_of(name)
        self.node = Node({"dispatcher": {"interval": "1m"}, **config}, wrapper=host.wrapper)
        self.node.state.mkdir(mode=0o700)
        identity = self.node.state / "identity.key"
        identity.write_text(KeyFile(seed=seed_of(name)).text)
        identity.chmod(0o600)

    def policies(self) -> dict[str, int]:
        """Ids and revisions that it holds."""
        answer = self.node.get("/api/v1/node/policies?limit=500")
        assert answer.status == 200, answer
        return {one["policy_id"]: one["item"]["revision"] for one in answer.json["rows"]}

    def peers(self) -> dict[str, Any]:
        """What it says of its peers, by key."""
        document = self.node.get("/api/v1/node/peers").json
        return {one["key"]: one for one in document.get("peers", [])}

    def linked(self) -> set[str]:
        """Keys of linked peers."""
        return {key for key, one in self.peers().items() if one["state"] == "linked"}

    def take(self, path: Path) -> None:
        """Imports a bundle, as an operator does."""
        done = self.node.ctl("policy", "import", str(path))
        assert done.returncode == 0, done

    def audit(self, kind: str) -> list[dict[str, Any]]:
        """Audit records of a kind, oldest first."""
        found: list[dict[str, Any]] = self.node.get(f"/api/v1/node/audit?kind={kind}&limit=1000").json["rows"]
        return found[::-1]


class LanFleet:
    """All daemons; they trust each other's keys and have each other's addresses."""

    def __init__(
        self,
        lan: Lan,
        *,
        peers: Mapping[str, Any] | None = None,
        also_trusted: Sequence[str] = (),
        static: bool = True,
        hosts: Sequence[Host] | None = None,
    ) -> None:
        """`hosts`: not all of the LAN's."""
        hosts = lan.hosts if hosts is None else hosts
        names = [f"edge-{host.number:02}" for host in hosts]
        keys = [key_of(name) for name in (*names, *also_trusted)]
        self.lan = lan
        self.members = [
            Member(
                name,
                host,
                {
                    "node": {"name": name},
                    "policy": {"network": NETWORK, "issuers": [ISSUER]},
                    "peers": {
                        "listen": f"0.0.0.0:{PORT}",
                        "static": [
                            f"{other.address}:{PORT}" for other in hosts if other is not host and static
                        ],
                        "trust": [key for key in keys if key != key_of(name)],
                        **(peers or {}),
                    },
                },
            )
            for name, host in zip(names, hosts, strict=True)
        ]

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def start(self) -> None:
        """All at once; returns when all are ready."""
        for member in self.members:
            member.node.start(ready=False)
        for member in self.members:
            member.node.wait_for(member.node.is_ready, 60)

    def close(self, *, keep: bool = False) -> None:
        for member in self.members:
            member.node.close(keep=keep)

    def is_linked(self) -> bool:
        """Whether every member is linked with every other one."""
        keys = {member.key for member in self.members}
        return all(keys - {member.key} <= member.linked() for member in self.members)

    def agree(self) -> bool:
        """Whether all hold the same policies."""
        return len({json.dumps(member.policies(), sort_keys=True) for member in self.members}) == 1

    def hold(self, *names: str) -> bool:
        """Whether all hold these policies."""
        return all(set(names) <= set(member.policies()) for member in self.members)


@contextmanager
def fleet_of(
    size: int, *, before: Sequence[str] = (), trouble: Trouble | None = None, **options: Any
) -> Iterator[LanFleet]:
    """A running fleet, everybody linked with everybody; gone afterwards. `before`, `trouble`: see `Lan`."""
    with Lan(size, before=before, trouble=trouble) as lan:
        fleet = LanFleet(lan, **options)
        failed = True
        try:
            fleet.start()
            until(fleet.is_linked, 30 if trouble is None else 120, "everybody to be linked")
            yield fleet
            failed = False
        finally:
            fleet.close(keep=failed)


def until(what: Callable[[], object], seconds: float, why: str = "") -> float:
    """Waits until something is so; the seconds it took. Fails when it takes longer."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() < began + seconds, f"waited {seconds:g} s for {why or what}"
        time.sleep(LOOK_EVERY)
    return time.monotonic() - began
