"""The short form of `tests/fuzz/kill_ingest.py`."""

from collections.abc import Callable

from tests.e2e.harness import Node
from tests.fuzz.kill_ingest import check, kill_again_and_again

KILLS = 10


def test_ten_kills_lose_nothing_acknowledged_and_leave_nothing_in_part(new_node: Callable[..., Node]) -> None:
    node = new_node({})
    outcome = kill_again_and_again(node, KILLS, 7, lambda _line: None)
    check(node, outcome, KILLS)
