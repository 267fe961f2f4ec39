import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ambientd.config.reference import reference_rows
from ambientd.config.template import default_file
from ambientd.main.config import run_check_config, run_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a main file that is not there yet, in an environment without other settings."""
    for name in [name for name in os.environ if name.startswith("AMBIENT")]:
        monkeypatch.delenv(name)
    path = tmp_path / "etc" / "ambient.toml"
    path.parent.mkdir()
    monkeypatch.setenv("AMBIENT_CONFIG", str(path))
    return path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_check_config_names_its_sources_when_all_is_well(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(main, '[log]\nlevel = "debug"\n')
    write(main.parent / "conf.d" / "20-gw.toml", '[node]\nname = "x"\n')
    assert run_check_config([]) == 0
    assert capsys.readouterr().out == f"Configuration is valid: {main}, conf.d/20-gw.toml.\n"


def test_check_config_prints_every_problem_and_exits_78(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(main, '[log]\nlevel = "loud"\n')
    write(main.parent / "conf.d" / "20-gw.toml", '[dispatcher]\nintervall = "5s"\n')
    assert run_check_config([]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    levels = '"debug", "info", "warning", "error"'
    unknown = "dispatcher.intervall is not a setting"
    assert err.splitlines() == [
        f'Error: {main}: log.level is "loud", but must be one of {levels}. (line 2)',
        f"Error: conf.d/20-gw.toml: {unknown}. Did you mean dispatcher.interval? (line 2)",
    ]


def test_check_config_in_json_is_one_document(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main, "[dispatcher]\ninterval = 60\n")
    assert run_check_config(["--json"]) == 78
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert (document["schema"], document["ok"]) == ("ambient.config-check/1", False)
    assert document["generatedAt"].endswith("Z")
    (problem,) = document["problems"]
    assert (problem["path"], problem["line"], problem["value"]) == ("dispatcher.interval", 2, "60")
    assert problem["suggestion"] == '"60s"'
    assert set(problem) == {"where", "line", "column", "path", "value", "expected", "suggestion", "message"}


def test_a_named_file_must_be_there_and_an_unnamed_one_need_not(
    main: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_check_config(["--config", str(main)]) == 78
    assert capsys.readouterr().err == f"Error: {main}: does not exist.\n"
    monkeypatch.delenv("AMBIENT_CONFIG")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(main.parent))
    assert run_check_config([]) == 0
    assert "defaults only" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--nonsense"], ["extra"]])
def test_wrong_usage_is_2(main: Path, argv: list[str]) -> None:
    assert run_check_config(argv) == 2
    assert run_config(argv) == 2
    assert run_config([]) == 2


@pytest.mark.parametrize(
    "argv", [["--help"], ["show", "--help"], ["init", "-h"], ["set", "-h"], ["path", "-h"]]
)
def test_help_is_0(main: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert run_config(argv) == 0
    assert "usage: ambientd config" in capsys.readouterr().out


def test_show_prints_every_setting_as_toml_with_secrets_masked(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = main.parent / "secret.env"
    write(secret, "TOKEN=planted-1\n")
    text = (
        f'[agents.a]\ncommand = ["x"]\nenvironment_file = "{secret}"\nenvironment = {{ KEY = "planted-2" }}\n'
        '[alerts.notifiers.a]\nkind = "webhook"\nurl = "https://hooks.example.net/planted-3"\n'
    )
    write(main, text)
    assert run_config(["show", "--origin"]) == 0
    out = capsys.readouterr().out
    assert "planted" not in out
    shown = tomllib.loads(out)
    assert shown["agents"]["a"]["environment"] == {"KEY": "***"}
    assert shown["dispatcher"]["interval"] == "60s"
    for row in reference_rows():
        assert row.key.replace("<id>", "a") in out
    lines = [re.split(r" {2,}# ", line) for line in out.splitlines() if line.startswith("agents.a.command")]
    assert lines == [['agents.a.command = ["x"]', str(main)]]
    assert re.search(r"^dispatcher.interval = \"60s\" +# default$", out, re.MULTILINE)


def test_show_in_json_has_every_value_and_origin(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main, '[node]\nname = "x"\n[agents."a.b"]\ncommand = ["x"]\nenvironment = { KEY = "planted" }\n')
    assert run_config(["show", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    settings = {setting["key"]: setting for setting in document["settings"]}
    assert document["schema"] == "ambient.config/1"
    assert settings["node.name"] == {"key": "node.name", "value": "x", "origin": str(main)}
    assert settings["sessions.output_limit"]["value"] == "16MiB"
    assert settings['agents."a.b".environment.KEY']["value"] == "***"
    assert settings['agents."a.b".workdir'] == {
        "key": 'agents."a.b".workdir',
        "value": None,
        "origin": "default",
    }


def test_show_of_a_broken_configuration_is_78(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main, "x = 1\n")
    assert run_config(["show"]) == 78
    assert capsys.readouterr().err == f"Error: {main}: x is not a setting. (line 1)\n"
    assert run_config(["show", "--json"]) == 78
    assert json.loads(capsys.readouterr().out)["problems"]


def test_path_lists_the_files_in_order(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main.parent / "conf.d" / "2.toml", "# fine\n")
    write(main.parent / "conf.d" / "1.toml", "")
    assert run_config(["path"]) == 0
    folder = main.parent / "conf.d"
    assert capsys.readouterr().out == f"{main}  (refused)\n{folder}/1.toml  (refused)\n{folder}/2.toml\n"
    assert run_config(["path", "--json"]) == 0
    states = [file["state"] for file in json.loads(capsys.readouterr().out)["files"]]
    assert states == ["refused", "refused", "read"]


def test_init_writes_a_private_file_once(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0)
    try:
        assert run_config(["init"]) == 0
    finally:
        os.umask(before)
    assert main.read_text() == default_file()
    assert stat.S_IMODE(main.stat().st_mode) in {0o600, 0o640}
    assert run_check_config([]) == 0
    write(main, "# mine\n", 0o644)
    assert run_config(["init"]) == 6
    assert main.read_text() == "# mine\n"
    assert "already there" in capsys.readouterr().err
    assert run_config(["init", "--force"]) == 0
    assert main.read_text() == default_file()
    assert stat.S_IMODE(main.stat().st_mode) == 0o644


def test_init_writes_where_it_is_told(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_config(["init", "-"]) == 0
    assert capsys.readouterr().out == default_file()
    other = main.parent / "deep" / "other.toml"
    assert run_config(["init", str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(other)
    assert other.read_text() == default_file()
    assert not main.exists()


def test_init_follows_no_link_and_replaces_no_folder(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = main.parent / "victim"
    victim.write_text("precious")
    main.symlink_to(victim)
    assert run_config(["init"]) == 6
    assert run_config(["init", "--force"]) == 1
    assert run_config(["init", str(main.parent), "--force"]) == 1
    assert victim.read_text() == "precious"
    assert "not a regular file" in capsys.readouterr().err


EXISTING = """\
# first comment
[dispatcher]   # the loop
interval = "60s"   # every minute
actor = "d"

