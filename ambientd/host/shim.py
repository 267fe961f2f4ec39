"""The shim: owns one agent's process tree, spools its output, and outlives the daemon (CONTRACT 3).

Run as `python -I -S -B shim.py --folder DIR` with the spec on standard input and the answer on standard
output, or as `shim.py --socket` with both on the stream socket that is descriptor 0 (a socket-activated
unit). The spec is `<length>\\n` and that many bytes of JSON: the fields of `ports.runner.RunSpec`, and
`folder` for the socket. It carries the prompt and secrets, so it is never in argv and never on disk.

Standard library only, and all of it imported here: the files below a running shim may be replaced. What it
leaves in the folder is read by `host/run_folder.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from ambientd.host.shim_agent import become_agent, explain, make_stdin, plan_agent
    from ambientd.host.shim_control import Control, seconds
    from ambientd.host.shim_folder import RefusedError, claim, enter, note_started, write_result
    from ambientd.host.shim_spool import Source, Spool, wall_ms
    from ambientd.host.shim_tree import (
        PR_SET_CHILD_SUBREAPER,
        PR_SET_DUMPABLE,
        die_with_parent,
        prctl,
        signal_tree,
    )
else:
    # Isolated mode leaves the program's own folder out of the path. Last, so that no file of ours can
    # stand in for one of the standard library.
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    from shim_agent import become_agent, explain, make_stdin, plan_agent
    from shim_control import Control, seconds
    from shim_folder import RefusedError, claim, enter, note_started, write_result
    from shim_spool import Source, Spool, wall_ms
    from shim_tree import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, die_with_parent, prctl, signal_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SPEC_LIMIT = 32 * 1024 * 1024  # the API's body limit and room for escapes
SPEC_PATIENCE = 10.0
TERM_ROUNDS = 3  # a process that is forked while TERM goes round is found in the next one
FREEZE_ROUNDS = 8
STOP_GRACE = 10.0  # below the unit's TimeoutStopSec, so that the result is written before systemd's KILL
FIRST_SWEEP_PAUSE, LONGEST_SWEEP_PAUSE = 0.005, 0.25
KILL_PATIENCE = 30.0  # then a process that cannot die (uninterruptible) is reported instead of waited for
RESULT_PATIENCE = 24 * 3600.0
FIRST_RESULT_PAUSE, LONGEST_RESULT_PAUSE = 0.1, 30.0
PIPE_SIZE = 256 * 1024
DRAIN_ROUNDS = 64  # reads after the end, in case someone outside the tree still holds the pipe
LONGEST_WAIT = 3600.0
PROGRAM_SHOWN = 200  # characters of the command that a message repeats


class Shim:
    """One run, from a claimed folder (the current directory) to its result."""

    def __init__(self, spec: dict[str, Any], wake: int) -> None:
        self._spec = spec
        self._wake = wake
        self._poller = select.poll()
        self._control = Control(self._poller)
        self._spool = Spool(int(spec["output_limit"]))
        self._sources: dict[int, Source] = {}
        self._handlers: dict[int, Callable[[], None]] = {}
        self._program = str(spec["argv"][0])[:PROGRAM_SHOWN]
        self._agent = 0
        self._status: int | None = None  # of the agent's main process, as waitpid gives it
        self._report = -1
        self._failure: tuple[str, str] | None = None
        self._began = time.monotonic()
        self._timeout_at = self._began + float(spec["timeout"])
        self._grace = float(spec["grace"])
        self._started_ms: int | None = None
        self._cause: str | None = None  # set when the end begins
        self._kill_at = 0.0
        self._sweep_at = 0.0
        self._pause = FIRST_SWEEP_PAUSE
        self._survivors: set[tuple[int, int]] = set()
        self._gone = False
        self._proof = True
        self._result: dict[str, Any] | None = None
        self._impatient = False

    # --- life

    def run(self) -> None:
        """Starts the agent and returns when its result is written, or cannot be."""
        self._watch(self._wake, self._woken)
        self._watch(self._control.listener, self._control.accept)
        self._start()
        while not self._gone:
            self._turn()
            self._reap()
            self._advance(time.monotonic())
        self._finish()

    def abandon(self) -> None:
        """After a fault of our own: nothing of the tree may stay behind unowned."""
        for _ in range(FREEZE_ROUNDS):
            signal_tree(signal.SIGKILL, set())
            self._reap()

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poller.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        del self._handlers[descriptor]
        self._poller.unregister(descriptor)

    def _turn(self, until: float | None = None) -> None:
        """Waits for one round of things and does them; output is written once per round."""
        before = self._spool.size
        for descriptor, _ in self._poller.poll(self._wait_ms(until)):
            handler = self._handlers.get(descriptor)
            if handler:
                handler()
            else:
                self._serve(descriptor)
        self._spool.flush()
        if self._spool.size != before:
            self._control.changed = True
        self._control.tell(time.monotonic(), self._news())

    def _wait_ms(self, until: float | None) -> int:
        now = time.monotonic()
        times = [now + LONGEST_WAIT]
        if until is not None:
            times.append(until)
        elif self._cause is None:
            times.append(self._timeout_at)
        else:
            times.append(self._sweep_at)
        news_at = self._control.due_at()
        if news_at is not None:
            times.append(news_at)
        return max(0, int((min(times) - now) * 1000) + 1)

    # --- start

    def _start(self) -> None:
        try:
            os.makedirs("work", exist_ok=True)
            plan = plan_agent(self._spec)
            streams = (make_stdin(self._spec["stdin"]), self._pipe(b"o"), self._pipe(b"e"))
            self._report, report = os.pipe()
            self._fork(plan, streams, report)
        except OSError as error:
            self._failure, self._gone = ("start_failed", f"no process: {error.strerror}"), True
        except ValueError as error:
            self._failure, self._gone = ("start_failed", str(error)), True
        else:
            self._watch(self._report, self._heard)
        self._spec = {}  # the prompt and the secrets have been handed over

    def _fork(self, plan: dict[str, Any], streams: tuple[int, int, int], report: int) -> None:
        os.set_blocking(self._report, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._agent = os.fork()
            if self._agent == 0:
                become_agent(plan, streams, report, die_with_parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for descriptor in (*streams, report):
                os.close(descriptor)

    def _pipe(self, stream: bytes) -> int:
        """One output pipe; returns the agent's end."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        widen(ours)
        self._sources[ours] = Source(ours, stream, int(self._spec["line_limit"]), self._spool)
        self._watch(ours, lambda: self._pull(ours))
        return theirs

    def _heard(self) -> None:
        """The report pipe closes when the agent's program runs, or tells why it cannot."""
        try:
            told = os.read(self._report, 64)
        except BlockingIOError:
            return
        self._unwatch(self._report)
        os.close(self._report)
        self._report = -1
        self._control.changed = True
        if told:
            self._failure = explain(told, self._program)
            return
        self._started_ms = wall_ms()
        note_started(self._started_ms)

    # --- things that happen

    def _pull(self, descriptor: int) -> None:
        if not self._sources[descriptor].pull():
            self._close_source(descriptor)

    def _close_source(self, descriptor: int) -> None:
        self._unwatch(descriptor)
        self._sources.pop(descriptor).close()

    def _woken(self) -> None:
        numbers = os.read(self._wake, 512)
        if signal.SIGTERM in numbers:  # the unit is being stopped
            self._impatient = True
            self._end("ended", min(self._grace, STOP_GRACE))

    def _serve(self, descriptor: int) -> None:
        for request in self._control.requests(descriptor):
            self._control.say(descriptor, self._answer(request))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        verb = request.get("verb")
        if verb == "end":
            self._end("ended", seconds(request.get("grace"), self._grace))
            return {"ok": True}
        if verb == "status":
            return {"ok": True, "agent_pid": self._agent or None, **self._news(), "result": self._result}
        return {"ok": False, "error": "unknown verb"}

    def _news(self) -> dict[str, Any]:
        return {
            "started_at_ms": self._started_ms,
            "ending": self._cause,
            "output": self._spool.size,
            "ended": self._result is not None,
        }

    def _reap(self) -> None:
        """Takes in every dead process of the tree. No children at all is the kernel's proof of the end:
        whatever the tree's processes leave behind becomes our child."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._agent:
                    self._status = status
        except ChildProcessError:
            self._gone = True

    # --- the end

    def _end(self, cause: str, grace: float) -> None:
        """Begins the end, or hastens it."""
        now = time.monotonic()
        if self._cause is not None:
            self._kill_at = min(self._kill_at, now + grace)
            self._sweep_at = min(self._sweep_at, self._kill_at)
            return
        self._cause = cause
        self._kill_at = self._sweep_at = now + grace
        reached: set[tuple[int, int]] = set()
        for _ in range(TERM_ROUNDS):
            fresh = self._signal(signal.SIGTERM, reached)
            if not fresh:
                break
            reached |= fresh
        self._control.changed = True

    def _signal(self, number: int, skip: set[tuple[int, int]]) -> set[tuple[int, int]]:
        reached = signal_tree(number, skip)
        if self._status is not None:
            self._survivors |= reached
        return reached

    def _advance(self, now: float) -> None:
        if self._gone:
            return
        if self._cause is None and self._status is not None:
            self._end("exit", self._grace)
        elif self._cause is None and now >= self._timeout_at:
            self._end("timeout", self._grace)
        elif self._cause is not None and now >= self._sweep_at:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Stops everything first, so that a fork bomb cannot outrun the signals, then kills it."""
        frozen: set[tuple[int, int]] = set()
        for _ in range(FREEZE_ROUNDS):
            fresh = self._signal(signal.SIGSTOP, frozen)
            if not fresh:
                break
            frozen |= fresh
        self._signal(signal.SIGKILL, set())
        self._sweep_at = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_SWEEP_PAUSE)
        if now > self._kill_at + KILL_PATIENCE:
            self._proof, self._gone = False, True

    def _finish(self) -> None:
        if self._report in self._handlers:
            self._heard()
        for descriptor in list(self._sources):
            for _ in range(DRAIN_ROUNDS):
                before = self._spool.read
                if not self._sources[descriptor].pull() or self._spool.read == before:
                    break
                self._spool.flush()
            self._close_source(descriptor)
        self._spool.flush()
        self._spool.sync()
        self._result = self._conclude()
        self._deliver()

    def _conclude(self) -> dict[str, Any]:
        now = wall_ms()
        ran = self._started_ms is not None
        error, message = self._failure or (None, None)
        status = self._status if ran else None
        return {
            "cause": "start_failed" if self._failure else self._cause or "exit",
            "started_at_ms": self._started_ms,
            "ended_at_ms": max(now, self._started_ms or now),
            "runtime_ms": int((time.monotonic() - self._began) * 1000) if ran else 0,
            "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            "error": error,
            "message": message,
            "output_bytes": self._spool.read,
            "dropped_bytes": self._spool.dropped,
            "survivors_ended": len(self._survivors),
            "proof": self._proof,
        }

    def _deliver(self) -> None:
        """Writes the result; while the disk refuses it, the control socket tells it."""
        give_up_at = time.monotonic() + RESULT_PATIENCE
        pause = FIRST_RESULT_PAUSE
        while not write_result(self._result) and not self._impatient and time.monotonic() < give_up_at:
            self._control.changed = True
            until = time.monotonic() + pause
            while time.monotonic() < until and not self._impatient:
                self._turn(until)
            pause = min(pause * 2, LONGEST_RESULT_PAUSE)
        self._control.changed = True
        self._control.tell(time.monotonic() + LONGEST_WAIT, self._news())
        try:
            os.unlink("ctl")
        except FileNotFoundError:
            return


