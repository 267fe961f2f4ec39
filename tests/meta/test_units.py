"""The systemd units are well-formed and as closed as measured (FAULTS S1). Needs systemd-analyze."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ambientd.app.control_plane import DRAIN_SEC
from ambientd.host.shim import STOP_GRACE
from ambientd.wire import exits, places
from tests.meta.tree import ROOT

UNITS = ROOT / "systemd"
TEMPLATE = "ambient-executor@.service"
PLANE = "ambient-control-plane.service"
DAEMONS = ("ambientd.service", PLANE)

# Tenths of systemd's exposure level. The executor runs foreign programs, with just-in-time compilers.
EXPOSURE = {"ambientd.service": 12, PLANE: 11, TEMPLATE: 15}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="changing owners needs root")


def settings(name: str) -> dict[str, list[str]]:
    """Keys with all their values, sections left out: no key of ours stands in two of them."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose program exists: the checker refuses units of programs that are not installed."""
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/ambientd", "/bin/true"))
    python = Path("/usr/bin/python3")
    if not python.exists():
        template = tmp_path / TEMPLATE
        template.write_text(template.read_text().replace(str(python), "/bin/true"))
    return tmp_path


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@needs_systemd
def test_the_checker_has_nothing_to_say(units: Path) -> None:
    # it ends with 0 on a misspelt key, so any output at all is a failure
    names = [*DAEMONS, "ambientd.socket", "ambient-executor.socket", "ambient-executor@1.service"]
    outcome = run("systemd-analyze", "verify", "--man=no", *(str(units / name) for name in names))
    assert (outcome.returncode, outcome.stdout) == (0, "")


@needs_systemd
def test_the_checker_sees_a_misspelt_key(units: Path) -> None:
    unit = units / "ambientd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in run("systemd-analyze", "verify", "--man=no", str(unit)).stdout


@needs_systemd
@pytest.mark.parametrize("name", EXPOSURE)
def test_exposure_is_no_higher_than_measured(units: Path, name: str) -> None:
    limit = EXPOSURE[name]
    outcome = run("systemd-analyze", "security", "--offline=yes", f"--threshold={limit}", str(units / name))
    assert outcome.returncode == 0, outcome.stdout


@needs_systemd
@needs_root
def test_users_groups_and_folders_are_made_as_the_contract_says(tmp_path: Path) -> None:
    for name in ("passwd", "group"):
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc" / name).touch()
    users = run("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "sysusers.d" / "ambient.conf"))
    folders = run(
        "systemd-tmpfiles", "--create", f"--root={tmp_path}", str(UNITS / "tmpfiles.d" / "ambient.conf")
    )
    assert (users.returncode, folders.returncode) == (0, 0), users.stdout + folders.stdout
    groups = (tmp_path / "etc" / "group").read_text()
    assert re.search(r"^ambient:", groups, re.MULTILINE)
    assert re.search(r"^ambient-admin:", groups, re.MULTILINE)
    assert re.search(
        r"^ambient:.*:/var/lib/ambient/home:.*nologin$", (tmp_path / "etc/passwd").read_text(), re.MULTILINE
    )
    assert (tmp_path / "run/ambient").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc/ambient").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "etc/ambient/ambient.toml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc/ambient/ambient.toml").read_text().startswith("#")
    assert re.search(
        r"^ambient-control-plane:.*nologin$", (tmp_path / "etc/passwd").read_text(), re.MULTILINE
    )
    assert (tmp_path / "var/lib/ambient-control-plane").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "etc/ambient-control-plane/ambient.toml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", DAEMONS)
