"""The daemon's log on standard error: JSON lines, or for people on a terminal (DESIGN 4, LOOK Conventions).

Import this module before anything else imports structlog: it keeps rich and other optional packages that
structlog would load out of the process (28 ms and 3.8 MiB beside trio when rich is installed).
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Protocol, TextIO

from ambientd.config.schema import LogFormat, LogLevel
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.lean import without
from ambientd.host.logring import LogRing
from ambientd.host.secrets import MASK, Secret

# structlog takes these when they are installed and does without when they cannot be imported.
with without("rich", "better_exceptions", "colorama", "twisted"):
    import structlog

Event = MutableMapping[str, Any]

ENV_JOURNAL = "JOURNAL_STREAM"
# A line past 48 KiB is split by the journal.
MAX_LINE = 16 * 1024
_MAX_TEXT = 4 * 1024
_MAX_TRACEBACK = 8 * 1024
_MAX_ITEMS = 64
_MAX_DEPTH = 4
# Masking shorter ones would make a riddle of every line, and they are no secrets.
SHORTEST_MASKED = 6

_RANK = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
# RFC 5424 severities, as the journal reads them from `<n>`.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOUR = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_HEAD = ("ts", "level", "event", "component")
# Lines of control actions; no level leaves them out (R3.52).
AUDIT = "[AUDIT]"


class Logger(Protocol):
    """What callers use: an event in a few words, facts as keywords."""

    def bind(self, **facts: Any) -> "Logger": ...
    def debug(self, event: str, **facts: Any) -> Any: ...
    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...
    def exception(self, event: str, **facts: Any) -> Any: ...


class LogControl:
    """The handle on the running log: level, newest lines, masked secrets, lines that were not written.

    Implements `ports.logbook.LogBook`.
    """

    def __init__(self, level: LogLevel, monotonic: Callable[[], float] | None = None) -> None:
        """`monotonic` is needed for levels that end by themselves."""
        self._level = level
        self._raised: tuple[LogLevel, float] | None = None  # a level for a time, and when it ends
        self._monotonic = monotonic
        self._masked: tuple[str, ...] = ()
        self._ring = LogRing()
        self.lost = 0

    @property
    def level(self) -> LogLevel:
        """The least severe level that is logged; may be set at any time, for all loggers at once."""
        return self._level if self.left() is None or self._raised is None else self._raised[0]

    @level.setter
    def level(self, level: LogLevel) -> None:
        self._level = level

    @property
    def configured(self) -> LogLevel:
        """The level that holds when no temporary one does."""
        return self._level

    def left(self) -> float | None:
        """Seconds until a temporary level ends; None when there is none."""
        if self._raised is None or self._monotonic is None:
            return None
        left = self._raised[1] - self._monotonic()
        if left > 0:
            return left
        self._raised = None
        return None

    def set_level(self, level: LogLevel, seconds: float | None = None) -> None:
        """Logs from `level` on: for some seconds, after which the level before holds again by itself."""
        if seconds is None or self._monotonic is None:
            self._raised = None
            self._level = level
        else:
            self._raised = (level, self._monotonic() + seconds)

    @property
    def last_seq(self) -> int:
        """The number of the newest line."""
        return self._ring.last_seq

    def recent(self, *, level: LogLevel, after: int | None, limit: int) -> list[bytes]:
        """See `LogRing.entries`."""
        return self._ring.entries(rank=_RANK[level.value], after=after, limit=limit)

    def keep(self, event: Mapping[str, Any]) -> None:
        """Takes a finished line into the newest ones."""
        self._ring.add(event, _RANK.get(str(event.get("level")), _RANK["info"]))

    def mask(self, secret: Secret) -> None:
        """From now on the value of `secret` is `***` wherever it stands in a line (6 characters or more)."""
        value = secret.reveal()
        if len(value) >= SHORTEST_MASKED:
            self._masked = tuple(sorted({*self._masked, value}, key=lambda text: (-len(text), text)))

    def cleaned(self, text: str) -> str:
        """`text` with every masked secret replaced."""
        for value in self._masked:
            if value in text:
                text = text.replace(value, MASK)
        return text

    def is_logged(self, level: str) -> bool:
        """Whether a line of this level is written now."""
        return _RANK.get(level, _RANK["error"]) >= _RANK[self.level.value]


def get_logger(name: str) -> Logger:
    """A logger whose lines carry `component=name`.

    It may be made before `configure`, which then applies to it; what `bind` returns keeps the set-up of
    the moment (the level can be changed all the same).
    """
    logger: Logger = structlog.get_logger(component=name)
    return logger


def configure(
    *,
    level: LogLevel,
    log_format: LogFormat,
    now: Callable[[], datetime],
    environ: Mapping[str, str],
    stream: TextIO | None = None,
    monotonic: Callable[[], float] | None = None,
) -> LogControl:
    """Sets up the process's log and returns its control. May be repeated; the last call counts.

    `stream` is standard error unless given; None there (closed at start) means that lines are dropped.
    Under systemd, when the stream is the journal's, each line begins with `<priority>`. Messages of
    libraries that use `logging` (warnings and worse) come out in the same form.
    """
    out = stream if stream is not None else sys.stderr
    control = LogControl(level, monotonic)
    human = _is_human(log_format, out)
    render = _Human(colour=_has_colours(out, environ)) if human else _render_json
    writer = _Writer(out, control, prefix=_is_journal(out, environ))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Stamp(control, now),
            _Plain(control),
            _Keep(control),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    _take_over_logging()
    return control


class _Keep:
    """Puts the line among the newest ones, before it is made into text."""

    def __init__(self, control: LogControl) -> None:
        self._control = control

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        self._control.keep(event)
        return event


class _Stamp:
    """First of all: is it logged at all, and when."""

    def __init__(self, control: LogControl, now: Callable[[], datetime]) -> None:
        self._control = control
        self._now = now

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        level = "error" if method == "exception" else method
        if not self._control.is_logged(level) and event.get("event") != AUDIT:
            raise structlog.DropEvent
        event["ts"] = rfc3339_ms(self._now())
        event["level"] = level
        return event


class _Plain:
    """Turns whatever was logged into bounded, masked values of JSON's kinds; exceptions into text."""

    def __init__(self, control: LogControl) -> None:
        self._control = control

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        trace = _traceback(event.pop("exc_info", None))
        plain: Event = {name: self._plain(event.pop(name), 0) for name in _HEAD if name in event}
        for name in list(event)[:_MAX_ITEMS]:
            plain[self._text(str(name), _MAX_TEXT)] = self._plain(event[name], 0)
        if trace:
            plain["exception"] = self._text(trace, _MAX_TRACEBACK)
        return plain

    def _text(self, text: str, limit: int) -> str:
        # Masked before it is cut, so that no half of a secret stays.
        text = self._control.cleaned(text)
        return text if len(text) <= limit else text[:limit] + "…"

    def _plain(self, value: object, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if abs(value) < 2**63 else "a huge integer"
        if isinstance(value, float):
            return value if value - value == 0 else str(value)
        if isinstance(value, str):
            return self._text(str(value), _MAX_TEXT)
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            items = list(value.items())[:_MAX_ITEMS]
            return {self._text(str(key), _MAX_TEXT): self._plain(item, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)) and depth < _MAX_DEPTH:
            return [self._plain(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
        if isinstance(value, datetime) and value.tzinfo is not None:
            return rfc3339_ms(value)
        return self._text(str(value), _MAX_TEXT)


def _traceback(exc_info: object) -> str:
    """The traceback without locals; source lines and messages only."""
    if exc_info is True:
        exc_info = sys.exc_info()[1]
    elif isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if not isinstance(exc_info, BaseException):
        return ""
    return "".join(traceback.format_exception(exc_info, limit=20)).rstrip()


def _render_json(_logger: object, _method: str, event: Event) -> str:
    line = json.dumps(event, separators=(",", ":"))
    if len(line) <= MAX_LINE:
        return line
    short = {name: event[name] for name in _HEAD if name in event}
    return json.dumps({**short, "cut": len(line)}, separators=(",", ":"))


class _Human:
    """`15:40:03.120 warning  the event  key=value`; the traceback below it."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _logger: object, _method: str, event: Event) -> str:
        level, trace = str(event.pop("level")), event.pop("exception", "")
        head = f"{str(event.pop('ts'))[11:23]} {level:<7}  {_one_line(str(event.pop('event', '')))}"
        component = event.pop("component", None)
        facts = [f"{_one_line(name)}={_fact(value)}" for name, value in event.items()]
        line = "  ".join(
            [head, *([" ".join(facts)] if facts else []), *([f"[{component}]"] if component else [])]
        )
        start = _COLOUR.get(level, "") if self._colour else ""
        line = f"{start}{line[:MAX_LINE]}\x1b[0m" if start else line[:MAX_LINE]
        return "\n".join([line, *("    " + _one_line(part) for part in str(trace).split("\n") if part)])


def _fact(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = _one_line(text)
    return f'"{text}"' if not text or " " in text else text


def _one_line(text: str) -> str:
    """Control characters escaped: no logged value can forge a line or move the cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Writer:
    """One write per line; a stream that is closed, full or gone costs the line and nothing else.

    Lines go past the stream's own buffer: a line that could not be written must not stay in it and come
    back with the next one, or fail the exit.
    """

    def __init__(self, stream: TextIO | None, control: LogControl, *, prefix: bool) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._control = control
        self._prefix = prefix

    def _write(self, line: str, level: str) -> None:
        line = f"<{_PRIORITY[level]}>{line}\n" if self._prefix else line + "\n"
        try:
            if self._fd is not None:
                rest = line.encode(errors="backslashreplace")
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            elif self._stream is not None:
                self._stream.write(line)
            else:
                self._control.lost += 1
        except (OSError, ValueError):  # ValueError: a closed stream
            self._control.lost += 1

    def debug(self, line: str) -> None:
        """One line of this level; so do the methods below."""
        self._write(line, "debug")

    def info(self, line: str) -> None:
        self._write(line, "info")

    def warning(self, line: str) -> None:
        self._write(line, "warning")

    def error(self, line: str) -> None:
        self._write(line, "error")

    def critical(self, line: str) -> None:
        self._write(line, "critical")


class _FromLogging(logging.Handler):
    """Lines of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        level = max((name for name in _RANK if _RANK[name] <= max(record.levelno, 10)), key=_RANK.__getitem__)
        write = getattr(structlog.get_logger(component=record.name), level)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        write(message, exc_info=record.exc_info)


def _take_over_logging() -> None:
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _FromLogging)]
    root.addHandler(_FromLogging(logging.WARNING))


def _is_human(log_format: LogFormat, stream: TextIO | None) -> bool:
    if log_format is not LogFormat.AUTO:
        return log_format is LogFormat.HUMAN
    return stream is not None and _is_terminal(stream)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _has_colours(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Only for eyes: `human` into a file stays plain."""
    return stream is not None and not environ.get("NO_COLOR") and _is_terminal(stream)


def _is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """JOURNAL_STREAM names the device and inode of the journal's pipe; a shell inside a service inherits
    the variable, so it is compared."""
    named, fd = environ.get(ENV_JOURNAL), _descriptor(stream)
    if not named or fd is None:
        return False
    try:
        facts = os.fstat(fd)
    except OSError:
        return False
    return named == f"{facts.st_dev}:{facts.st_ino}"


def _descriptor(stream: TextIO | None) -> int | None:
    """The stream's descriptor; None when there is none (a stream in memory, or closed)."""
    try:
        return stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        return None


def ensure_standard_streams() -> None:
    """Opens /dev/null in place of closed descriptors 0 to 2, so that no database is ever opened as
    standard error. For the first line of a program."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is `fd`
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