# --- the program


def read_spec(descriptor: int) -> dict[str, Any]:
    """The length-bounded spec, within a deadline. Raises RefusedError."""
    deadline = time.monotonic() + SPEC_PATIENCE
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data, length = bytearray(), None
    while length is None or len(data) < length:
        if not poller.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise RefusedError("the spec did not arrive in time")
        piece = os.read(descriptor, 1024 * 1024)
        if not piece:
            raise RefusedError("the spec ended early")
        data += piece
        if length is None and b"\n" in data[:16]:
            head, _, data = data.partition(b"\n")
            length = int(head) if head.isdigit() else -1
        if len(data) > 16 if length is None else not 0 < length <= SPEC_LIMIT:
            raise RefusedError("the spec has no length, or too much of it")
    try:
        spec = json.loads(bytes(data[:length]))
    except ValueError:
        raise RefusedError("the spec is not JSON") from None
    if not isinstance(spec, dict):
        raise RefusedError("the spec is not an object")
    return spec


def widen(pipe: int) -> None:
    """A longer pipe means fewer rounds; the usual length serves too."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        return


def open_descriptors() -> None:
    """Descriptors 0 to 2 exist and nothing else does: what a launcher forgot to close ends here."""
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that the listing itself used
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open("/dev/null", os.O_RDWR)
    os.close(descriptor)


def cut_loose(*descriptors: int) -> None:
    """The launcher has its answer; from here on it may go."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)


