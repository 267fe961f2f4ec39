"""An idle node has loaded nothing that it does not use: what was won stays won."""

from pathlib import Path

from tests.e2e.harness import REPOSITORY, Node

# Written by the daemon itself when it ends; what only the end needs is loaded by then as well.
HOOK = """
import atexit, sys

@atexit.register
def tell():
    real = (name for name, module in list(sys.modules.items()) if vars(module).get("__spec__"))
    with open({path!r}, "w") as out:
        out.write("\\n".join(real))
"""
UNUSED_MODULES = {
    "argparse",
    "asyncio.events",
    "bz2",
    "difflib",
    "email",
    "idna.core",
    "importlib.metadata",
    "ipaddress",
    "lzma",
    "nacl",
    "rich",
    "shutil",
    "ssl",
    "tomlkit",
    "trio_websocket",
    "typing_extensions",
    "wsproto",
    "zoneinfo",
}
UNUSED_LIBRARIES = ("libcrypto", "libssl", "libsodium")


def test_an_idle_node_has_loaded_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    (tmp_path / "sitecustomize.py").write_text(HOOK.format(path=str(loaded)))
    with Node(environment={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}) as node:
        assert node.get("/api/system/status").status == 200
        node.wait_for(lambda: len(node.beats()) > 2)
        libraries = Path(f"/proc/{node.pid}/maps").read_text()
        node.stop()
    names = set(loaded.read_text().split())
    assert "trio" in names  # the hook did work
    assert sorted(UNUSED_MODULES & names) == []
    assert [name for name in UNUSED_LIBRARIES if name in libraries] == []
