"""Running a local session: what services ask of the machine.

A run lives in a folder of its own under the state directory and belongs to a shim process that outlives
the daemon. It is found again by the folder and the lock the shim holds there, never by a stored pid.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Resource limits of the agent's processes; None leaves the inherited limit."""

    memory: int | None = None
    processes: int | None = None
    file_size: int | None = None
    open_files: int | None = None
    cpu_time: int | None = None


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a shim needs. It travels over a pipe, never through argv or a file."""

    session_id: str
    attempt: int
    argv: tuple[str, ...]
    stdin: str
    environment: Mapping[str, str]
    workdir: str | None
    timeout: float
    grace: float
    output_limit: int
    line_limit: int
    limits: RunLimits = RunLimits()


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about an ended run, written by the shim (fsynced) before it lets go of its lock.

    `cause`: "exit" (the agent's main process ended by itself), "timeout", "ended" (asked to),
    "start_failed", or "lost" (written by the daemon: the shim is gone, `error` is "runner_lost"). `error` is
    a word: "not_found", "not_executable", "bad_workdir", "start_failed", "limits"; `message` says it for
    people. `output_bytes` is all that the agent wrote, `dropped_bytes` what of it was not kept.
    `survivors_ended` counts processes that the agent left behind and that were ended with it. `proof` is
    true when the kernel said that nothing of the tree is left.
    """

    cause: str
    started_at_ms: int | None
    ended_at_ms: int
    runtime_ms: int
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    message: str | None = None
    output_bytes: int = 0
    dropped_bytes: int = 0
    survivors_ended: int = 0
    proof: bool = True


class OutputLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line (or part of a too long line) of the agent's output, decoded with replacement."""

    at_ms: int
    stream: str  # "out" or "err"
    text: str
    partial: bool = False  # the line goes on in the next record


class OutputChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Lines from an offset on, and where the next read starts."""

    lines: tuple[OutputLine, ...]
    next_offset: int


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file directly or deeper in the session's artifacts folder."""

    name: str
    bytes: int
    sha256: str | None


class LaunchError(Exception):
    """The shim itself could not be started; the session may be tried again."""


class RunLink(Protocol):
    """A live run."""

    async def wait_news(self) -> None:
        """Returns when there may be new output or an end. Spurious returns are allowed."""

    async def started_at_ms(self) -> int | None:
        """When the agent process was started; None while it was not."""

    async def read_output(self, offset: int) -> OutputChunk:
        """A bounded chunk of output from `offset`; no lines when there is nothing new."""

    async def end(self, *, grace: float) -> None:
        """Asks the shim to end the whole tree: TERM, grace, KILL. Returns when the shim has said so.

        Raises UnavailableError when the shim does not answer in time. Repeating it is harmless.
        """

    async def result(self) -> RunResult | None:
        """The result once the run has ended, else None. Lost shims give a result with error
        "runner_lost"."""

    async def aclose(self) -> None:
        """Lets go of the link; the run goes on."""


class NeverStarted(msgspec.Struct, frozen=True):
    """The folder was claimed by us: no shim ever ran there and none can any more."""


class SessionRunner(Protocol):
    """Starts runs and finds them again."""

    async def launch(self, spec: RunSpec) -> RunLink:
        """Starts a shim; returns when it has claimed the folder. Raises LaunchError."""

    async def attach(self, session_id: str, attempt: int) -> RunLink | NeverStarted:
        """Finds a run after a restart: a live one, an ended one (its `result` is there at once), a lost
        one (`result` says "runner_lost"), or one that never started."""

    async def alive(self, limit: int) -> list[tuple[str, int]]:
        """Sessions whose shim holds its lock now, with the attempt; whatever the ledger knows of them.
        Raises OSError."""

    async def artifacts(self, session_id: str, limit: int) -> list[ArtifactFile]:
        """Files in the session's artifacts folder, by name."""

    async def discard(self, session_id: str) -> None:
        """Removes the session's folder."""
