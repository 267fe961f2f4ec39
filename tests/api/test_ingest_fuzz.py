"""The short form of `tests/fuzz/ingest.py`."""

from pathlib import Path

from tests.fuzz.ingest import Mutator, fuzz

COUNT = 3_000


async def test_three_thousand_mutated_payloads_do_no_harm(tmp_path: Path) -> None:
    outcomes = await fuzz(tmp_path, COUNT, 7, lambda _line: None)
    assert outcomes.total() == COUNT
    for code in ("taken", "replayed", "VALIDATION_ERROR", "IDEMPOTENCY_CONFLICT"):
        assert outcomes[code] > 10, outcomes
    assert outcomes["UNSUPPORTED_CONTRACT_VERSION"] > 0


def test_the_same_seed_gives_the_same_payloads() -> None:
    one, other = Mutator(3), Mutator(3)
    assert [one.payload() for _ in range(50)] == [other.payload() for _ in range(50)]
