"""`ambientd dev`: a node to try things on, with sample agents and nothing to set up."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ambientd.app.node import Node
from ambientd.config.parse import Layer
from ambientd.host import sample_agent
from ambientd.main.http_key import VARIABLES, make_key_file
from ambientd.main.options import parse_options
from ambientd.main.start import Wishes, start, write_out
from ambientd.wire import places

KEY_NAME = "http.secret"
_TEXT = """\
Runs a node with three sample agents: `sample` works for a few seconds and reports usage, `family` starts a
stubborn child and waits to be killed, `clumsy` fails. The state is a throw-away folder unless --state-dir
is given. Ctrl-C ends it.
"""


def sample_layer() -> Layer:
    """Settings that `dev` starts from; configuration files and variables go over them."""
    program = [sys.executable, "-I", sample_agent.__file__]
    return Layer(
        "dev",
        {
            "node": {"mode": "development"},
            "dispatcher": {"interval": "5s"},
            "agents": {
                "sample": {
                    "name": "Sample",
                    "command": [*program, "work"],
                    "output": "jsonl",
                    "model": "sample/quick-1",
                    "max_concurrent": 2,
                    "category": "demo",
                },
                "family": {"name": "Family", "command": [*program, "family"], "output": "jsonl"},
                "clumsy": {"name": "Clumsy", "command": [*program, "clumsy"], "output": "jsonl"},
            },
        },
    )


def run(argv: Sequence[str]) -> int:
    """Parses the arguments and runs; returns the exit code."""
    options = parse_options(argv, prog="ambientd dev", text=_TEXT)
    if isinstance(options, int):
        return options
    thrown_away = None if options.state_dir else tempfile.mkdtemp(prefix="ambient-dev-")
    state_dir = options.state_dir or thrown_away or ""
    wishes = Wishes(
        config=options.config or os.environ.get(places.ENV_CONFIG) or _own_config(Path(state_dir)),
        state_dir=state_dir,
        socket=options.socket or str(Path(state_dir) / places.SOCKET_NAME),
        base=(sample_layer(), *_http_layers(Path(state_dir))),
        layers=options.layers(),
        offline=options.offline,
        socket_mode=0o600,
        on_ready=_say,
    )
    try:
        return start(wishes, os.environ)
    finally:
        if thrown_away:
            shutil.rmtree(thrown_away, ignore_errors=True)


def _own_config(state_dir: Path) -> str:
    """A configuration file of the node's own, so that the machine's is left out; made when missing."""
    path = state_dir / "ambient.toml"
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("# Settings of this development node; see `ambientctl config init -`.\n")
    return str(path)


def _http_layers(state_dir: Path) -> tuple[Layer, ...]:
    """HTTP on a free port, with a secret of the node's own unless one is given. It stays with the state."""
    http: dict[str, object] = {"listen": "127.0.0.1:0"}
    if not any(os.environ.get(name) for name in VARIABLES):
        path = state_dir.absolute() / KEY_NAME
        make_key_file(str(path))
        http["secret_file"] = str(path)
    return (Layer("dev", {"http": http}),)


def _say(node: Node, socket: str) -> None:
    agents = ", ".join(sorted(node.live.current.agents))
    write_out(
        f"Node ready: {node.status.node.name}, agents {agents}\n"
        f"  export {places.ENV_SOCKET}={socket}\n"
        f"  ambientctl status\n"
        f'  ambientctl spawn sample "Summarise the day" --follow\n'
        f"{_http_hint(node)}"
        f"Ctrl-C ends it.\n"
    )


def _http_hint(node: Node) -> str:
    """Where HTTP answers, and where its secret is; the secret itself is not shown."""
    address, file = node.http_address, node.live.current.http.secret_file
    if address is None:
        return ""
    return f"HTTP on http://{address} with the header X-Secret-Key from {file or VARIABLES[0]}\n"
