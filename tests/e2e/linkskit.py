"""Connectivity as a test says, in a real daemon: the state is read from a file at every question.

The links themselves are another part's; here they are replaced where the policy cache is built.
"""

from pathlib import Path
from typing import Any

from tests.e2e.harness import REPOSITORY, Node

HOOK = """
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

class Links:
    @property
    def state(self):
        from ambientd.wire.enums import Connectivity
        return Connectivity(open({state!r}).read().strip())

    def may(self, action):
        from ambientd.core.connectivity import may
        return may(self.state, action)

class Hook(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "ambientd.app.policy_parts":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            build = module.PolicyPart.__init__
            def init(self, *args, **kwargs):
                build(self, *args, **{{**kwargs, "links": Links()}})
            module.PolicyPart.__init__ = init
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
