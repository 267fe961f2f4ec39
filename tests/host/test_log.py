import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ambientd.config.schema import LogFormat, LogLevel
from ambientd.host import log
from ambientd.host.secrets import Secret

AT = datetime(2026, 11, 20, 15, 40, 3, 120_000, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
SECRET = "planted-secret-4711"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    root.handlers = handlers


def fail(error: Exception) -> NoReturn:
    local = "".join(("hid", "den"))
    assert local
    raise error


class Screen(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def set_up(
    stream: Any,
    log_format: LogFormat = LogFormat.JSON,
    level: LogLevel = LogLevel.INFO,
    environ: Mapping[str, str] | None = None,
) -> log.LogControl:
    return log.configure(
        level=level, log_format=log_format, now=lambda: AT, environ=environ or {}, stream=stream
    )


def documents(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_facts() -> None:
    out = io.StringIO()
    set_up(out)
    log.get_logger("dispatcher").bind(cycle=3).warning("slow cycle\nreally", took_ms=12.5, names=("a", "b"))
    assert out.getvalue().count("\n") == 1
    assert documents(out) == [
        {
            "ts": "2026-11-20T15:40:03.120Z",
            "level": "warning",
            "event": "slow cycle\nreally",
            "component": "dispatcher",
            "cycle": 3,
            "took_ms": 12.5,
            "names": ["a", "b"],
        }
    ]


def test_values_of_any_kind_are_written_and_bounded() -> None:
    out = io.StringIO()
    set_up(out)
    loop: list[Any] = []
    loop.append(loop)
    log.get_logger("x").info(
        "odd",
        nan=float("nan"),
        huge=10**5000,
        surrogate="\ud800",
        raw=b"\xff",
        secret=Secret(SECRET),
        loop=loop,
        at=AT,
        long="x" * 100_000,
        table={1: {2: None}},
        level_=LogLevel.INFO,
    )
    (line,) = documents(out)
    assert (line["nan"], line["huge"], line["secret"]) == ("nan", "a huge integer", "***")
    assert (line["at"], line["table"], line["level_"]) == (
        "2026-11-20T15:40:03.120Z",
        {"1": {"2": None}},
        "info",
    )
    assert len(out.getvalue()) <= log.MAX_LINE


def test_a_line_that_is_too_long_keeps_its_head() -> None:
    out = io.StringIO()
    set_up(out)
    log.get_logger("x").info("many", **{f"fact{number}": "y" * 4000 for number in range(30)})
    (line,) = documents(out)
    assert (line["event"], line["component"]) == ("many", "x")
    assert line["cut"] > log.MAX_LINE


def test_the_level_can_be_changed_for_loggers_that_exist_already() -> None:
    out = io.StringIO()
    control = set_up(out)
    logger = log.get_logger("x").bind(a=1)
    logger.debug("unseen")
    control.level = LogLevel.DEBUG
    logger.debug("seen")
    control.level = LogLevel.ERROR
    logger.warning("unseen")
    logger.error("seen too")
    assert [line["event"] for line in documents(out)] == ["seen", "seen too"]
    assert control.level is LogLevel.ERROR


def test_a_masked_secret_stands_nowhere_in_a_line() -> None:
    out = io.StringIO()
    control = set_up(out)
    control.mask(Secret(SECRET))
    control.mask(Secret(SECRET + "-longer"))
    control.mask(Secret("ab"))  # too short to be one
    logger = log.get_logger("x")
    try:
        fail(ValueError(f"bad token {SECRET}"))
    except ValueError:
        logger.exception(
            f"event {SECRET}-longer",
            fact=[{SECRET: f"x{SECRET}x"}],
            error=RuntimeError(SECRET),
            cut="z" * 4080 + SECRET,
        )
    assert "planted" not in out.getvalue()
    (line,) = documents(out)
    assert line["event"] == "event ***"
    assert line["exception"].endswith("ValueError: bad token ***")


def test_a_traceback_has_no_locals() -> None:
    out = io.StringIO()
    set_up(out)
    try:
        fail(ExceptionGroup("several", [KeyError(1), OSError("two")]))
    except ExceptionGroup:
        log.get_logger("x").exception("boom")
    (line,) = documents(out)
    assert line["level"] == "error"
    assert "KeyError: 1" in line["exception"]
    assert "OSError: two" in line["exception"]
    assert "hidden" not in line["exception"]


def test_people_get_one_readable_line_and_the_traceback_below() -> None:
    out = io.StringIO()
    set_up(out, LogFormat.HUMAN)
    logger = log.get_logger("x")
    logger.info("started\x1b[2J", name="two words", empty="", forged="a\nERROR b", number=3)
    try:
        fail(ValueError("no\x07"))
    except ValueError:
        logger.exception("boom")
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        '15:40:03.120 info     started\\x1b[2J  name="two words" empty="" forged="a\\nERROR b" number=3  [x]'
    )
    assert lines[1] == "15:40:03.120 error    boom  [x]"
    assert lines[2] == "    Traceback (most recent call last):"
    assert lines[-1] == "    ValueError: no\\x07"


@pytest.mark.parametrize(
    ("stream", "log_format", "environ", "start"),
    [
        (Screen, LogFormat.AUTO, {}, "\x1b[33m15:40"),
        (Screen, LogFormat.AUTO, {"NO_COLOR": "1"}, "15:40"),
        (Screen, LogFormat.JSON, {}, "{"),
        (io.StringIO, LogFormat.AUTO, {}, "{"),
        (io.StringIO, LogFormat.HUMAN, {}, "15:40"),
        (io.StringIO, LogFormat.AUTO, {"JOURNAL_STREAM": "1:2"}, "{"),
    ],
)
def test_the_form_follows_the_reader(
    stream: Callable[[], io.StringIO], log_format: LogFormat, environ: dict[str, str], start: str
) -> None:
    out = stream()
    set_up(out, log_format, environ=environ)
    log.get_logger("x").warning("hello")
    assert out.getvalue().startswith(start)


def test_lines_to_the_journal_begin_with_their_priority(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        facts = os.fstat(stream.fileno())
        set_up(stream, LogFormat.AUTO, LogLevel.DEBUG, {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"})
        logger = log.get_logger("x")
        for write in (logger.debug, logger.info, logger.warning, logger.error):
            write("hello")
    assert re.findall(r"^<(\d)>\{", path.read_text(), re.MULTILINE) == ["7", "6", "4", "3"]


def test_libraries_that_use_logging_come_out_in_the_same_form() -> None:
    out = io.StringIO()
    logging.getLogger().handlers = []  # pytest's own handler raises on a bad message
    set_up(out)
    set_up(out)
    logging.getLogger("some.library").warning("count %d", 3)
    logging.getLogger("some.library").error("bad %d", "x")
    logging.getLogger("some.library").info("unseen")
    lines = [(line["level"], line["event"], line["component"]) for line in documents(out)]
    assert lines == [("warning", "count 3", "some.library"), ("error", "bad %d", "some.library")]


def test_a_stream_that_is_closed_or_full_costs_lines_and_nothing_else() -> None:
    out = io.StringIO()
    out.close()
    control = set_up(out)
    log.get_logger("x").info("lost")
    with open("/dev/full", "w") as full:
        full_control = set_up(full)
        log.get_logger("x").info("lost")
        assert full_control.lost == 1
    assert control.lost == 1


def run(code: str, shell: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {sys.executable} -c '{code}' {shell}"
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


PROCESS = """
import sys
{first}
from datetime import datetime, UTC
from ambientd.host import log
from ambientd.config.schema import LogFormat, LogLevel
c = log.configure(level=LogLevel.INFO, log_format=LogFormat.AUTO, now=lambda: datetime.now(UTC), environ={{}})
log.get_logger("x").info("hello")
print("alive", c.lost)
"""


def test_a_closed_standard_error_does_not_end_the_process() -> None:
    assert run(PROCESS.format(first=""), "2>&-").stdout == "alive 1\n"


def test_a_standard_error_whose_reader_is_gone_does_not_end_the_process() -> None:
    assert run(PROCESS.format(first=""), "2> >(exit 0)").stdout.startswith("alive")


def test_closed_standard_streams_can_be_filled_so_that_no_file_takes_their_place() -> None:
    code = """
from ambientd.host.log import ensure_standard_streams
ensure_standard_streams()
with open("/etc/hostname" if False else "/proc/self/stat") as file:
    assert file.fileno() > 2, file.fileno()
"""
    assert run(code, "<&- >&- 2>&-").returncode == 0


def test_a_terminal_gets_the_human_form() -> None:
    main, side = pty.openpty()
    try:
        code = PROCESS.format(first="")
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stderr=side,
            stdout=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
        said = os.read(main, 4096).decode()
    finally:
        os.close(side)
        os.close(main)
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} info     hello", said)


def test_the_log_never_loads_rich_even_when_it_is_installed() -> None:
    code = """
import sys
from ambientd.host import log
import structlog, structlog.dev, structlog.tracebacks
roots = set(name.split(".")[0] for name in sys.modules)
assert not roots & set(["rich", "pygments", "twisted", "better_exceptions"]), roots
try:
    import rich
except ModuleNotFoundError as error:
    assert error.name == "rich" and "None in sys.modules" not in str(error)
"""
    done = run(code, "")
    assert done.returncode == 0, done.stderr
