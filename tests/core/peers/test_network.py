"""Several nodes over a network that loses, doubles, moves, touches and replays, with a traitor among them."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.core.peers.machine import Machine

RUNS = int(os.environ.get("AMBIENT_PEER_RUNS", "25"))
STEPS = int(os.environ.get("AMBIENT_PEER_STEPS", "50"))


def test_they_only_gain_genuine_items_and_agree_when_it_heals() -> None:
    """The long form: `AMBIENT_PEER_RUNS=500 python -m pytest tests/core/peers/test_network.py`."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
