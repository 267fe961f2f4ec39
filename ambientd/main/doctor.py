"""`ambientd doctor`: every check with its verdict and what helps, without needing the daemon."""

import argparse
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from ambientd import __version__
from ambientd.core.doctor import CHECKS, EXIT_OF, Finding, Made, chosen, fail, health_of, render
from ambientd.core.statustext import Look
from ambientd.core.text import printable
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.clock import SystemClock
from ambientd.main.config_print import complain
from ambientd.main.doctor_checks import ALL, look_around
from ambientd.wire import exits, places
from ambientd.wire.doctor_messages import SCHEMA_DOCTOR, CheckView, DoctorReport

# Of each check; they are made at the same time.
CHECK_SEC = 2.0
_HELP = """\
Looks at everything that a node needs and says of each whether it works and, if not, what helps. Needs no
daemon and changes nothing; where a daemon runs, it is asked for what it holds.
"""

_MORE = f"""\
checks: {", ".join(dict.fromkeys(name.partition(".")[0] for name in CHECKS))}

exit codes: 0 all is well, 10 with warnings, 11 with failures
examples:
  ambientd doctor
  ambientd doctor --only gateway --json
"""


def run(argv: Sequence[str]) -> int:
    """The verb; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="ambientd doctor",
        description=_HELP,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="only these checks")
    parser.add_argument("--only", action="append", default=[], metavar="CHECK", help="only this check")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--config", metavar="FILE", help="the main configuration file")
    parser.add_argument("--state-dir", metavar="DIR", help="the state directory")
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    wanted, unknown = chosen([*options.checks, *options.only])
    if unknown:
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in CHECKS))
        complain(f"Error: {printable(unknown[0])!r} is not a check. Known: {known}.")
        return exits.USAGE
    named = {places.ENV_CONFIG: options.config, places.ENV_STATE: options.state_dir}
    environ = {**os.environ, **{name: value for name, value in named.items() if value}}
    return _report(wanted, environ, as_json=options.json)


def _report(wanted: Sequence[str], environ: Mapping[str, str], *, as_json: bool) -> int:
    clock = SystemClock()
    began = clock.monotonic()
    scene = look_around(environ, os.getuid(), clock, seconds=CHECK_SEC * 0.75)
    made = make({name: partial(ALL[name], scene) for name in wanted}, clock.monotonic, CHECK_SEC)
    health = health_of(made)
    if as_json:
        views = [
            CheckView(
                id=one.id,
                result=one.finding.result,
                text=one.finding.text,
                took_ms=one.took_ms,
                remedy=one.finding.remedy,
            )
            for one in made
        ]
        report = DoctorReport(SCHEMA_DOCTOR, rfc3339_ms(clock.now()), __version__, health, views)
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.write(render(made, clock.monotonic() - began, _look(environ)))
    sys.stdout.flush()
    return EXIT_OF[health]


def make(
    checks: Mapping[str, Callable[[], Finding]], monotonic: Callable[[], float], seconds: float
) -> list[Made]:
    """All checks at the same time, in their order; one that has not ended in time has failed.

    Each has a thread that nobody waits for at the end: a file system may hang for ever.
    """
    began = monotonic()
    done: queue.SimpleQueue[Made] = queue.SimpleQueue()

    def work(name: str, check: Callable[[], Finding]) -> None:
        finding = fail("the check itself broke; standard error has more")
        try:
            finding = check()
        finally:
            done.put(Made(name, finding, round((monotonic() - began) * 1000)))

    for name, check in checks.items():
        threading.Thread(target=work, args=(name, check), daemon=True).start()
    found: dict[str, Made] = {}
    while len(found) < len(checks):
        try:
            one = done.get(timeout=max(0.0, began + seconds - monotonic()))
        except queue.Empty:
            break
        found[one.id] = one
    late = fail(f"no result within {seconds:g} s")
    return [found.get(name) or Made(name, late, round(seconds * 1000)) for name in checks]


def _look(environ: Mapping[str, str]) -> Look:
    forced = environ.get("FORCE_COLOR", "") not in ("", "0")
    colour = forced or (sys.stdout.isatty() and environ.get("TERM") != "dumb")
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return Look(colour=colour and not environ.get("NO_COLOR"), ascii_only=encoding != "utf8")
