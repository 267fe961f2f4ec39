"""`host.lean` in processes of their own: what a test process has loaded is no evidence."""

import hmac
import subprocess
import sys

import pytest

from tests.meta.tree import ROOT

START = "import sys; sys.path.insert(0, {root!r}); from ambientd.host.lean import keep_lean; keep_lean()\n"


def python(code: str) -> str:
    """What a bare interpreter prints that keeps lean and then runs `code`."""
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", START.format(root=str(ROOT)) + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_the_event_loop_and_the_digests_work_without_openssl() -> None:
    code = """
import hashlib, hmac, trio
async def main():
    await trio.sleep(0)
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(b"abc").hexdigest()[:8])
print(trio.run(main), hashlib.sha3_256(b"").hexdigest()[:8], hmac.digest(b"k", b"m", "sha256").hex()[:8])
print(any("libcrypto" in line for line in open("/proc/self/maps")))
"""
    mac = hmac.digest(b"k", b"m", "sha256").hex()[:8]
    assert python(code) == f"ba7816bf a7ffc6f8 {mac}\nFalse\n"


@pytest.mark.parametrize(
    "use", ["from ssl import SSLError", "import ssl; ssl.SSLError", "import asyncio.events"]
)
def test_a_module_that_was_put_off_is_there_for_whoever_uses_it(use: str) -> None:
    code = f"""
import trio
{use}
import ssl, asyncio
print(ssl.SSLContext.__name__, asyncio.run.__name__, issubclass(ssl.SSLError, OSError))
print(sys.modules["ssl"].__file__ is not None, sys.modules["asyncio"].events.__name__)
"""
    assert python(code) == "SSLContext run True\nTrue asyncio.events\n"


def test_holders_of_the_stand_in_and_of_the_module_see_the_same_classes() -> None:
    code = """
import trio, ssl as early
error, made = early.SSLError, early.create_default_context()
import ssl as late
print(early is late, error is late.SSLError, isinstance(made, late.SSLContext), trio.SSLStream.__name__)
"""
    assert python(code) == "False True True SSLStream\n"


def test_many_threads_may_be_the_first_to_use_a_module() -> None:
    code = """
import threading
import ssl
gate, seen = threading.Barrier(8), []
def use():
    gate.wait()
    seen.append(ssl.SSLError)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(30)
print(len(seen), len(set(seen)), seen[0] is sys.modules["ssl"].SSLError)
"""
    assert python(code) == "8 1 True\n"


def test_looking_through_all_modules_loads_none() -> None:
    code = """
import inspect, trio
inspect.getmodule(object())
inspect.stack()
print([name for name in ("ssl", "asyncio", "shutil", "idna") if hasattr(sys.modules[name], "__file__")])
"""
    assert python(code) == "[]\n"


def test_a_module_that_is_loaded_already_stays() -> None:
    outcome = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import sys, ssl\n" + START.format(root=str(ROOT)) + "print(sys.modules['ssl'] is ssl)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.stdout == "True\n", outcome.stderr


def test_the_version_of_a_loaded_package_is_told_without_reading_its_metadata() -> None:
    code = """
import trio, trio_websocket
from importlib.metadata import version
print(version("trio") == trio.__version__, "email" in sys.modules)
"""
    assert python(code) == "True False\n"


def test_metadata_is_read_for_whoever_wants_more_of_it() -> None:
    code = """
from importlib.metadata import version
print(version("pytest") != "", "pytest" in sys.modules)
import importlib.metadata
print(importlib.metadata.metadata("trio")["Name"])
try:
    version("no-such-package")
except importlib.metadata.PackageNotFoundError:
    print("none")
"""
    assert python(code) == "True False\ntrio\nnone\n"


def test_memory_that_was_freed_is_given_back() -> None:
    code = """
from ambientd.host.lean import give_memory_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
kept = [bytearray(1000) for _ in range(60_000)]
last = bytearray(1000)  # above them all: the heap cannot simply shrink
del kept
before = resident()
give_memory_back()
print(before - resident() > 30_000_000)
"""
    assert python(code) == "True\n"
