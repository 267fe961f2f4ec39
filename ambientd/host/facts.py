"""What this machine and this process are: node name, host id, start time. Raw ids leave hashed only."""

import os
import re
from typing import NamedTuple

from ambientd.config.schema import HostIdSource
from ambientd.core.hostid import HostId, build_host_id

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_MACHINE_ID = re.compile(r"[0-9A-Fa-f-]{32,36}")
_STARTED_FIELD = 22
_FAR_MS = 10 * 365 * 86_400_000


class HostFacts(NamedTuple):
    """`node_name` for people; `host_id` for the feed, made as `host_id_source` says (status only)."""

    node_name: str
    host_id: str
    host_id_source: str
    started_ms: int


def read_host_facts(*, configured_name: str | None, source: HostIdSource, now_ms: int) -> HostFacts:
    """The facts of this machine and process; never raises."""
    made = host_id(configured_name, source)
    return HostFacts(node_name(configured_name), made.value, made.algorithm, process_started_ms(now_ms))


def node_name(configured: str | None) -> str:
    """The configured name, else the machine's host name (what `platform.node()` says)."""
    return configured or os.uname().nodename


def machine_id(files: tuple[str, ...] = MACHINE_ID_FILES) -> str | None:
    """The machine's own id from the first readable file that holds one, else None. Never log it."""
    for path in files:
        try:
            with open(path, "rb") as file:
                text = file.read(64).decode("ascii", "replace").strip()
        except OSError:
            continue
        if _MACHINE_ID.fullmatch(text) and text.strip("0-"):
            return text
    return None


def host_id(
    configured_name: str | None, source: HostIdSource, files: tuple[str, ...] = MACHINE_ID_FILES
) -> HostId:
    """This machine's id for the feed, and by which algorithm it was made (R2.26-R2.31)."""
    own = machine_id(files) if source is HostIdSource.AUTO else None
    return build_host_id(node_name(configured_name), own)


def process_started_ms(now_ms: int, proc: str = "/proc") -> int:
    """When this process started, in milliseconds since 1970; `now_ms` where the kernel does not say."""
    try:
        with open(f"{proc}/self/stat", "rb") as file:
            # the name in parentheses may hold anything, also spaces and parentheses
            fields = file.read().rpartition(b")")[2].split()
        with open(f"{proc}/stat", "rb") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        ticks = int(fields[_STARTED_FIELD - 3])
        started_ms = booted * 1000 + ticks * 1000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return now_ms
    return started_ms if now_ms - _FAR_MS < started_ms <= now_ms else now_ms
