"""In a process of its own: it changes what the collector does."""

import subprocess
import sys

import pytest

SCRIPT = """
import gc
from ambientd.host.memory import settle_memory
before = gc.get_threshold()
settle_memory(busy={busy})
print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] > before[0], gc.get_threshold()[1:] == before[1:])
class Knot:
    def __init__(self):
        self.me = self
    def __del__(self):
        print("gone")
Knot()
junk = [[] for _ in range(20_000)]
"""


@pytest.mark.parametrize("busy", [False, True])
def test_what_was_there_is_frozen_and_cycles_are_still_collected(busy: bool) -> None:
    command = [sys.executable, "-c", SCRIPT.format(busy=busy)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", str(busy), "True", "gone"]
