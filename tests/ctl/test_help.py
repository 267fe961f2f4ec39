import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ambientctl.cli import VERBS, root
from ambientctl.commands import handover
from ambientctl.status import Options
from tests.ctl.conftest import SCRIPT, Ctl, command, outside


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group, obj=Options())
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name)
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))


PATHS = [(), *_commands(root)]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_verb_has_help_with_an_example_on_80_columns(ctl: Ctl, path: tuple[str, ...]) -> None:
    for option in ("-h", "--help"):
        found = ctl(*path, option)
        assert (found.code, found.err) == (0, "")
        assert "Example:\n  ambientctl " in found.out
        assert all(len(line) <= 80 for line in found.out.splitlines())


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_example_is_understood(ctl: Ctl, path: tuple[str, ...]) -> None:
    examples = ctl(*path, "--help").out.partition("Example:\n")[2].splitlines()
    assert examples
    for line in examples:
        words = shlex.split(line.partition("| ambientctl ")[2] or line.partition("ambientctl ")[2])
        words = words[: words.index("|")] if "|" in words else words
        context = click.Context(root, obj=Options())
        command: click.Command = root
        while isinstance(command, click.Group) and words:
            found = command.get_command(context, words[0])
            if found is None:
                break
            command, words = found, words[1:]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # handed over word by word
        assert "--version" not in words, line
        parser = command.make_parser(click.Context(command, parent=context, obj=Options()))
        parser.parse_args(list(words))


def test_exactly_the_verbs_of_this_stage_are_shown(ctl: Ctl) -> None:
    found = ctl()
    assert found.code == 0
    listed = found.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(VERBS)
    assert {path[0] for path in PATHS if path} == set(VERBS)


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["stauts"], "Did you mean status?"),
        (["session"], "Did you mean sessions"),
        (["sessions", "event"], "Did you mean events?"),
        (["feed", "validat"], "Did you mean validate?"),
        (["qqqq"], "Known: status, agents,"),
    ],
)
def test_mistyped_verbs_name_their_neighbours(ctl: Ctl, argv: list[str], near: str) -> None:
    found = ctl(*argv)
    assert (found.code, found.out) == (2, "")
    assert near in found.err


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "--bogus"],
        ["-o", "xml", "status"],
        ["sessions", "-o"],
        ["agents", "--timeout", "soon"],
        ["agents", "--timeout", "-1"],
        ["agents", "extra"],
        ["completion", "tcsh"],
        ["sessions", "show"],
        ["--bogus"],
        ["--json"],
    ],
)
def test_wrong_usage_is_exit_2_with_nothing_on_standard_output(ctl: Ctl, argv: list[str]) -> None:
    found = ctl(*argv)
    assert (found.code, found.out) == (2, "")
    assert "Error: " in found.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(ctl: Ctl, shell: str) -> None:
    found = ctl("completion", shell)
    assert (found.code, found.err) == (0, "")
    assert f"_AMBIENTCTL_COMPLETE={shell}_complete" in found.out


def test_completion_knows_verbs_and_options() -> None:
    environment = {"_AMBIENTCTL_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words, expected in (
        ("ambientctl sessions ev", "plain,events"),
        ("ambientctl kill --y", "plain,--yes"),
    ):
        done = subprocess.run(
            command(),
            check=False,
            capture_output=True,
            timeout=60,
            env=outside("/nowhere", COMP_WORDS=words, **environment),
        )
        assert done.stdout.decode().split() == [expected]


# --- handing over


STAND_IN = """#!/bin/sh
for word; do echo "$word"; done
echo "socket=$AMBIENT_SOCKET"
exit 9
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program called ambientd that tells how it was called, beside a copy of the start script."""
    path = tmp_path / "ambientd"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    shutil.copy(SCRIPT, tmp_path / "ambientctl")
    return path


def _hand_over(stand_in: Path, *argv: str) -> tuple[int, list[str]]:
    line = [sys.executable, str(stand_in.with_name("ambientctl")), *argv]
    done = subprocess.run(line, check=False, capture_output=True, timeout=60, env=outside("/own.sock"))
    return done.returncode, done.stdout.decode().splitlines()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["feed", "validate", "--strict", "a file", "-x"], ["feed", "validate", "--strict", "a file", "-x"]),
        (["feed", "tail", "-f", "--json"], ["feed", "tail", "-f", "--json"]),
        (["--json", "feed", "drift"], ["feed", "drift", "--json"]),
        (["--json", "feed", "drift", "--json"], ["feed", "drift", "--json"]),
        (["config", "set", "node.name", "edge 07"], ["config", "set", "node.name", "edge 07"]),
        (["check-config", "--config", "/f"], ["check-config", "--config", "/f"]),
    ],
)
def test_verbs_of_the_daemon_are_handed_over_word_by_word(
    stand_in: Path, argv: list[str], words: list[str]
) -> None:
    code, lines = _hand_over(stand_in, *argv)
    assert (code, lines) == (9, [*words, "socket=/own.sock"])


def test_the_program_beside_this_one_is_taken_first(stand_in: Path, tmp_path: Path) -> None:
    assert handover.find_daemon(str(tmp_path / "ambientctl")) == str(stand_in)
    link = tmp_path / "elsewhere"
    link.mkdir()
    (link / "ambientctl").symlink_to(tmp_path / "ambientctl")
    assert handover.find_daemon(str(link / "ambientctl")) == str(stand_in)


def test_global_options_reach_it_as_environment() -> None:
    environment: dict[str, str] = {"NO_COLOR": "1"}
    options = Options()
    options.socket, options.color = "/x.sock", "always"
    handover._tell_environment(environment, options)
    assert environment == {"AMBIENT_SOCKET": "/x.sock", "FORCE_COLOR": "1"}


def test_a_missing_program_is_said(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "find_daemon", lambda _own: None)
    found = ctl("feed", "validate")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("Error: the program ambientd is not beside this one and not on PATH.\n")


def test_a_program_that_cannot_start_is_said(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "ambientd"
    broken.write_text("#!/nowhere/at/all\n")
    broken.chmod(0o755)
    monkeypatch.setattr(handover, "find_daemon", lambda _own: str(broken))
    assert "cannot be started: No such file or directory" in ctl("check-config").err


def test_version_json_names_the_schema(ctl: Ctl) -> None:
    assert json.loads(ctl("version", "--json").out)["schema"] == "ambient.version/1"