def test_a_crashing_daemon_is_always_started_again(name: str) -> None:
    text = (UNITS / name).read_text()
    unit_section = text.partition("\n[Service]\n")[0]
    assert "StartLimitIntervalSec=0" in unit_section, "in [Service] it would be silently ignored"
    assert settings(name)["Restart"] == ["always"]
    assert settings("ambientd.socket")["TriggerLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("name", DAEMONS)
def test_only_a_wrong_configuration_waits_for_somebody(name: str) -> None:
    assert settings(name)["RestartPreventExitStatus"] == [str(exits.CONFIG)]


def test_what_comes_before_the_control_planes_start_cannot_keep_systemd_trying() -> None:
    """RestartPreventExitStatus= is about the main process alone."""
    assert [command[0] for command in settings(PLANE)["ExecStartPre"]] == ["-"]


def test_the_control_plane_has_longer_to_stop_than_it_waits_for_requests() -> None:
    assert float(settings(PLANE)["TimeoutStopSec"][0].removesuffix("s")) > 2 * DRAIN_SEC


def test_agents_cannot_read_what_signs_policies() -> None:
    """They run as the node's user."""
    assert settings(PLANE)["User"] != settings("ambientd.service")["User"]
    assert settings(PLANE)["StateDirectoryMode"] == ["0700"]


def test_agents_see_of_the_state_their_folders_and_their_home() -> None:
    executor, daemon = settings(TEMPLATE), settings("ambientd.service")
    assert executor["TemporaryFileSystem"] == ["/var/lib/ambient:ro"]
    bound = executor["BindPaths"][0].split()
    assert bound == ["/var/lib/ambient/sessions", "/var/lib/ambient/home"]
    made = [f"/var/lib/{name}" for name in daemon["StateDirectory"][0].split()]
    assert set(bound) < set(made), "a folder that is not there would keep every session from starting"
    assert "ReadWritePaths" not in executor
    assert executor["InaccessiblePaths"] == ["-/run/ambient -/run/credentials -/etc/ambient"]


def test_the_daemon_is_told_of_the_executors_socket() -> None:
    (place,) = settings("ambient-executor.socket")["ListenStream"]
    assert settings("ambientd.service")["Environment"] == [f"{places.ENV_EXECUTOR}={place}"]


def test_no_unit_needs_a_program_that_a_minimal_system_lacks() -> None:
    there = {"/usr/bin/python3", "/usr/bin/ambientd", "/bin/sh"}
    for path in UNITS.glob("*.service"):
        for key, values in settings(path.name).items():
            if key.startswith("Exec"):
                assert {value.lstrip("-").split()[0] for value in values} <= there


def test_readiness_and_the_watchdog_are_the_daemons_own_word() -> None:
    for name, watchdog in zip(DAEMONS, ("180s", "60s"), strict=True):
        assert settings(name)["Type"] == ["notify"]
        assert settings(name)["WatchdogSec"] == [watchdog]


def test_the_control_socket_is_for_its_group_and_the_executors_for_the_daemon_alone() -> None:
    control, executor = settings("ambientd.socket"), settings("ambient-executor.socket")
    assert control["ListenStream"] == ["/run/ambient/ambientd.sock"]
    assert (control["SocketGroup"], control["SocketMode"]) == (["ambient"], ["0660"])
    assert (executor["SocketUser"], executor["SocketMode"]) == (["ambient"], ["0600"])
    assert executor["Accept"] == ["yes"]


def test_the_sockets_outlive_the_service_whose_folder_they_lie_in() -> None:
    assert settings("ambientd.service")["RuntimeDirectoryPreserve"] == ["yes"]


def test_agents_run_outside_the_daemons_sandbox_and_without_a_limit_of_time() -> None:
    executor = settings(TEMPLATE)
    assert "MemoryDenyWriteExecute" not in executor
    assert "RuntimeMaxSec" not in executor
    assert executor["KillMode"] == ["mixed"], "to all at once, the agent's end would look like its own"
    assert float(executor["TimeoutStopSec"][0].removesuffix("s")) > STOP_GRACE
    assert executor["StandardInput"] == ["socket"]
    assert executor["User"] == ["ambient"]


def test_the_executor_starts_a_file_that_the_package_has() -> None:
    (command,) = settings(TEMPLATE)["ExecStart"]
    found = re.fullmatch(r"-/usr/bin/python3 -I -S -B /usr/lib/ambient/(ambientd/\S+\.py) --socket", command)
    assert found
    assert (ROOT / found[1]).exists()


def test_no_unit_names_a_credential_that_may_be_missing() -> None:
    for path in UNITS.glob("*.service"):
        assert not {"LoadCredential", "LoadCredentialEncrypted"} & settings(path.name).keys()
