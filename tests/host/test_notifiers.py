"""Real commands as notifiers: what they get, and that none of them can hold anything up."""

import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from ambientd.host.notifiers import CommandNotifier, LogNotifier
from ambientd.ports.notifier import Undelivered
from ambientd.wire.alert_messages import AlertNotification
from ambientd.wire.enums import AlertComparison, AlertMetric, AlertReason, AlertStatus, AlertWindow
from tests.fakes.log import ListLog

BASE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HELICARRIER_SECRET": "planted", "LD_PRELOAD": "/x.so"}


def notification(**fields: Any) -> AlertNotification:
    facts: dict[str, Any] = {
        "schema": "ambient.notification/1",
        "id": "n-1",
        "reason": AlertReason.ACTIVE,
        "at": "2026-11-20T12:00:00.000Z",
        "node": "edge-07",
        "rule_id": "r-1",
        "metric": AlertMetric.FAILURE_RATE,
        "scope": {"type": "global"},
        "status": AlertStatus.WARNING,
        "warn_threshold": 0.25,
        "critical_threshold": 0.5,
        "window": AlertWindow.HOUR,
        "comparison": AlertComparison.GTE,
        "triggered_at": "2026-11-20T12:00:00.000Z",
        "text": "failure_rate is 33% (limit 25%)",
        "value": 0.33,
    }
    return AlertNotification(**(facts | fields))


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", code, *arguments)


async def run(*argv: str, timeout: float = 20.0) -> Undelivered | None:
    notifier = CommandNotifier(argv=argv, base=BASE, timeout=timeout, attempts=1)
    with trio.fail_after(30):
        return await notifier.send(notification())


async def test_a_command_gets_the_notification_on_standard_input_and_a_scrubbed_environment(
    tmp_path: Path,
) -> None:
    out = tmp_path / "seen"
    code = (
        "import json,os,sys; seen={'in':json.load(sys.stdin),'env':dict(os.environ),'cwd':os.getcwd()};"
        "open(sys.argv[1],'w').write(json.dumps(seen))"
    )
    assert await run(*python(code, str(out))) is None
    seen = json.loads(out.read_text())
    assert seen["in"]["ruleId"] == "r-1"
    assert seen["in"]["text"] == "failure_rate is 33% (limit 25%)"
    assert seen["cwd"] == "/"
    assert seen["env"]["AMBIENT_ALERT_STATUS"] == "warning"
    assert not {"HELICARRIER_SECRET", "LD_PRELOAD"} & set(seen["env"])


async def test_arguments_are_taken_as_they_are_and_by_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "seen"
    code = "import sys; open(sys.argv[1],'w').write(sys.argv[2])"
    assert await run(*python(code, str(out), "$(touch /tmp/x); `id` *")) is None
    assert out.read_text() == "$(touch /tmp/x); `id` *"


async def test_a_failure_is_told_with_its_last_words_made_harmless() -> None:
    code = "import sys; sys.stderr.write('first\\nno such \\x1b[31mpager\\n'); sys.exit(3)"
    assert await run(*python(code)) == Undelivered("ended with 3: no such ?[31mpager")


async def test_a_signal_is_told() -> None:
    failure = await run(*python("import os,signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert failure == Undelivered("ended by signal 9")


async def test_a_program_that_does_not_exist_is_not_tried_again(tmp_path: Path) -> None:
    missing = await run(str(tmp_path / "nothing"))
    assert missing == Undelivered("cannot be started: no such file or directory", again=False)
    plain = tmp_path / "plain"
    plain.write_text("no program")
    plain.chmod(stat.S_IRUSR)
    refused = await run(str(plain))
    assert refused is not None
    assert refused.again is False


async def test_a_command_that_does_not_read_is_no_failure() -> None:
    assert await run(*python("pass")) is None


async def test_a_command_that_talks_without_end_is_read_and_forgotten() -> None:
    code = "import sys\nfor n in range(20000): sys.stderr.write('x'*1000+'\\n')\nsys.exit(1)"
    failure = await run(*python(code))
    assert failure is not None
    assert failure.reason.startswith("ended with 1: xxx")
    assert len(failure.reason) < 300


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_when_its_time_is_up_the_command_and_its_children_are_killed(tmp_path: Path) -> None:
    out = tmp_path / "pids"
    code = (
        "import os,subprocess,sys,time,signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child=subprocess.Popen([sys.executable,'-I','-c','import time; time.sleep(60)']);"
        "open(sys.argv[1]+'.new','w').write(f'{os.getpid()} {child.pid}');"
        "os.rename(sys.argv[1]+'.new',sys.argv[1]); time.sleep(60)"
    )
    notifier = CommandNotifier(argv=python(code, str(out)), base=BASE, timeout=1.0, attempts=1)
    with trio.move_on_after(20) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.send, notification())
            while not out.exists():
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    pids = [int(pid) for pid in out.read_text().split()]
    with trio.fail_after(5):
        while any(alive(pid) for pid in pids):
            await trio.sleep(0.05)


async def test_a_child_left_behind_by_a_command_that_ended_well_holds_nothing_up() -> None:
    code = "import subprocess,sys; subprocess.Popen([sys.executable,'-I','-c','import time; time.sleep(8)'])"
    began = time.monotonic()
    assert await run(*python(code)) is None
    assert time.monotonic() - began < 7


async def test_no_descriptor_is_left_open() -> None:
    await run(*python("pass"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await run(*python("import sys; sys.exit(1)"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("status", "level"),
    [("warning", "warning"), ("critical", "warning"), ("resolved", "info"), ("ok", "info")],
)
async def test_the_log_has_one_line_per_notification(status: str, level: str) -> None:
    log = ListLog()
    notifier = LogNotifier(info=log.info, warning=log.warning)
    assert await notifier.send(notification(status=AlertStatus(status))) is None
    ((found, event, facts),) = log.lines
    assert (found, event) == (level, "alert.active")
    assert facts["text"] == "failure_rate is 33% (limit 25%)"
    assert facts["severity"] == status
