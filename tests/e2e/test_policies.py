"""Egress policies from an issuer's key to a verdict, with the programs that people use."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node
from tests.e2e.linkskit import NO_UPSTREAM, OFFLINE, ONLINE, UNKNOWN, Links

DRAFT = """
network = "fleet-1"

[[policy]]
id = "web"
revision = {web}
destinations = ["https://api.example.com", "*.example.org"]
protocols = ["https"]
valid_for = "90d"

[[policy]]
id = "db"
revision = 1
destinations = ["tcp://db.example.com:5432"]
protocols = ["tcp"]
valid_for = "90d"
"""
REMOVAL = 'network = "fleet-1"\n[[tombstone]]\nid = "{name}"\nrevision = {revision}\n'


class Fleet:
    """An issuer and nodes that believe it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        tool = Node()
        self.tool = tool
        self.nodes.append(tool)
        self.key = folder / "issuer.key"
        self.public = self._ambientd("new-key", str(self.key)).stdout.strip()

    def _ambientd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.tool.ambientd("policy", *arguments)
        assert done.returncode == 0, done
        return done

    def sign(self, name: str, draft: str) -> str:
        """A bundle that was brought up to date, as it is now."""
        source, bundle, copy = (self.folder / one for one in ("d.toml", "fleet.ndjson", f"{name}.ndjson"))
        source.write_text(draft)
        self._ambientd("sign", "--key", str(self.key), str(source), "-o", str(bundle))
        copy.write_bytes(bundle.read_bytes())
        return str(copy)

    def node(self, name: str, state: str = ONLINE) -> tuple[Node, Links]:
        node = Node({"policy": {"network": "fleet-1", "issuers": [self.public]}})
        folder = self.folder / name
        folder.mkdir()
        links = Links(node, folder, state)
        self.nodes.append(node)
        return node.start(), links


@pytest.fixture
def fleet(tmp_path: Path, failed: Callable[[], bool]) -> Any:
    found = Fleet(tmp_path)
    yield found
    for node in found.nodes:
        node.close(keep=failed())


