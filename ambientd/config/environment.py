"""Settings from variables `AMBIENT__SECTION__KEY`."""

from collections.abc import Iterable, Mapping
from typing import Any

from ambientd.config.parse import Layer

PREFIX = "AMBIENT__"


def environment_layers(environ: Mapping[str, str], agent_ids: Iterable[str] = ()) -> list[Layer]:
    """One layer per variable, by name, so that each problem and origin names its variable.

    Names are read in lower case. An agent's id cannot be spelled in a variable when it has dots, dashes
    or capitals, so an id of `agent_ids` is meant when it is equal after turning those to underscores and
    lower case. Names of an agent's own variables keep their case.
    """
    ids = {_as_variable(agent): agent for agent in sorted(agent_ids, reverse=True)}
    return [
        Layer(f"environment {name}", _nested(_path(name, ids), environ[name]), textual=True)
        for name in sorted(environ)
        if name.startswith(PREFIX)
    ]


def _as_variable(agent: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in agent).lower()


def _path(name: str, ids: Mapping[str, str]) -> list[str]:
    given = name.removeprefix(PREFIX).split("__")
    path = [part.lower() for part in given]
    if path[0] == "agents" and len(path) > 1:
        path[1] = ids.get(path[1], path[1])
        if len(path) > 3 and path[2] == "environment":
            path[3:] = ["__".join(given[3:])]
    return path


def _nested(path: list[str], value: str) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    return dict(nested)
