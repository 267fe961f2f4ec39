"""Telling somebody of an alert on this machine: the daemon's log, and a command."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import trio

from ambientd.core.agent_output import scrub_environment
from ambientd.core.text import cut, printable
from ambientd.ports.notifier import Undelivered
from ambientd.wire.alert_messages import AlertNotification
from ambientd.wire.enums import AlertReason, AlertStatus

# What a command says about its failure is shown in one line; more than this is read and thrown away.
SAID_MAX = 4096
SHOWN_MAX = 200
# After the command has ended its last words are there, unless a child of it still holds the pipe.
LAST_WORDS_SEC = 0.5
REAP_SEC = 5.0
_PASSING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY})


class LogNotifier:
    """Implements `ports.notifier.Notifier`: one line in the daemon's own log."""

    kind = "log"
    timeout = 5.0
    attempts = 1

    def __init__(self, *, info: Callable[..., object], warning: Callable[..., object]) -> None:
        self._info = info
        self._warning = warning

    async def send(self, notification: AlertNotification) -> Undelivered | None:
        """Writes the line; a critical alert and a warning as a warning."""
        await trio.lowlevel.checkpoint()
        loud = notification.status in (AlertStatus.WARNING, AlertStatus.CRITICAL)
        say = self._warning if loud else self._info
        say(
            f"alert.{notification.reason.value}",
            rule=notification.rule_id,
            severity=notification.status.value,
            text=notification.text,
            notification=notification.id,
        )
        return None


class CommandNotifier:
    """Implements `ports.notifier.Notifier`: a program, without a shell, that reads it on standard input.

    It runs in a session of its own, in `/`, with a scrubbed environment; when its time is up, or the daemon
    stops, everything in that session is killed.
    """

    kind = "command"

    def __init__(
        self, *, argv: Sequence[str], base: Mapping[str, str], timeout: float, attempts: int
    ) -> None:
        """`base` is the daemon's own environment, of which only harmless variables are passed on."""
        self._argv = list(argv)
        self._base = base
        self.timeout = timeout
        self.attempts = attempts

    async def send(self, notification: AlertNotification) -> Undelivered | None:
        """One run; None when it ended with 0."""
        try:
            process = await trio.lowlevel.open_process(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=scrub_environment(self._base, _variables(notification)),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or "error").lower()
            return Undelivered(f"cannot be started: {reason}", again=error.errno in _PASSING)
        try:
            said = await _converse(process, msgspec.json.encode(notification))
        finally:
            await _end(process)
        if process.returncode == 0:
            return None
        return Undelivered(_outcome(process.returncode or 0) + (f": {said}" if said else ""))


def _variables(notification: AlertNotification) -> dict[str, str]:
    return {
        "AMBIENT_ALERT_REASON": notification.reason.value,
        "AMBIENT_ALERT_STATUS": notification.status.value,
        "AMBIENT_ALERT_RULE": notification.rule_id,
        "AMBIENT_ALERT_TEST": "1" if notification.reason is AlertReason.TEST else "0",
    }


async def _converse(process: trio.Process, payload: bytes) -> str:
    """Hands the payload over and waits for the end; returns the last line of what it complained."""
    kept = bytearray()
    heard = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hand_over, process, payload)
        nursery.start_soon(_listen, process, kept, heard)
        await process.wait()
        with trio.move_on_after(LAST_WORDS_SEC):
            await heard.wait()
        nursery.cancel_scope.cancel()
    lines = bytes(kept).decode(errors="replace").strip().splitlines()
    return cut(printable(lines[-1]), SHOWN_MAX) if lines else ""


async def _hand_over(process: trio.Process, payload: bytes) -> None:
    """A program that does not want to read it may leave it."""
    if process.stdin is None:
        raise AssertionError("standard input is a pipe")
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await process.stdin.send_all(payload)
        await process.stdin.aclose()


async def _listen(process: trio.Process, kept: bytearray, heard: trio.Event) -> None:
    if process.stderr is None:
        raise AssertionError("standard error is a pipe")
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while part := await process.stderr.receive_some(SAID_MAX):
            kept += part
            del kept[:-SAID_MAX]
    heard.set()


async def _end(process: trio.Process) -> None:
    """Kills what is left of a program whose time is up, and lets go of its pipes."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            # Not waited for yet, so the number is still its own, and its group's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(REAP_SEC):
                await process.wait()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                await pipe.aclose()


def _outcome(code: int) -> str:
    return f"ended by signal {-code}" if code < 0 else f"ended with {code}"
