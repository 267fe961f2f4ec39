import json
import os
import signal
import socket
import stat
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.host import shim_tree
from ambientd.host.shim_spool import Source, Spool
from tests.host.shim_kit import (
    PATIENCE,
    PYTHON,
    SESSION,
    SHIM,
    Shim,
    frame,
    marked,
    run,
    running,
    spec,
    wait_gone,
    wait_marked,
    workplace,
)


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert marked() == set()


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-c", textwrap.dedent(code))


# Says bye and exits with 7 when it is asked to end.
POLITE = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), os._exit(7)))
print('ready', flush=True)
time.sleep(1000)
"""


# --- the plain life of a run


def test_the_prompt_arrives_on_stdin_and_output_comes_back_as_lines() -> None:
    with running(spec("sh", "-c", "cat; echo oops >&2; echo done", stdin="first\nsecond ü\n")) as shim:
        result = shim.wait()
        lines = shim.lines()
    assert shim.answer["answer"] == "claimed"
    assert [line.text for line in lines if line.stream == "out"] == ["first", "second ü", "done"]
    assert [line.text for line in lines if line.stream == "err"] == ["oops"]
    assert (result.cause, result.exit_code, result.signal, result.error) == ("exit", 0, None, None)
    assert result.proof
    assert result.survivors_ended == 0
    assert result.output_bytes == len("first\nsecond ü\ndone\noops\n".encode())
    assert result.started_at_ms is not None
    assert result.started_at_ms <= lines[0].at_ms <= result.ended_at_ms


def test_a_nonzero_exit_status_is_told() -> None:
    assert run(spec("sh", "-c", "exit 42"))[0].exit_code == 42


def test_death_by_a_signal_is_told_as_a_signal() -> None:
    result, _ = run(spec("sh", "-c", "kill -SEGV $$"))
    assert (result.cause, result.exit_code, result.signal) == ("exit", None, signal.SIGSEGV)


def test_arguments_are_not_read_by_any_shell() -> None:
    _, text = run(spec("printf", "%s|", "$(id)", "a b", "`x`", ";", "--", "-rf", "*"))
    assert text == "$(id)|a b|`x`|;|--|-rf|*|"


def test_an_unread_large_prompt_holds_nobody_up() -> None:
    result, text = run(spec("sh", "-c", "exec 0<&-; echo fine", stdin="x" * 3_000_000))
    assert (result.exit_code, text) == (0, "fine")


def test_a_large_prompt_arrives_whole() -> None:
    assert run(spec("wc", "-c", stdin="x" * 3_000_000))[1].strip() == "3000000"


def test_the_default_working_directory_is_private() -> None:
    with running(spec("sh", "-c", "pwd; touch file; umask")) as shim:
        shim.wait()
        assert shim.text().split() == [str(shim.folder / "work"), "0077"]
        assert stat.S_IMODE((shim.folder / "work" / "file").stat().st_mode) == 0o600


def test_a_named_working_directory_is_used() -> None:
    assert run(spec("pwd", workdir="/usr"))[1] == "/usr"


# --- what cannot be started


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("no-such-program-here", "not_found"),
        ("{place}/nothing", "not_found"),
        ("{place}/data/below", "not_found"),
        ("{place}", "not_executable"),
        ("{place}/data", "not_executable"),
        ("{place}/script", "not_executable"),
        ("{place}/noise", "not_executable"),
        ("nul\0nul", "start_failed"),
        ("", "start_failed"),
        ("x" * 200_000, "start_failed"),
    ],
)
def test_a_command_that_cannot_run_is_explained(command: str, error: str, tmp_path: Path) -> None:
    write(tmp_path / "data", "echo hi\n", 0o644)
    write(tmp_path / "script", "#!/no/such/interpreter\n", 0o755)
    write(tmp_path / "noise", "hello\n", 0o755)
    result, _ = run(spec(command.replace("{place}", str(tmp_path))))
    assert (result.cause, result.error, result.exit_code) == ("start_failed", error, None)
    assert result.message
    assert result.started_at_ms is None
    assert result.proof


def write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_a_missing_working_directory_is_explained() -> None:
    assert run(spec("true", workdir="/no/such/place"))[0].error == "bad_workdir"


@pytest.mark.parametrize("environment", [{"A=B": "1"}, {"": "1"}, {"A": "x\0y"}])
def test_an_impossible_environment_is_explained(environment: dict[str, str]) -> None:
    assert run(spec("true", environment=environment))[0].error == "start_failed"


# --- what the agent is given


def test_the_environment_is_exactly_the_given_one() -> None:
    given = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "NOTE": "ü = x"}
    with running(spec("env", environment=given), env={"PLANTED_SECRET": "s3cret", "PATH": "/bin"}) as shim:
        shim.wait()
        assert sorted(shim.text().splitlines()) == sorted(f"{key}={value}" for key, value in given.items())


def test_only_three_descriptors_are_open() -> None:
    leaked = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with workplace() as folder:
        body = frame(spec("sh", "-c", "ls /proc/$$/fd; true"))
        done = subprocess.run(
            [PYTHON, "-I", "-S", "-B", str(SHIM), "--folder", str(folder)],
            input=body,
            stdout=subprocess.PIPE,
            close_fds=False,
            check=True,
        )
        os.close(leaked)
        assert b"claimed" in done.stdout
        assert (folder / "output").read_text().splitlines()[1::2] == ["0", "1", "2"]


def test_signals_are_as_a_fresh_process_expects_them() -> None:
    _, text = run(spec("sh", "-c", "exec grep -E '^Sig(Blk|Ign)' /proc/self/status"))
    assert {int(line.split()[1], 16) for line in text.splitlines()} == {0}


def test_resource_limits_hold() -> None:
    limits = {"memory": 512 * 2**20, "processes": 4000, "file_size": 8192, "open_files": 64, "cpu_time": 60}
    _, text = run(spec("sh", "-c", "ulimit -c; ulimit -n; ulimit -t; cat /proc/self/limits", limits=limits))
    assert text.splitlines()[:3] == ["0", "64", "60"]
    table = {line[:25].strip(): line[25:].split()[:2] for line in text.splitlines()[4:]}
    assert table["Max address space"] == [str(512 * 2**20)] * 2
    assert table["Max file size"] == ["8192"] * 2
    assert table["Max processes"] == ["4000"] * 2
    assert table["Max core file size"] == ["0"] * 2


def test_prompt_and_secrets_are_in_no_file_and_no_argument_list() -> None:
    secrets = {"API_TOKEN": "tok-6fd1", "PATH": "/bin:/usr/bin", "AMBIENT_SESSION_ID": SESSION}
    with running(spec("sleep", "1000", stdin="prompt-9a7c", environment=secrets)) as shim:
        shim.wait_started()
        seen = Path(f"/proc/{shim.process.pid}/cmdline").read_bytes()
        seen += Path(f"/proc/{shim.process.pid}/environ").read_bytes()
        for path in shim.folder.rglob("*"):
            if path.is_file():
                seen += path.read_bytes()
    assert b"6fd1" not in seen
    assert b"9a7c" not in seen


# --- output


def test_many_lines_keep_their_order() -> None:
    _, text = run(spec("seq", "1", "30000"))
    assert text.split() == [str(number) for number in range(1, 30001)]


def test_output_that_is_not_text_is_kept_with_replacement() -> None:
    code = r"import os; os.write(1, b'a\x00b\xff\xfe\x1b[1m\rc\n\n\xf0\x9f\n')"
    _, text = run(spec(*python(code)))
    assert text == "a\x00b\ufffd\ufffd\x1b[1m\rc\n\n\ufffd"


def test_a_last_line_without_end_is_kept() -> None:
    assert run(spec("printf", "no newline"))[1] == "no newline"


def test_long_lines_are_split_between_characters() -> None:
    with running(
        spec(*python("print('x' + 'ü€𝄞' * 1000)"), line_limit=256, environment={"LC_ALL": "C.UTF-8"})
    ) as s:
        s.wait()
        lines = s.lines()
    assert "".join(line.text for line in lines) == "x" + "ü€𝄞" * 1000
    assert [line.partial for line in lines] == [True] * (len(lines) - 1) + [False]
    assert all(250 < len(line.text.encode()) <= 256 for line in lines[:-1])


@pytest.mark.parametrize("command", ["head -c 1000000000 /dev/zero", "yes | head -c 1000000000"])
def test_a_gigabyte_of_output_costs_neither_memory_nor_disk(command: str) -> None:
    with running(spec("sh", "-c", command + "; grep VmHWM /proc/$PPID/status >hwm")) as shim:
        result = shim.wait()
        peak_kib = int((shim.folder / "work" / "hwm").read_text().split()[1])
        size = sum(path.lstat().st_size for path in shim.folder.rglob("*"))
    assert peak_kib < 40 * 1024
    assert size < 1024 * 1024 + 64 * 1024
    assert result.exit_code == 0
    assert result.output_bytes == 1_000_000_000
    assert 990_000_000 < result.dropped_bytes < 1_000_000_000


def test_kept_and_dropped_bytes_add_up() -> None:
    with running(spec("seq", "1", "5000", output_limit=4096)) as shim:
        result = shim.wait()
        kept = sum(len(line.text) + 1 for line in shim.lines())
        assert (shim.folder / "output").stat().st_size <= 4096
    assert kept + result.dropped_bytes == result.output_bytes
    assert 500 < kept < 4096


def test_a_full_disk_loses_output_but_neither_the_agent_nor_the_truth() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    with workplace() as place:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], check=False
        ).returncode:
            pytest.skip("file systems cannot be mounted here")
        try:
            with running(spec("seq", "1", "200000", output_limit=2**26), folder=place) as shim:
                result = shim.wait()
                numbers = [int(line.text) for line in shim.lines()]
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    assert (result.cause, result.exit_code) == ("exit", 0)
    assert result.dropped_bytes > 1_000_000
    assert numbers == sorted(numbers)
    assert numbers[:100] == list(range(1, 101))
    kept = sum(len(str(number)) + 1 for number in numbers)
    assert kept + result.dropped_bytes == result.output_bytes


def test_a_short_write_keeps_whole_records_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = os.pipe()
    spool = Spool(10_000)
    source = Source(ours, b"o", 4096, spool)
    os.write(theirs, b"one\ntwo\nthree\n")
    os.close(theirs)
    assert source.pull()
    first = len(b"1795248433667 o0 3\none\n")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at, real=os.pwrite: real(fd, data[: first + 5], at))
    spool.flush()
    source.close()
    assert Path("output").read_bytes().endswith(b" o0 3\none\n")
    assert spool.size == first == Path("output").stat().st_size
    assert spool.dropped == len("two\nthree\n")


# --- ends


def test_a_silent_endless_agent_is_ended_at_its_timeout() -> None:
    result, _ = run(spec("sleep", "1000", timeout=0.3))
    assert (result.cause, result.signal) == ("timeout", signal.SIGTERM)
    assert 300 <= result.runtime_ms < 20_000


def test_an_agent_that_ignores_term_is_killed_after_its_grace() -> None:
    with running(spec("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")) as shim:
        shim.wait_output("ready")
        with shim.dial() as caller:
            assert caller.ask(verb="end", grace=0.2)["ok"]
        result = shim.wait()
    assert (result.cause, result.signal, result.proof) == ("ended", signal.SIGKILL, True)


def test_an_agent_may_use_its_grace_to_finish() -> None:
    with running(spec(*python(POLITE))) as shim:
        shim.wait_output("ready")
        with shim.dial() as caller:
            caller.ask(verb="end", grace=20)
        result = shim.wait()
        assert shim.text() == "ready\nbye"
    assert (result.cause, result.exit_code) == ("ended", 7)


def test_asking_twice_for_the_end_is_harmless_and_may_hasten_it() -> None:
    with running(spec("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")) as shim:
        shim.wait_output("ready")
        with shim.dial() as caller:
            assert caller.ask(verb="end", grace=1000)["ok"]
            assert caller.ask(verb="end", grace=500)["ok"]
            assert caller.ask(verb="end", grace=0)["ok"]
        assert shim.wait().cause == "ended"


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000 & sleep 1001 & echo ready; wait",
        "sh -c 'sh -c \"sleep 1000\" & wait' & echo ready; wait",
        "setsid sleep 1000 & echo ready; wait",
        "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' &); echo ready; sleep 1000",
        "sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$; sleep 1000",
    ],
    ids=["children", "grandchild", "setsid", "daemon", "stopped"],
)
def test_the_whole_tree_is_ended(command: str) -> None:
    with running(spec("sh", "-c", command)) as shim:
        shim.wait_output("ready")
        handles = [os.pidfd_open(pid) for pid in wait_marked(2)]
        with shim.dial() as caller:
            caller.ask(verb="end", grace=0.3)
        result = shim.wait()
        assert result.proof
        assert marked() == set()
        wait_gone(handles)


def test_what_a_finished_agent_leaves_behind_is_ended_and_counted() -> None:
    command = "(setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' &); (sleep 1000 &); sleep 0.3; exit 0"
    result, _ = run(spec("sh", "-c", command))
    assert (result.cause, result.exit_code, result.proof) == ("exit", 0, True)
    assert result.survivors_ended == 3  # the shell, its sleep, the other sleep
    assert marked() == set()


def test_a_bounded_fork_bomb_is_ended() -> None:
    # Every fork uses up one of 100 tokens and nobody makes new ones: 101 processes at most, ever. An alarm
    # that a process cannot outlive ends each of them too, should the shim fail.
    code = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tokens, feed = os.pipe()
    os.write(feed, b'x' * 100)
    os.close(feed)
    while os.read(tokens, 1):
        os.fork()
        signal.alarm(30)
    print('ready', flush=True)
    time.sleep(1000)
    """
    with running(spec(*python(code))) as shim:
        shim.wait_output("ready")
        with shim.dial() as caller:
            caller.ask(verb="end", grace=0.1)
        result = shim.wait()
    assert (result.cause, result.proof) == ("ended", True)
    assert marked() == set()


