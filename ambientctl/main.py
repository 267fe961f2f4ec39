"""The start of `ambientctl`. `status` and `version` take a short way; every other verb goes through click."""

import os
import sys

from ambientctl import status, term
from ambientd.wire import exits

# Set by the shell's completion script; click answers it.
COMPLETING = "_AMBIENTCTL_COMPLETE"


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code (CONTRACT 1).

    Without `argv` (the start script) the process ends here: taking modules down one by one costs more
    CPU than a whole `status`, and nothing is left to be written.
    """
    code = _run(sys.argv[1:] if argv is None else argv)
    if argv is None:
        _flush()
        os._exit(code)
    return code


def _run(argv: list[str]) -> int:
    try:
        found = None if COMPLETING in os.environ else status.recognise(argv)
        if found is None:
            from ambientctl.cli import run

            return run(argv)
        verb, wish = found
        return status.show_status(wish) if verb == "status" else status.show_version(wish)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        _let_go_of_stdout()
        return exits.DONE
    except OSError as error:
        return _cannot_write(error)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            continue


def _let_go_of_stdout() -> None:
    """The reader went away (`| head`): no message, and nothing left that could fail at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _cannot_write(error: OSError) -> int:
    """A full disk behind `>` is the likeliest."""
    _let_go_of_stdout()
    term.complain(f"Error: the output could not be written: {error.strerror or error}")
    return exits.FAILED
