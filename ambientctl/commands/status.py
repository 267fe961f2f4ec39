"""`status`: the screen that the daemon renders, once or again and again."""

import signal
import sys
from types import FrameType

import click

from ambientctl import status as once
from ambientctl import term
from ambientctl.cli import Verb
from ambientctl.client import load
from ambientctl.clock import sleep
from ambientctl.output import emit_document
from ambientctl.status import Options
from ambientctl.transport import Answer, AnswerError, AwayError
from ambientctl.trouble import CommandError, explain, refusal
from ambientd.wire import exits

WATCH_SEC = 2.0
WATCH_MIN_SEC = 0.2

_ENTER = b"\x1b[?1049h\x1b[?25l"
_LEAVE = b"\x1b[?25h\x1b[?1049l"


@click.command(
    cls=Verb, example="ambientctl status\nambientctl status --check >/dev/null || echo 'look at it'"
)
@click.option("--check", is_flag=True, help="Exit 10 when degraded, 11 when failing.")
@click.option("--short", is_flag=True, help="The first line only, for prompts.")
@click.option("--watch", is_flag=False, flag_value="2", metavar="[SECONDS]", help="Again and again.  [2]")
@click.pass_obj
def status(options: Options, *, check: bool, short: bool, watch: str | None) -> int:
    """This node on one screen: its heartbeat, ledger, agents, and problems with the command that helps.

    Exits 0 when the daemon answered, and 3 when it did not.
    """
    options.check, options.short = check, short
    if watch is not None:
        return _watch(options, _seconds(watch))
    if options.output == "tsv":
        return _as_tsv(options)
    return once.show_status(options)


def _seconds(text: str) -> float:
    seconds = once.parse_seconds(text)
    if seconds is None or seconds < WATCH_MIN_SEC:
        raise click.BadParameter(f"{text!r} is no time from {WATCH_MIN_SEC:g}s on", param_hint="--watch")
    return seconds


def _fetch(options: Options) -> Answer:
    try:
        answer = once.fetch(options)
    except (AwayError, AnswerError) as error:
        raise explain(error, options) from None
    if answer.status != 200:
        raise refusal(answer)
    return answer


def _as_tsv(options: Options) -> int:
    options.output = "json"
    answer = _fetch(options)
    options.output = "tsv"
    emit_document(options, load(answer.body) or {})
    return once.health_exit(answer, exits.FAILED) if options.check else exits.DONE


def _watch(options: Options, seconds: float) -> int:
    """Until Ctrl-C. A daemon that goes away later stays on the screen as being away."""
    answer: Answer | CommandError = _fetch(options)
    if options.is_json or not term.is_terminal(1):
        return _watch_plain(options, seconds, answer)
    signal.signal(signal.SIGTERM, _stop)
    term.put(_ENTER)
    try:
        while True:
            _draw(_text(options, answer))
            sleep(seconds)
            answer = _try_fetch(options)
    finally:
        term.put(_LEAVE)


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)  # through `finally`, so that the terminal is given back as it was


def _watch_plain(options: Options, seconds: float, answer: Answer | CommandError) -> int:
    while True:
        if isinstance(answer, CommandError):
            answer.show()
        else:
            once.show(answer, options)
            if not options.is_json:
                term.put(b"\n")
        sleep(seconds)
        answer = _try_fetch(options)


def _try_fetch(options: Options) -> Answer | CommandError:
    try:
        return _fetch(options)
    except CommandError as failure:
        return failure


def _text(options: Options, answer: Answer | CommandError) -> str:
    if isinstance(answer, CommandError):
        return "\n".join(answer.lines)
    text = answer.body.decode("utf-8", "replace").rstrip("\n")
    return text.encode("ascii", "replace").decode() if term.is_ascii() else text


def _draw(text: str) -> None:
    """Line by line over the old picture, so that nothing flickers; what does not fit is cut at the bottom."""
    lines = text.split("\n")
    room = term.height() - 1
    if len(lines) > room:
        lines = [*lines[: max(0, room - 1)], f"({len(lines) - room + 1} more lines)"]
    picture = "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
    term.put(picture.encode("utf-8", "replace"))