def test_a_stop_of_the_unit_ends_the_tree_in_order() -> None:
    with running(spec(*python(POLITE))) as shim:
        shim.wait_output("ready")
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM):
            shim.process.send_signal(number)
        shim.process.send_signal(signal.SIGTERM)
        result = shim.wait()
        assert shim.text() == "ready\nbye"
    assert (result.cause, result.exit_code) == ("ended", 7)


def test_a_killed_shim_takes_the_agents_main_process_with_it() -> None:
    with running(spec("sleep", "1000")) as shim:
        shim.wait_started()
        with shim.dial() as caller:
            handle = os.pidfd_open(caller.ask(verb="status")["agent_pid"])
        shim.process.kill()
        wait_gone([handle])


def test_no_process_outside_the_tree_can_be_signalled() -> None:
    # Every number that a reused pid could be: signal 0 asks the kernel and harms nobody.
    below = set(shim_tree.descendants())
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in below]
    assert os.getpid() in others
    assert [pid for pid in others if shim_tree.send(pid, 0)] == []


def test_a_process_of_the_tree_can_be_signalled_until_it_is_dead() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    assert shim_tree.send(child.pid, 0)
    assert shim_tree.send(child.pid, signal.SIGKILL)
    wait_gone([os.pidfd_open(child.pid)])
    assert shim_tree.send(child.pid, 0) is None
    child.wait()


