"""`packaging/dev.py`: what it says and does about environment, daemon and locks, without the network."""

import ast
import io
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.wire import routes
from devkit import checks
from devkit.checks import NON_REGRESSION
from devkit.daemon import Daemon, settings, write_shell_settings
from devkit.environment import CORE, DEV, SIGNS, Environment, explain
from devkit.lockfiles import for_linux
from devkit.show import Screen, TroubleError
from devkit.tree import SOCKET_PATH_MAX_BYTES, FileLock, Tree, file_digest, read_record, write_record
from tests.meta.tree import ROOT, modules

DAEMONS: list[Daemon] = []

# A daemon that answers /readyz with what the file beside it says, until TERM; or not at all.
STAND_IN = """\
    #!{python} -IB
    import os, signal, socket, sys
    mode = {mode!r}
    if mode == "crash":
        sys.exit("no luck today")
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path = os.environ["AMBIENT_SOCKET"]
    os.makedirs(os.environ["AMBIENT_STATE_DIR"], exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    status = "503 Busy" if mode == "unready" else "200 OK"
    while True:
        link, _ = listener.accept()
        try:
            link.recv(4096)
            link.sendall(b"HTTP/1.1 %s\\r\\n\\r\\nmigrating" % status.encode())
        except OSError:
            pass
        link.close()
    """


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A checkout with an environment that holds a stand-in only; its path is short enough for a socket."""
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="amb"))
    made = Tree(root=root)
    made.prepare()
    (made.venv / "bin").mkdir(parents=True)
    yield made
    for child in (daemon.child for daemon in DAEMONS):
        if child is not None:
            child.kill()
            child.wait()
    DAEMONS.clear()
    shutil.rmtree(root)


def screen(stream: io.TextIOBase | None = None) -> Screen:
    return Screen(stream or io.StringIO())  # type: ignore[arg-type] # a StringIO is text enough


def daemon_of(tree: Tree, mode: str) -> Daemon:
    program = tree.venv / "bin" / "ambientd"
    program.write_text(textwrap.dedent(STAND_IN).format(python=sys.executable, mode=mode))
    program.chmod(0o755)
    DAEMONS.append(Daemon(tree, screen(), ready_sec=5, stop_sec=0.5))
    return DAEMONS[-1]


def test_a_daemon_is_started_found_and_ended(tree: Tree) -> None:
    daemon = daemon_of(tree, "good")
    assert daemon.pid() is None
    pid = daemon.start("digest")
    assert daemon.pid() == pid
    assert os.getsid(pid) == pid, "it must not end with this terminal"
    assert not daemon.is_outdated("digest")
    assert daemon.is_outdated("another")
    assert daemon.stop()
    assert daemon.pid() is None
    assert not daemon.stop()


def test_a_daemon_without_its_socket_is_still_found(tree: Tree) -> None:
    daemon = daemon_of(tree, "good")
    pid = daemon.start("digest")
    tree.socket.unlink()
    assert daemon.pid() == pid


def test_the_pid_of_another_process_is_not_taken_for_the_daemons(tree: Tree) -> None:
    write_record(tree.dev / "daemon.json", {"pid": os.getpid(), "started": "1", "digest": "x"})
    assert daemon_of(tree, "good").pid() is None


def test_a_daemon_that_ends_at_once_is_told_with_the_end_of_its_log(tree: Tree) -> None:
    with pytest.raises(TroubleError) as caught:
        daemon_of(tree, "crash").start("digest")
    assert "code 1" in caught.value.what
    assert "no luck today" in caught.value.detail


def test_a_daemon_that_is_not_ready_is_told_with_its_reason(tree: Tree) -> None:
    daemon = daemon_of(tree, "unready")
    daemon._ready_sec = 0.5
    with pytest.raises(TroubleError) as caught:
        daemon.start("digest")
    assert "migrating" in caught.value.what


def test_a_daemon_that_ignores_term_is_told_and_left_alone(tree: Tree) -> None:
    daemon = daemon_of(tree, "deaf")
    pid = daemon.start("digest")
    with pytest.raises(TroubleError) as caught:
        daemon.stop()
    assert f"kill -KILL {pid}" in caught.value.todo
    assert daemon.pid() == pid


def test_the_log_of_the_run_before_is_kept(tree: Tree) -> None:
    daemon = daemon_of(tree, "good")
    tree.log.write_text("before\n")
    daemon.start("digest")
    assert tree.log.with_name("ambientd.log.1").read_text() == "before\n"


def test_a_program_that_cannot_be_started_is_trouble_and_not_a_traceback(tree: Tree) -> None:
    daemon = daemon_of(tree, "good")
    (tree.venv / "bin" / "ambientd").chmod(0o644)
    with pytest.raises(TroubleError, match="cannot be started"):
        daemon.start("digest")


def test_the_shell_settings_name_the_node_and_put_its_programs_first_once(tree: Tree) -> None:
    path = write_shell_settings(tree)
    script = f'. {path}; . {path}; echo "$AMBIENT_SOCKET|$AMBIENT_STATE_DIR|$PATH"'
    told = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True
    )
    values = settings(tree)
    wanted = [values["AMBIENT_SOCKET"], values["AMBIENT_STATE_DIR"], f"{tree.venv / 'bin'}:/bin"]
    assert told.stdout.strip().split("|") == wanted


def test_a_deep_checkout_gets_a_socket_path_that_fits(tmp_path: Path) -> None:
    deep = Tree(root=tmp_path / ("d" * 120))
    assert len(os.fsencode(deep.socket)) <= SOCKET_PATH_MAX_BYTES
    assert deep.socket == Tree(root=deep.root).socket
    assert deep.socket != Tree(root=tmp_path / ("e" * 120)).socket


def test_a_folder_of_someone_else_is_not_used_for_the_socket(tmp_path: Path) -> None:
    deep = Tree(root=tmp_path / ("d" * 120))
    deep.root.mkdir()
    deep.prepare()
    deep.socket.parent.mkdir(mode=0o777)
    try:
        deep.socket.parent.chmod(0o777)
        with pytest.raises(TroubleError, match="someone else"):
            Daemon(deep, screen()).start("digest")
    finally:
        deep.socket.parent.rmdir()


def test_the_digest_follows_contents_and_modes_but_not_caches(tree: Tree) -> None:
    folder = tree.root / "ambientd"
    folder.mkdir()
    (folder / "one.py").write_text("1\n")
    before = tree.package_digest()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "one.pyc").write_text("x")
    assert tree.package_digest() == before
    (folder / "one.py").chmod(0o755)
    after_mode = tree.package_digest()
    (folder / "one.py").write_text("2\n")
    assert len({before, after_mode, tree.package_digest()}) == 3


def environment_of(tree: Tree) -> Environment:
    """An environment in which everything is recorded as done, from the core's locks."""
    (tree.root / "packaging").mkdir()
    for name in (*CORE, *DEV):
        tree.requirements(name).write_text(f"{name}\n")
    for name in ("python", "ambientd", "ambientctl"):
        (tree.venv / "bin" / name).touch()
    record = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]} {sys.base_prefix}",
        "packages": {name: file_digest(tree.requirements(name)) for name in CORE},
        "ambient": tree.package_digest(),
    }
    write_record(tree.dev / "environment.json", record)
    return Environment(tree, screen())


