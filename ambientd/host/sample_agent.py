"""Sample agents for `ambientd dev`: stand-alone, standard library only.

`work` reports for a few seconds in JSON lines and leaves an artifact; `family` starts a child in a session
of its own and waits, so that killing it can be watched; `clumsy` fails.
"""

import json
import os
import subprocess
import sys
import time

SECONDS = 5
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def say(kind: str, **facts: object) -> None:
    """One JSON line."""
    print(json.dumps({"type": kind, **facts}), flush=True)


def work(prompt: str) -> int:
    """Looks busy, reports usage and writes one artifact."""
    words = prompt.split()
    say("message", text=f"Got {len(words)} words. This takes about {SECONDS} seconds.")
    for step in range(1, SECONDS + 1):
        time.sleep(1)
        say("tool_call", tool="think", step=step, of=SECONDS)
        print(f"step {step} of {SECONDS}", file=sys.stderr, flush=True)
    folder = os.environ.get("AMBIENT_ARTIFACTS")
    if folder:
        with open(os.path.join(folder, "answer.txt"), "w", encoding="utf-8") as file:
            file.write(" ".join(reversed(words)) + "\n")
    tokens = len(prompt) // 4 + 1
    say("usage", prompt_tokens=tokens, completion_tokens=SECONDS * 7, cost_usd=round(tokens * 1e-5, 6))
    say("message", text="Done: " + " ".join(reversed(words[:12])))
    return 0


def family(_prompt: str) -> int:
    """A child that left for a session of its own and does not listen to TERM."""
    child = subprocess.Popen([sys.executable, "-I", "-c", CHILD], start_new_session=True)
    say("message", text=f"my child is process {child.pid}; both of us stay until somebody ends us")
    child.wait()
    return 0


def clumsy(_prompt: str) -> int:
    """Fails after a moment."""
    say("error", text="I dropped it.")
    return 3


def main() -> int:
    """Reads the prompt from standard input and acts as the named agent."""
    role = sys.argv[1] if len(sys.argv) > 1 else "work"
    return {"work": work, "family": family, "clumsy": clumsy}[role](sys.stdin.read())


if __name__ == "__main__":
    sys.exit(main())