# --- claims


def test_of_many_shims_in_one_folder_exactly_one_runs() -> None:
    with workplace() as folder:
        command = [PYTHON, "-I", "-S", "-B", str(SHIM), "--folder", str(folder)]
        many = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(6)]
        for process in many:
            assert process.stdin
            process.stdin.write(frame(spec("sh", "-c", "echo x >> ran")))
            process.stdin.flush()
        outs = [process.communicate(timeout=PATIENCE)[0] for process in many]
        assert sum(b'"claimed"' in out for out in outs) == 1
        assert sorted(process.returncode for process in many) == [0] + [75] * 5
        assert (folder / "work" / "ran").read_text() == "x\n"


def test_a_folder_that_the_daemon_has_claimed_starts_nothing() -> None:
    with workplace() as folder:
        (folder / "claim").mkdir()
        shim = Shim(folder, spec("touch", str(folder / "ran")), {})
        assert shim.process.wait(PATIENCE) == 75
        assert shim.answer["answer"] == "refused"
        assert not (folder / "ran").exists()
        assert not (folder / "output").exists()


@pytest.mark.parametrize("sent", [b"", b"12", b"12\n{}", b"99999999999\n{}", b"x" * 100, b"2\n[]", b"3\n{}}"])
def test_a_spec_that_is_not_whole_starts_nothing(sent: bytes) -> None:
    with workplace() as folder:
        done = subprocess.run(
            [PYTHON, "-I", "-S", "-B", str(SHIM), "--folder", str(folder)],
            input=sent,
            stdout=subprocess.PIPE,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 75
        assert list(folder.iterdir()) == []


def test_a_socket_that_hangs_up_does_not_end_the_session() -> None:
    with workplace() as folder:
        ours, theirs = socket.socketpair()
        command = [PYTHON, "-I", "-S", "-B", str(SHIM), "--socket"]
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno())
        theirs.close()
        ours.sendall(frame(spec("sh", "-c", "sleep 0.3; echo still here") | {"folder": str(folder)}))
        assert json.loads(ours.makefile().readline())["answer"] == "claimed"
        ours.close()
        assert process.wait(PATIENCE) == 0
        assert b"still here" in (folder / "output").read_bytes()


