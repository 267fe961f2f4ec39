"""The checks, in their order; run by a unit inside the container. See ../run.py."""

import os
import pwd
import sys
import traceback
from pathlib import Path

from tests.systemd.inside import access, activation, faults, fleet, running, wrong
from tests.systemd.inside.kit import SECRET, Report, configure, is_ready, wait_for

GROUPS = {
    "activation": activation.run,
    "access": access.run,
    "control-plane": fleet.run,
    "running": running.run,
    "faults": faults.run,
    "wrong": wrong.run,
}


def main() -> int:
    """Exit code 0 when every check passed."""
    only = Path(__file__).with_name("only").read_text().strip()
    secret = Path("/etc/ambient/quick.env")
    secret.write_text(f"AGENT_KEY={SECRET}\n")
    os.chown(secret, pwd.getpwnam("ambient").pw_uid, 0)
    secret.chmod(0o600)
    configure()
    report = Report()
    for name, run in GROUPS.items():
        if only not in name:
            continue
        print(f"--- {name}", flush=True)
        if name not in ("activation", "control-plane"):
            wait_for(is_ready)
        try:
            run(report)
        except Exception:  # noqa: BLE001 - one broken group must not hide the others
            last = traceback.format_exc().strip().splitlines()
            report.check(f"{name} comes to its end", good=False, found=" | ".join(last[-6:]))
    print(f"END {report.passed} passed, {report.failed} failed", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