def test_nothing_is_missing_when_all_is_recorded(tree: Tree) -> None:
    assert environment_of(tree).missing(CORE) == []


def test_the_development_lock_serves_the_core_too_but_not_the_other_way_round(tree: Tree) -> None:
    environment = environment_of(tree)
    assert environment.missing(DEV) == ["packages"]
    record = read_record(tree.dev / "environment.json")
    record["packages"] = {name: file_digest(tree.requirements(name)) for name in DEV}
    write_record(tree.dev / "environment.json", record)
    assert (environment.missing(DEV), environment.missing(CORE)) == ([], [])


def test_each_change_asks_for_its_own_step(tree: Tree) -> None:
    environment = environment_of(tree)
    (tree.root / "LICENSE").write_text("other\n")
    assert environment.missing(CORE) == ["ambient"]
    tree.requirements(CORE[0]).write_text("other\n")
    assert environment.missing(CORE) == ["packages", "ambient"]
    (tree.dev / "environment.json").write_text("{torn")
    assert environment.missing(CORE) == ["python", "packages", "ambient"]


def test_an_environment_of_another_python_is_not_destroyed_unasked(tree: Tree) -> None:
    environment = environment_of(tree)
    (tree.dev / "environment.json").unlink()
    lock = FileLock(tree.dev / "environment.lock", screen())
    with lock.held(alone=False), pytest.raises(TroubleError, match="made by something else"):
        environment.make(CORE, lock)
    assert (tree.venv / "bin" / "ambientd").exists()


