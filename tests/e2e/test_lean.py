"""An idle node has loaded nothing that it does not use: what was won stays won."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import REPOSITORY, Node
from tests.fakes.gateway.process import FakeGatewayProcess

# Written by the daemon itself when it ends; what only the end needs is loaded by then as well.
HOOK = """
import atexit, sys

@atexit.register
def tell():
    real = (name for name, module in list(sys.modules.items()) if vars(module).get("__spec__"))
    with open({path!r}, "w") as out:
        out.write("\\n".join(real))
"""
UNUSED = {
    "argparse",
    "asyncio.events",
    "bz2",
    "difflib",
    "email",
    "fractions",
    "http",
    "idna.core",
    "importlib.metadata",
    "ipaddress",
    "lzma",
    "rich",
    "shutil",
    "ssl",
    "tokenize",
    "tomlkit",
    "typing_extensions",
    "zoneinfo",
}
# Of our own: for orders that are given once in a year, if ever, and for who hands sessions in.
ORDERS = {
    "ambientd.core.contracts.registry",
    "ambientd.core.legacy",
    "ambientd.flows.legacy",
    "ambientd.flows.recost",
    "ambientd.store.legacy",
}
# What belongs to a control plane, of a node that has joined none; beside it, what no side of it needs.
CONTROL = {
    "ambientd.core.outbox",
    "ambientd.core.pushbodies",
    "ambientd.flows.membership",
    "ambientd.flows.push",
    "ambientd.net.control_plane_http",
    "ambientd.ports.controlplane",
    "ambientd.services.push",
    "ambientd.store.assignments",
    "ambientd.store.outbox",
    "ambientd.wire.fleet_api_messages",
    "ambientd.wire.fleet_enums",
    "httpcore2",
    "truststore",
}
JOINED = {"anyio", "argparse", "asyncio.events", "difflib", "h2", "psycopg", "rich", "tomlkit", "zoneinfo"}
SECRET = "lean-5c1d90ab7e3f41d2a86b0c95e4f8a713"
GATEWAY = {"nacl", "trio_websocket", "wsproto"}


def loaded_by(folder: Path, node: Node, use: Callable[[], object]) -> tuple[set[str], str]:
    """The modules that a node has loaded, and the files mapped into it, after `use`."""
    loaded = folder / "loaded"
    (folder / "sitecustomize.py").write_text(HOOK.format(path=str(loaded)))
    node.environment["PYTHONPATH"] = f"{folder}:{REPOSITORY}"
    with node:
        assert node.get("/api/system/status").status == 200
        node.wait_for(lambda: len(node.beats()) > 2)
        use()
        mapped = Path(f"/proc/{node.pid}/maps").read_text()
        node.stop()
    names = set(loaded.read_text().split())
    assert "trio" in names  # the hook did work
    return names, mapped


def test_an_idle_node_has_loaded_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    names, mapped = loaded_by(tmp_path, Node(), lambda: None)
    # The end signs the head of the audit chain; before it, sodium's library was not there.
    assert sorted(names & (UNUSED | ORDERS | CONTROL | GATEWAY - {"nacl"})) == []
    assert [name for name in ("libcrypto", "libssl", "_sodium") if name in mapped] == []


def test_a_node_with_a_gateway_and_http_has_loaded_no_more_than_these_need(tmp_path: Path) -> None:
    with FakeGatewayProcess() as gateway:
        node = Node(
            {"gateway": {"url": gateway.url}, "http": {"listen": "127.0.0.1:0"}},
            environment={
                "OPENCLAW_AUTH_TOKEN": gateway.token,
                "HELICARRIER_SECRET": SECRET,
            },
        )
        names, mapped = loaded_by(
            tmp_path, node, lambda: node.wait_for(lambda: gateway.do("counts")["open_now"] == 1)
        )
    assert sorted(names & (UNUSED | ORDERS | CONTROL)) == []
    assert names >= GATEWAY
    assert [name for name in ("libcrypto", "libssl") if name in mapped] == []
