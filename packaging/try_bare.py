"""Tries the two commands on bare Debian systems in folders of their own; by hand, as root, not in CI.

    python3 packaging/try_bare.py [bookworm] [trixie] [--keep DIR] [--verb up] [--verb "test tests/core"]

Each system holds nothing but Debian's minimal base, python3, python3-pip and git. It runs in its own
process and mount namespaces, so whatever a failed try leaves running ends with it. Of this machine it
gets the certificate authorities, the resolver and the variables that pip reads.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASES = ("bookworm", "trixie")
PACKAGES = "python3,python3-pip,git,ca-certificates"
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
CHECKOUT = "root/ambient"

# The whole life of a newcomer's first hour: twice up, status, down, and the checks.
DEFAULT_VERBS = ("up", "up", "status", "down", "test")

INSIDE = """
mount -t proc proc {target}/proc
mount --rbind /dev {target}/dev
exec chroot {target} /usr/bin/env -i {environ} /bin/sh -c 'cd /{checkout} && . /root/try.sh'
"""


def make_system(release: str, target: Path) -> None:
    """Debian's base in `target`; kept and used again when it is there."""
    if not (target / "usr/bin/pip3").exists():
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(target)], check=True
        )
    shutil.copy("/" + AUTHORITIES, target / AUTHORITIES)
    shutil.copy("/etc/resolv.conf", target / "etc/resolv.conf")


def copy_checkout(target: Path) -> None:
    """Every tracked and untracked file that git does not ignore, as a clone would bring it."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    shutil.rmtree(target / CHECKOUT, ignore_errors=True)
    for name in filter(None, names):
        source, copy = ROOT / os.fsdecode(name), target / CHECKOUT / os.fsdecode(name)
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def environ() -> str:
    """What pip and people's shells need, in the form of `env` arguments."""
    passed = {k: v for k, v in os.environ.items() if k == "PIP_INDEX_URL" or k.lower().endswith("_proxy")}
    passed |= {"PIP_CERT": "/" + AUTHORITIES, "HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return " ".join(f"'{key}={value}'" for key, value in passed.items())


def try_verbs(target: Path, verbs: list[str]) -> bool:
    """Runs the verbs one after the other; True when every one ended with 0."""
    lines = ["set -e", "git init -q . && git add -A", "python3 --version", "python3 -m pip --version"]
    for verb in verbs:
        lines += [f"echo '=== dev.py {verb}'", f"python3 packaging/dev.py {verb}"]
    (target / "root/try.sh").write_text("\n".join(lines) + "\n")
    script = INSIDE.format(target=target, checkout=CHECKOUT, environ=environ())
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]
    return subprocess.call(isolated, stdin=subprocess.DEVNULL) == 0


def main() -> int:
    """Exit code 0 when every release passed every verb."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("release", nargs="*", default=list(RELEASES), help="bookworm and trixie unless named")
    parser.add_argument("--keep", type=Path, help="folder in which the systems stay for the next try")
    parser.add_argument("--verb", action="append", help="what to run instead of " + ", ".join(DEFAULT_VERBS))
    options = parser.parse_args()
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        sys.stderr.write("This needs root and debootstrap (apt install debootstrap).\n")
        return 1
    folder = options.keep or Path(tempfile.mkdtemp(prefix="ambient-bare-"))
    verdicts = {}
    for release in options.release:
        target = folder.resolve() / release
        began = time.monotonic()
        make_system(release, target)
        copy_checkout(target)
        passed = try_verbs(target, options.verb or list(DEFAULT_VERBS))
        verdicts[release] = passed
        print(f"{release}: {'passed' if passed else 'FAILED'} ({time.monotonic() - began:.0f} s)", flush=True)
    if not options.keep:
        shutil.rmtree(folder)
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