@pytest.mark.parametrize(("sign", "what"), [row[:2] for row in SIGNS])
def test_the_output_of_a_failed_installer_becomes_a_cause_with_a_remedy(sign: str, what: str) -> None:
    trouble = explain(f"noise\nERROR: {sign} etc.\n", 1, Path("setup.log"))
    assert trouble.what == what
    assert "setup.log" in trouble.todo
    assert sign in trouble.detail


def test_an_unknown_failure_still_shows_its_last_lines() -> None:
    trouble = explain("strange\n", 9, Path("setup.log"))
    assert "code 9" in trouble.what
    assert "strange" in trouble.detail


def test_a_tree_that_cannot_be_written_is_trouble(tmp_path: Path) -> None:
    (tmp_path / ".dev").touch()
    with pytest.raises(TroubleError, match="Cannot write"):
        Tree(root=tmp_path).prepare()


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    first = FileLock(tmp_path / "lock", screen())
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT / "packaging")!r})
        from pathlib import Path
        from devkit.show import Screen
        from devkit.tree import FileLock
        with FileLock(Path({str(tmp_path / "lock")!r}), Screen(sys.stdout)).held(alone=True):
            print("got it", flush=True)
        """)
    with first.held(alone=False):
        second = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "waiting" in second.stdout.readline()
    told, _ = second.communicate(timeout=30)
    assert told.strip() == "got it"


def test_a_screen_without_unicode_speaks_ascii() -> None:
    raw = io.BytesIO()
    narrow = Screen(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    with narrow.step("working", "worked — fine"):
        pass
    with pytest.raises(TroubleError), narrow.step("working", "worked"):
        raise TroubleError("Broken.", "Mend it.")
    lines = raw.getvalue().decode("ascii").splitlines()
    assert lines[0].startswith("ok   worked ? fine (")
    assert lines[1].startswith("FAIL working: Broken. (")


def test_a_lock_loses_what_only_other_systems_install() -> None:
    lock = "a==1 \\\n    --hash=sha256:aa\nb==2 ; sys_platform == 'win32' \\\n    --hash=sha256:bb\nc==3\n"
    assert for_linux(lock) == "a==1 \\\n    --hash=sha256:aa\nc==3\n"


def test_a_requirement_that_linux_needs_as_well_stays_in_the_lock() -> None:
    lock = "a==1 ; (x == 'y' and os_name == 'nt') or z == 'w' \\\n    --hash=sha256:aa\n"
    assert for_linux(lock) == lock


def test_old_interpreters_can_read_as_far_as_the_sentence_for_them() -> None:
    ast.parse((ROOT / "packaging" / "dev.py").read_text(), feature_version=(3, 4))


def test_dev_py_needs_the_standard_library_only() -> None:
    known = sys.stdlib_module_names | {"devkit"}
    for path in [ROOT / "packaging" / "dev.py", *modules("packaging/devkit")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= known, path


def test_a_fresh_checkout_says_how_to_begin(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "packaging", tmp_path / "packaging", ignore=ignore)
    outcome = subprocess.run(
        [sys.executable, "-B", str(tmp_path / "packaging" / "dev.py"), "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 3
    assert "dev.py up" in outcome.stdout


def test_the_gate_of_what_others_rely_on_asks_every_such_route() -> None:
    text = "".join((ROOT / path).read_text() for path in NON_REGRESSION)
    for route in ("LEDGER", "ANALYTICS_USAGE", "ANALYTICS_PERFORMANCE", "ALERTS_ACTIVE", "ALERT_RULES"):
        assert getattr(routes, route) in text or route in text
    assert {routes.STATUS, routes.SPAWN, routes.KILL} <= {
        value for value in vars(routes).values() if isinstance(value, str) and value in text
    }


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_a_regression_turns_the_run_red_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """A checkout of one test, which is all of the gate."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_shape.py").write_text(
        f"def test_the_shape_is_kept():\n    assert {outcome == 'passed'}\n"
    )
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(checks, "NON_REGRESSION", ("tests/test_shape.py",))
    said = io.StringIO()
    assert checks.Checks(Tree(root=tmp_path), Screen(said)).gate() is (outcome == "passed")
    assert "non-regression" in said.getvalue()
