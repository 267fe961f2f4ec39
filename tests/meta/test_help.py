"""Every verb explains itself. Asked from outside, as a person asks."""

import os
import subprocess
import sys

import pytest

from tests.meta.tree import ROOT

VERBS = {
    "ambientctl": (
        "status",
        "agents",
        "spawn",
        "sessions",
        "sessions show",
        "sessions events",
        "kill",
        "policy",
        "policy list",
        "policy check",
        "policy import",
        "alerts",
        "alerts show",
        "alerts ack",
        "alerts mute",
        "alerts rules",
        "alerts rules add",
        "alerts test-notifier",
        "feed",
        "config",
        "check-config",
        "doctor",
        "model",
        "delta-v",
        "logs",
        "log-level",
        "reload",
        "migrate",
        "completion",
        "version",
    ),
    "ambientd": ("run", "dev", "check-config", "doctor", "migrate", "host-id", "feed", "config", "policy"),
}
CASES = [(program, verb) for program, verbs in VERBS.items() for verb in verbs]

# Usage line and the line of --help itself say nothing yet.
LEAST_LINES = 3


def ask(program: str, *arguments: str) -> str:
    if not (
        ROOT / {"ambientctl": "ambientctl/main.py", "ambientd": "ambientd/main/__init__.py"}[program]
    ).exists():
        pytest.skip(f"{program} has no entry point yet")
    script = ROOT / "packaging" / "scripts" / program
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    outcome = subprocess.run(
        [sys.executable, str(script), *arguments, "--help"],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    return outcome.stdout


@pytest.mark.parametrize("program", VERBS)
def test_help_of_a_program_lists_every_verb(program: str) -> None:
    told = ask(program)
    assert [verb for verb in VERBS[program] if " " not in verb and verb not in told.split()] == []


@pytest.mark.parametrize(("program", "verb"), CASES, ids=[" ".join(case) for case in CASES])
def test_every_verb_has_help(program: str, verb: str) -> None:
    told = ask(program, *verb.split())
    assert "usage:" in told.lower()
    assert len([line for line in told.splitlines() if line.strip()]) >= LEAST_LINES, told
