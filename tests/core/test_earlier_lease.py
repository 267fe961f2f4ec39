import json
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.decode import Problems
from ambientd.core.earlier_lease import EarlierLease, is_valid_earlier, parse_earlier
from ambientd.core.lease import parse_body

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data/vectors/leases.json").read_text()
)["leases"]


def parsed(vector: dict[str, Any]) -> EarlierLease:
    found = parse_earlier(json.dumps(vector["lease"]).encode())
    assert isinstance(found, EarlierLease), found
    return found


def test_there_are_eight() -> None:
    assert len(VECTORS) == 8
    assert {vector["expected_valid"] for vector in VECTORS} == {True, False}


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_lease_is_judged_as_its_own_program_did(vector: dict[str, Any]) -> None:
    lease = parsed(vector)
    assert lease.claims.signed_bytes == vector["payload_utf8"].encode()
    key = bytes.fromhex(vector["verification_key_hex"])
    assert is_valid_earlier(lease, key, vector["now"]) is vector["original_valid"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_no_node_takes_it_for_a_lease_of_its_own(vector: dict[str, Any]) -> None:
    for raw in (vector["payload_utf8"].encode(), json.dumps(vector["lease"]).encode()):
        assert isinstance(parse_body(raw), Problems)


def test_a_changed_claim_is_not_valid() -> None:
    vector = VECTORS[0]
    vector = {**vector, "lease": json.loads(json.dumps(vector["lease"]))}
    vector["lease"]["claims"]["max_bandwidth_mbps"] += 1
    assert not is_valid_earlier(parsed(vector), bytes.fromhex(vector["verification_key_hex"]), vector["now"])
