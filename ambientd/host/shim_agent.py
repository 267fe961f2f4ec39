"""Starting the agent: what the kernel is given, the child's half of the start, and why it failed.

Part of the stand-alone shim: standard library only, no `ambientd`.
"""

from __future__ import annotations

import errno
import os
import resource
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def become_agent(
    plan: dict[str, Any], streams: tuple[int, int, int], report: int, tie: Callable[[], None]
) -> NoReturn:
    """The child's half of a start: becomes the agent, or writes `<stage> <errno>` and exits.

    `tie` makes the agent die with the shim; it raises OSError when the shim is dead already.
    """
    stage = "start"
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        tie()
        for wanted, descriptor in enumerate(streams):
            os.dup2(descriptor, wanted)
        os.umask(0o077)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        stage = "workdir"
        os.chdir(plan["workdir"])
        stage = "limits"
        for kind, value in plan["limits"]:
            resource.setrlimit(kind, (value, value))
        stage = "exec"
        execute(plan)
    except OSError as error:
        os.write(report, f"{stage} {error.errno}".encode())
    except (ValueError, MemoryError):
        os.write(report, f"{stage} {errno.EINVAL}".encode())
    finally:
        os._exit(127)


def execute(plan: dict[str, Any]) -> None:
    """Replaces this process by the first candidate that can run; raises OSError of the best failure.

    A missing file that is there after all is a script whose interpreter is missing: ELIBBAD says so.
    """
    failure = OSError(errno.ENOENT, "not found")
    for path in plan["candidates"]:
        try:
            os.execve(path, plan["argv"], plan["environment"])  # noqa: S606 - no shell is the point
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR} and not os.path.exists(path):
                continue
            failure = OSError(errno.ELIBBAD if error.errno == errno.ENOENT else error.errno, "failed")
            if error.errno != errno.EACCES:
                break
    raise failure


START_WORDS = {
    errno.ENOENT: ("not_found", "the program was not found"),
    errno.ENOTDIR: ("not_found", "the program was not found"),
    errno.EACCES: ("not_executable", "the program may not be executed, or is a directory"),
    errno.ENOEXEC: ("not_executable", "the program is neither a binary nor a script with a #! line"),
    errno.ELIBBAD: ("not_executable", "the interpreter that the program names does not exist"),
}


def explain(report: bytes, program: str) -> tuple[str, str]:
    """Error word and sentence for what the child reported."""
    stage, _, number = report.decode().partition(" ")
    code = int(number)
    if stage == "workdir":
        return "bad_workdir", f"the working directory cannot be entered: {os.strerror(code)}"
    if stage == "limits":
        return "limits", f"a resource limit cannot be set: {os.strerror(code)}"
    if stage == "exec" and code in START_WORDS:
        word, sentence = START_WORDS[code]
        return word, f"{sentence}: {program}"
    if stage == "exec" and code in {errno.EPERM, errno.ELOOP, errno.ETXTBSY, errno.EISDIR}:
        return "not_executable", f"{os.strerror(code)}: {program}"
    return "start_failed", f"{os.strerror(code)}: {program}"


def plan_agent(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec as the kernel takes it. Raises ValueError with a sentence that holds no value."""
    argv = [os.fsencode(item) for item in spec["argv"]]
    environment = {os.fsencode(key): os.fsencode(value) for key, value in spec["environment"].items()}
    texts = [*argv, *environment.keys(), *environment.values()]
    if not argv or not argv[0] or any(b"\0" in text for text in texts):
        raise ValueError("the command is empty, or a NUL character is in the command or environment")
    if any(not key or b"=" in key for key in environment):
        raise ValueError("an environment variable has no name, or a name with = in it")
    search = environment.get(b"PATH", b"/usr/bin:/bin").split(b":")
    places = [argv[0]] if b"/" in argv[0] else [d + b"/" + argv[0] for d in search if d.startswith(b"/")]
    return {
        "argv": argv,
        "environment": environment,
        "candidates": places,
        "workdir": os.fsencode(spec["workdir"] or os.getcwd() + "/work"),
        "limits": plan_limits(spec.get("limits") or {}),
    }


def plan_limits(wanted: dict[str, int | None]) -> list[tuple[int, int]]:
    """Resource limits; a wish above what this process may have becomes what it may have."""
    kinds = {
        "memory": resource.RLIMIT_AS,
        "processes": resource.RLIMIT_NPROC,
        "file_size": resource.RLIMIT_FSIZE,
        "open_files": resource.RLIMIT_NOFILE,
        "cpu_time": resource.RLIMIT_CPU,
    }
    limits = [(resource.RLIMIT_CORE, 0)]
    for name, kind in kinds.items():
        value = wanted.get(name)
        if value is not None:
            hard = resource.getrlimit(kind)[1]
            limits.append((kind, value if hard == resource.RLIM_INFINITY else min(value, hard)))
    return sorted(limits, key=lambda item: item[0] == resource.RLIMIT_AS)  # last: Python must still run


def make_stdin(text: str) -> int:
    """The prompt as a rewound file in memory: readable at any pace, never on disk."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    rest = memoryview(text.encode("utf-8", "replace"))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