def prepare_process() -> int:
    """Makes this process a shim; returns the descriptor on which signals are told."""
    os.umask(0o077)
    if os.getpgrp() != os.getpid():  # the leader of a group cannot; a launcher has done it then
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)  # the prompt and the secrets pass through this memory
    wake, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTERM, signal.SIGCONT}
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
    for number in signal.valid_signals() - kept - faults:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return wake


def main(arguments: list[str]) -> int:
    """The program. Exit status: 0 after a run, 75 when it must not start here, 2 for wrong usage."""
    by_socket = arguments == ["--socket"]
    if not by_socket and (len(arguments) != 2 or arguments[0] != "--folder"):
        return 2
    open_descriptors()
    answer_to = 0 if by_socket else 1
    try:
        wake = prepare_process()
        spec = read_spec(0)
        enter(spec["folder"] if by_socket else arguments[1])
        shim = Shim(spec, wake)
        claim()
    except (RefusedError, OSError, KeyError, TypeError, ValueError) as error:
        say(answer_to, {"answer": "refused", "reason": f"{type(error).__name__}: {error}"})
        return 75
    say(answer_to, {"answer": "claimed", "pid": os.getpid()})
    cut_loose(0, 1)
    whole = False
    try:
        shim.run()
        whole = True
    finally:
        if not whole:
            os.dup2(os.open("shim.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            shim.abandon()
    return 0


def say(descriptor: int, answer: dict[str, Any]) -> None:
    """Answers the launcher, if it is still there."""
    try:
        os.write(descriptor, json.dumps(answer).encode() + b"\n")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
