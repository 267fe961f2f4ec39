"""A real OpenClaw Gateway from npm, a real node beside it, a mock model behind it; by hand, not in CI.

    python3 tests/live/run.py [--openclaw 2026.9.6] [--cache DIR] [--keep DIR] [--only NAME …]

Installs Node and OpenClaw into the cache folder (about 840 MB for the first version, 520 MB for a second)
and uses them again the next time; --openclaw may be given several times, `all` is both supported versions.
One line per check, then a table of what was measured. Exit code 0 when all passed, 1 when one failed, and 0
after a line "skipped: …" where this machine cannot. Takes two to four minutes for a version.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OWN_PYTHON = REPOSITORY / ".venv" / "bin" / "python"
sys.path[:] = [
    str(REPOSITORY),
    *(place for place in sys.path if Path(place).resolve() != Path(__file__).parent),
]

from tests.live.install import NODE, VERSIONS, InstallError, install_node, install_openclaw, lacking  # noqa: E402


def _with_own_python() -> str | None:
    """Goes on under the repository's own Python when this one has not what the daemon needs."""
    try:
        import nacl  # noqa: F401
        import trio_websocket  # noqa: F401
    except ImportError:
        if OWN_PYTHON.exists() and Path(sys.executable) != OWN_PYTHON:
            os.execv(OWN_PYTHON, [str(OWN_PYTHON), *sys.argv])  # noqa: S606 - the same program again
        return "the daemon's libraries are missing: python3 packaging/dev.py test tests/meta"
    return None


def run_version(version: str, cache: Path, folder: Path, only: list[str]) -> bool:
    """All checks of one version; whether they passed. Raises InstallError."""
    from tests.e2e.harness import Node
    from tests.live.checks import CHECKS, node_config
    from tests.live.mock_model import MockModel
    from tests.live.openclaw import Gateway
    from tests.live.stage import Screen, Stage

    print(f"OpenClaw {version} on Node {NODE}", flush=True)
    node_program = install_node(cache)
    program = install_openclaw(cache, version, node_program)
    with MockModel() as model:
        gateway = Gateway(
            folder / version, version=version, program=program, node=node_program, model_port=model.port
        )
        try:
            print("  starting the gateway", flush=True)
            boot = gateway.start()
            config = node_config(gateway.url, str(gateway.token_file))
            with Node(config) as node, Screen(node) as screen:
                stage = Stage(gateway, model, node, screen)
                stage.note("boot of the gateway", f"{boot:.1f} s")
                with stage.listeners:
                    stage.listen()
                    passed = [_attempt(name, partial(CHECKS[name], stage)) for name in _chosen(only, CHECKS)]
        finally:
            gateway.close()
    _print_figures(version, stage.figures)
    return all(passed)


def _chosen(only: list[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if not only or any(word in name for word in only)]


def _attempt(name: str, check: Callable[[], None]) -> bool:
    began = time.monotonic()
    try:
        check()
    except Exception:  # noqa: BLE001 - the next check may pass all the same
        print(f"FAIL {name}  {time.monotonic() - began:.1f} s\n{traceback.format_exc()}", flush=True)
        return False
    print(f"PASS {name}  {time.monotonic() - began:.1f} s", flush=True)
    return True


def _print_figures(version: str, figures: list[tuple[str, str]]) -> None:
    """Several values under one name are one line."""
    together: dict[str, list[str]] = {}
    for name, text in figures:
        together.setdefault(name, []).append(text)
    print(f"\n| OpenClaw {version} | |\n|---|---|")
    for name, texts in together.items():
        print(f"| {name} | {', '.join(texts)} |")
    print(flush=True)


def main() -> int:
    """Exit code: 0 all passed or skipped, 1 not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--openclaw", action="append", metavar="VERSION", help=f"{VERSIONS[0]}; all: both")
    parser.add_argument("--cache", type=Path, help="where Node and OpenClaw are installed")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the gateway's folders and logs here")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="checks with this word")
    options = parser.parse_args()
    cache = options.cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ambient-live"
    if why := _with_own_python() or lacking(cache):
        print(f"skipped: {why}")
        return 0
    wanted = options.openclaw or [VERSIONS[0]]
    versions = list(VERSIONS) if "all" in wanted else wanted
    folder = options.keep or Path(tempfile.mkdtemp(prefix="ambient-live-"))
    try:
        passed = [run_version(version, cache, folder, options.only) for version in versions]
    except InstallError as error:
        print(f"skipped: {error}")
        return 0
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
