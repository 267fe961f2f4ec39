"""`status` and `version`: the short way, without click, json or socket; click calls the same functions."""

import os
import sys

from ambientctl import term
from ambientctl.transport import Answer, AnswerError, AwayError, exchange
from ambientd import __version__
from ambientd.wire import exits, places

PATH = "/api/system/status"
TIMEOUT_SEC = 10.0
TIMEOUT_MAX_SEC = 86400.0
# What the daemon renders at most.
WIDE_COLUMNS = 200

_SWITCHES = ("--json", "--check", "--short", "--version")
_TAKING = ("--socket", "--timeout", "--color", "--output", "-o")
_HEALTH_EXITS = {"ok": exits.DONE, "degraded": exits.DEGRADED, "failing": exits.FAILING}


class Options:
    """The global options, and those of `status`, with their defaults. `timeout` is in seconds."""

    __slots__ = ("check", "color", "output", "short", "socket", "timeout")

    def __init__(self) -> None:
        self.socket: str | None = None
        self.output = "table"
        self.timeout: float | None = None
        self.color = "auto"
        self.check = False
        self.short = False

    @property
    def limit(self) -> float:
        """Seconds one exchange may take."""
        return TIMEOUT_SEC if self.timeout is None else self.timeout

    @property
    def sockets(self) -> tuple[str, ...]:
        """Where to look for the daemon: `--socket` alone, else the places of this environment."""
        return (self.socket,) if self.socket else places.client_sockets(os.environ, os.geteuid())

    @property
    def is_json(self) -> bool:
        """Whether standard output is for programs."""
        return self.output in ("json", "jsonl")


def recognise(argv: list[str]) -> tuple[str, Options] | None:
    """The verb and its options when the short way can serve it; None leaves it (and every error) to click."""
    options, verb, rest = Options(), "", iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word in _SWITCHES:
            verb = _switch(word, options, verb)
        elif name in _TAKING and not (equals and name == "-o"):
            if not _take(name, value if equals else next(rest, None), options):
                return None
        elif not verb and word in ("status", "version"):
            verb = word
        else:
            return None
    if verb == "version" and (options.check or options.short):
        return None
    return (verb, options) if verb else None


def _switch(word: str, options: Options, verb: str) -> str:
    if word == "--json":
        options.output = "json"
    elif word == "--check":
        options.check = True
    elif word == "--short":
        options.short = True
    else:
        return "version"
    return verb


def _take(name: str, value: str | None, options: Options) -> bool:
    if value is None:
        return False
    if name == "--socket":
        options.socket = value
    elif name == "--timeout":
        options.timeout = parse_seconds(value)
        return options.timeout is not None
    elif name == "--color":
        options.color = value
        return value in ("auto", "always", "never")
    else:
        options.output = value
        return value in ("table", "wide", "json", "jsonl")
    return True


def parse_seconds(text: str) -> float | None:
    """`10`, `2.5`, `10s`, `2m`, `1h` as seconds, at most a day; None for anything else."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= TIMEOUT_MAX_SEC else None


def fetch(options: Options) -> Answer:
    """The status as text or JSON. Raises AwayError, AnswerError."""
    if options.is_json:
        target, accept = PATH, "application/json"
    else:
        wish = WIDE_COLUMNS if options.output == "wide" else term.width() or term.DEFAULT_WIDTH
        target = (
            f"{PATH}?width={min(wish, WIDE_COLUMNS)}&color={term.has_color(options.color):d}"
            f"&ascii={term.is_ascii():d}&short={options.short:d}"
        )
        accept = "text/plain"
    return exchange(options.sockets, target, accept=accept, limit=options.limit, version=__version__)


def show_status(options: Options) -> int:
    """Prints the status once; the exit code. Raises BrokenPipeError and what writing raises."""
    try:
        answer = fetch(options)
    except (AwayError, AnswerError) as error:
        from ambientctl.trouble import explain

        return explain(error, options).show()
    if answer.status != 200:
        from ambientctl.trouble import refusal

        code = refusal(answer).show()
        return health_exit(answer, code) if options.check else code
    show(answer, options)
    return health_exit(answer, exits.FAILED) if options.check else exits.DONE


def show(answer: Answer, options: Options) -> None:
    """The answer's body on standard output, ending in exactly one line break."""
    body = answer.body.rstrip(b"\n") + b"\n"
    if not options.is_json and not body.isascii() and term.is_ascii():
        body = body.decode("utf-8", "replace").encode("ascii", "replace")
    term.put(body)


def health_exit(answer: Answer, otherwise: int) -> int:
    """The exit code of `--check`; an answer without a known health word counts as `otherwise`."""
    return _HEALTH_EXITS.get(answer.headers.get("x-ambient-health", ""), otherwise)


def show_version(options: Options) -> int:
    """Prints this program's version; asks no daemon."""
    if options.is_json:
        from ambientctl.clock import stamp

        term.put(
            f'{{"schema":"ambient.version/1","generatedAt":"{stamp()}","version":"{__version__}",'
            f'"python":"{sys.version.split()[0]}"}}\n'.encode()
        )
    else:
        term.put(f"ambientctl {__version__}\n".encode())
    return exits.DONE