# --- the control socket


def test_a_long_state_path_works() -> None:
    with workplace() as place:
        folder = place / ("d" * 100) / ("e" * 100)
        folder.mkdir(parents=True)
        with running(spec("sleep", "1000"), folder=folder) as shim:
            with shim.dial() as caller:
                assert caller.ask(verb="end", grace=0.1)["ok"]
            assert shim.wait().cause == "ended"


def test_the_control_socket_is_private() -> None:
    with running(spec("sleep", "1000")) as shim:
        assert stat.S_IMODE((shim.folder / "ctl").stat().st_mode) == 0o600


def test_clients_that_never_read_hold_nobody_up() -> None:
    with running(spec("sh", "-c", "echo ready; read x; seq 1 20000; sleep 1000")) as shim:
        stuck = [shim.dial() for _ in range(7)]
        for caller in stuck:
            caller.flood()
        shim.wait_output("20000")
        with shim.dial() as caller:
            assert caller.ask(verb="end", grace=0.1)["ok"]
        assert shim.wait().cause == "ended"
        for caller in stuck:
            caller.link.close()


@pytest.mark.parametrize("sent", [b"x" * 10_000, b"[]\n", b"\xff\n", b'{"verb":\n'])
def test_a_client_that_breaks_the_rules_is_dropped_alone(sent: bytes) -> None:
    with running(spec("sleep", "1000")) as shim, shim.dial() as bad, shim.dial() as good:
        bad.write(sent)
        try:
            while bad.read():
                continue
        except ConnectionResetError:
            pass
        assert good.ask(verb="status")["ok"]
        assert not good.ask(verb="dance")["ok"]


