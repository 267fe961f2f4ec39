"""Connectivity as a test says, in a real daemon: the state is read from a file at every question.

What probes say is replaced for everybody who asks; the machine behind it goes on.
"""

from pathlib import Path
from typing import Any

from tests.e2e.harness import REPOSITORY, Node

HOOK = """
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

def connectivity(name):
    from ambientd.wire.enums import Connectivity
    return Connectivity(open({state!r}).read().strip())

class Hook(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "ambientd.services.connectivity":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            service = module.ConnectivityService
            service.state = property(connectivity)
            service.may = lambda self, action: module.may(self.state, action)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hook())
"""
ONLINE, OFFLINE = "OnlineControlPlane", "OfflineControlPlane"
NO_UPSTREAM, UNKNOWN = "NoUpstream", "Unknown"


class Links:
    """The state that a node is made to be in."""

    def __init__(self, node: Node, folder: Path, state: str = ONLINE) -> None:
        self._file = folder / "state"
        self.set(state)
        (folder / "sitecustomize.py").write_text(HOOK.format(state=str(self._file)))
        node.environment["PYTHONPATH"] = f"{folder}:{REPOSITORY}"

    def set(self, state: str) -> None:
        """From now on."""
        self._file.write_text(state)


def audits(node: Node, sql: Any) -> list[tuple[str, str]]:
    """Kinds and details of the audit, of a node that does not write just now."""
    return [
        (kind, detail)
        for kind, detail in sql(node, "SELECT kind, detail_json FROM audit_records ORDER BY seq")
    ]