# about the log
[log]
level = 'info'

[agents.reviewer]
command = [
  "my-agent",  # program
  "--fast",
]
environment = { A = "1" }
"""


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("dispatcher.interval", "30s", 'interval = "60s"   #', 'interval = "30s"   #'),
        ("log.level", "debug", "level = 'info'", 'level = "debug"'),
        ("log.format", "json", "[log]\n", '[log]\nformat = "json"\n'),
        (
            "agents.reviewer.max_concurrent",
            "3",
            "[agents.reviewer]\n",
            "[agents.reviewer]\nmax_concurrent = 3\n",
        ),
        ("agents.reviewer.environment.A", "2", 'A = "1"', 'A = "2"'),
    ],
)
def test_set_changes_one_setting_and_keeps_all_else(
    main: Path, key: str, value: str, old: str, new: str
) -> None:
    write(main, EXISTING, 0o640)
    assert run_config(["set", key, value]) == 0
    assert main.read_text() == EXISTING.replace(old, new)
    assert stat.S_IMODE(main.stat().st_mode) == 0o640
    assert os.listdir(main.parent) == ["ambient.toml"]


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("node.name", "7", {"node": {"name": "7"}}),
        ("heartbeat.enabled", "false", {"heartbeat": {"enabled": False}}),
        ("agents.x.command", '["a", "{prompt}"]', {"agents": {"x": {"command": ["a", "{prompt}"]}}}),
        ("agents.x", '{command = ["a"]}', {"agents": {"x": {"command": ["a"]}}}),
    ],
)
@pytest.mark.parametrize("text", [None, "# mine\n", "# mine\r\n", default_file(), "node.host_id = 'name'\n"])
def test_set_adds_what_is_not_there(main: Path, text: str | None, key: str, value: str, read: Any) -> None:
    if text is not None:
        write(main, text)
    assert run_config(["set", key, value]) == 0
    expected = tomllib.loads((text or "").replace("\r\n", "\n"))
    for name, table in read.items():
        expected[name] = {**expected.get(name, {}), **table}
    assert tomllib.loads(main.read_text()) == expected
    assert main.read_bytes().startswith((text or "").encode()[:8])


def test_set_uses_the_place_that_the_default_file_prepared(main: Path) -> None:
    assert run_config(["init"]) == 0
    assert run_config(["set", "dispatcher.interval", "30s"]) == 0
    assert main.read_text() == default_file().replace("#[dispatcher]", "[dispatcher]").replace(
        '#interval = "60s"', 'interval = "30s"', 1
    )


@pytest.mark.parametrize(
    ("key", "value", "code", "said"),
    [
        ("dispatcher.intervall", "30s", 78, "Did you mean dispatcher.interval?"),
        ("dispatcher.interval", "60", 78, 'Did you mean "60s"?'),
        ("log", "info", 78, "must be a table of settings"),
        ("", "x", 2, "not a dotted key"),
        ("a b", "x", 2, "not a dotted key"),
        ("agents.new.timeout", "5m", 78, "agents.new.command is missing"),
        ("agents.reviewer.model", "x\0", 78, "without NUL"),
    ],
)
def test_set_refuses_what_would_not_be_valid_and_changes_nothing(
    main: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, code: int, said: str
) -> None:
    write(main, EXISTING)
    assert run_config(["set", key, value]) == code
    assert said in capsys.readouterr().err
    assert main.read_text() == EXISTING


def test_set_refuses_a_file_it_cannot_read(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main, "broken [\n")
    assert run_config(["set", "log.level", "info"]) == 1
    main.unlink()
    main.symlink_to("/etc/hostname")
    assert run_config(["set", "log.level", "info"]) == 78
    assert "symbolic link" in capsys.readouterr().err
    assert main.is_symlink()


def test_set_says_when_another_layer_wins(
    main: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(main, EXISTING)
    monkeypatch.setenv("AMBIENT__LOG__LEVEL", "error")
    assert run_config(["set", "log.level", "debug"]) == 0
    assert "environment AMBIENT__LOG__LEVEL sets log.level too, and wins" in capsys.readouterr().err
    assert run_config(["set", "log.level", "debug", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overriddenBy"] == "environment AMBIENT__LOG__LEVEL"


def test_set_waits_for_no_other_editor(main: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(main, EXISTING)
    folder = os.open(main.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert run_config(["set", "log.level", "debug"]) == 1
    finally:
        os.close(folder)
    assert "another process is changing it" in capsys.readouterr().err
    assert main.read_text() == EXISTING


def test_a_failed_write_leaves_the_file_and_nothing_else(
    main: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(main, EXISTING)

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run_config(["set", "log.level", "debug"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert main.read_text() == EXISTING
    assert os.listdir(main.parent) == ["ambient.toml"]


def test_a_reader_that_leaves_early_is_no_error(main: Path) -> None:
    code = "import sys; from ambientd.main.config import run_config; sys.exit(run_config(['show']))"
    command = f'"{sys.executable}" -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    write(main, EXISTING)
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_but_set_loads_the_editing_library(main: Path) -> None:
    write(main, EXISTING)
    code = (
        "import sys; from ambientd.main.config import run_config, run_check_config; "
        "assert run_check_config([]) == 0 and run_config(['show']) == 0; "
        "assert 'tomlkit' not in sys.modules and 'structlog' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)