def test_news_of_a_stream_of_output_are_coalesced() -> None:
    code = "import time\nfor n in range(300):\n print(n, flush=True); time.sleep(0.001)"
    with running(spec(*python(code))) as shim:
        with shim.dial() as caller:
            told = []
            while news := caller.read():
                told.append(news["news"])
        shim.wait()
    assert told[-1]["ended"]
    assert len(told) < 100


@pytest.mark.parametrize("put", ["mkfifo ../{0}", "ln -s ../../victim ../{0}"])
def test_an_agent_cannot_hold_its_shim_up_or_lead_it_astray_with_files_of_other_kinds(put: str) -> None:
    spoil = "; ".join(f"rm -f ../{name}; {put.format(name)}" for name in ("result.part", "shim.err"))
    with workplace() as place:
        (place / "victim").write_text("precious")
        (place / "run").mkdir()
        with running(spec("sh", "-c", spoil), folder=place / "run") as shim:
            assert shim.wait().exit_code == 0
        assert (place / "victim").read_text() == "precious"


def test_a_result_that_cannot_be_written_is_told_and_written_later() -> None:
    with running(spec("sh", "-c", "echo ready; read x; exit 5")) as shim:
        (shim.folder / "result.json").mkdir()
        with shim.dial() as caller:
            while not (news := caller.read()["news"])["ended"]:
                assert news
            assert caller.ask(verb="status")["result"]["exit_code"] == 5
            (shim.folder / "result.json").rmdir()
            while caller.read():
                continue
        assert shim.wait().exit_code == 5