def document(node: Node, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = node.ctl("policy", *arguments, "--json")
    assert done.returncode == code, done
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"].startswith("ambient.policy") or found["schema"] == "ambient.policies/1"
    return found


def verdict(node: Node, destination: str, *more: str) -> tuple[int, str]:
    done = node.ctl("policy", "check", destination, *more, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode == 0) is answer["allowed"]
    return done.returncode, answer["reason"]


def kinds(node: Node) -> list[str]:
    with closing(sqlite3.connect(f"file:{node.state}/ambient.db?mode=ro", uri=True)) as link:
        return [kind for (kind,) in link.execute("SELECT kind FROM audit_records ORDER BY seq")]


def test_from_a_key_to_a_verdict_in_every_state_and_over_a_restart(fleet: Fleet) -> None:
    first = fleet.sign("first", DRAFT.format(web=1))
    node, links = fleet.node("a")
    assert verdict(node, "https://api.example.com") == (6, "no_policy")
    assert document(node, "import", first, "--dry-run")["added"] == 2
    assert document(node, "list")["items"] == []
    assert document(node, "import", first)["added"] == 2
    assert document(node, "import", first)["kept"] == 2
    assert [item["policyId"] for item in document(node, "list")["items"]] == ["db", "web"]
    shown = document(node, "show", "web")
    assert shown["item"]["destinations"] == ["https://api.example.com", "*.example.org"]
    assert shown["item"]["issuer"] == fleet.public
    table = node.ctl("policy", "list")
    assert "web" in table.stdout
    assert "2 in force" in table.stderr

    for state, outcome in (
        (ONLINE, (0, "allowed")),
        (OFFLINE, (0, "allowed")),
        (NO_UPSTREAM, (6, "no_upstream")),
        (UNKNOWN, (6, "not_probed")),
    ):
        links.set(state)
        assert verdict(node, "https://api.example.com/v1") == outcome
    links.set(OFFLINE)
    assert verdict(node, "https://api.example.com.evil.test/") == (6, "not_listed")
    assert verdict(node, "https://api.example.com@evil.test/") == (6, "destination_invalid")
    assert verdict(node, "db.example.com:5432", "--protocol", "tcp") == (0, "allowed")

    node.stop()
    node.start()
    assert verdict(node, "https://api.example.com/v1") == (0, "allowed")
    status = node.ctl("status").stdout
    assert "policy   ✓ 2 policies, newest revision 1" in status
    policy = node.status()["policy"]
    assert (policy["policies"], policy["version"]) == (2, 1)


def test_while_offline_nothing_in_force_changes_and_online_it_does(fleet: Fleet) -> None:
    node, links = fleet.node("a")
    first = fleet.sign("first", DRAFT.format(web=1))
    newer = fleet.sign("newer", DRAFT.format(web=2).replace("api.example.com", "new.example.com"))
    removal = fleet.sign("removal", REMOVAL.format(name="db", revision=1))
    document(node, "import", first)
    links.set(OFFLINE)
    held = document(node, "import", newer, code=6)
    assert (held["held"], held["kept"], held["mayChange"]) == (1, 1, False)
    told = node.ctl("policy", "import", removal)
    assert told.returncode == 6
    assert OFFLINE in told.stdout
    assert verdict(node, "https://api.example.com")[0] == 0
    assert verdict(node, "https://new.example.com")[0] == 6
    assert verdict(node, "db.example.com:5432", "--protocol", "tcp")[0] == 0
    assert [item["policyId"] for item in document(node, "list", "--state", "held")["items"]] == ["db", "web"]

    links.set(ONLINE)
    assert document(node, "import", removal)["removed"] == 1
    assert verdict(node, "db.example.com:5432", "--protocol", "tcp")[0] == 6
    # the policy that was removed stands in the older bundles too
    answer = document(node, "import", newer, code=1)
    assert (answer["replaced"], [item.get("code") for item in answer["results"]]) == (1, [None, "removed"])
    assert verdict(node, "https://new.example.com")[0] == 0
    back = document(node, "import", first, code=1)
    assert [item["code"] for item in back["results"]] == ["downgrade", "removed"]
    assert kinds(node).count("policies_imported") == 6


def test_a_bundle_carried_to_another_node_is_worth_the_same(fleet: Fleet, tmp_path: Path) -> None:
    one, _ = fleet.node("a")
    two, _ = fleet.node("b", OFFLINE)
    document(one, "import", fleet.sign("first", DRAFT.format(web=3)))
    carried = tmp_path / "carried.ndjson"
    assert one.ctl("policy", "export", str(carried)).returncode == 0
    assert document(two, "import", str(carried))["added"] == 2
    assert verdict(two, "https://api.example.com")[0] == 0
    assert two.ctl("policy", "export").stdout == carried.read_text()
    whole = one.ctl("policy", "export", "--json").stdout
    done = two.ctl("policy", "import", "-", "--json", input=whole)
    assert json.loads(done.stdout)["kept"] == 2

    lines = carried.read_text().splitlines()
    carried.write_text(lines[0].replace('\\"id\\":\\"', '\\"id\\":\\"x', 1) + "\n" + lines[1] + "\n")
    broken = document(two, "import", str(carried), code=1)
    assert [item.get("code") for item in broken["results"]] == ["bad_signature", None]
    before = document(two, "list")["items"]
    carried.write_text(lines[0] + "\nno json\n")
    refused = two.ctl("policy", "import", str(carried))
    assert (refused.returncode, "line 2" in refused.stderr) == (1, True)
    assert document(two, "list")["items"] == before


def test_a_killed_import_leaves_whole_parts_and_can_be_repeated(fleet: Fleet) -> None:
    node, _ = fleet.node("a")
    entry = (
        '[[policy]]\nid = "p{0:04}"\nrevision = 1\ndestinations = ["https://h{0}.example.com"]\n'
        'protocols = ["https"]\nvalid_for = "9d"\n'
    )
    draft = 'network = "fleet-1"\n' + "".join(entry.format(number) for number in range(2000))
    many = fleet.sign("many", draft)
    with subprocess.Popen(
        [*node_command(node), "policy", "import", many],
        env=node.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        node.wait_for(lambda: node.get("/api/v1/node/policies").json["total"] > 0)
        node.kill9()
        process.wait(30)
    node.start()
    total = node.get("/api/v1/node/policies").json["total"]
    assert total % 500 == 0
    again = document(node, "import", many)
    assert (again["added"], again["kept"]) == (2000 - total, total)
    assert verdict(node, "https://h1999.example.com")[0] == 0


def node_command(node: Node) -> list[str]:
    import sys

    return [sys.executable, "-c", "from ambientctl.main import main; main()"]
