import json
from typing import Any

from ambientd.host.logring import LogRing


def line(number: int, **more: Any) -> dict[str, Any]:
    return {"ts": "2026-11-20T12:00:00.000Z", "level": "info", "event": f"e{number}", **more}


def messages(ring: LogRing, *, rank: int = 10, after: int | None = None, limit: int = 5000) -> list[str]:
    return [json.loads(text)["msg"] for text in ring.entries(rank=rank, after=after, limit=limit)]


def test_the_newest_two_thousand_are_kept() -> None:
    ring = LogRing()
    for number in range(2500):
        ring.add(line(number), 20)
    assert messages(ring) == [f"e{number}" for number in range(500, 2500)]
    assert ring.last_seq == 2500


def test_long_lines_push_older_ones_out_and_the_last_one_stays() -> None:
    ring = LogRing(size=1000)
    for number in range(20):
        ring.add(line(number, text="x" * 200), 20)
    assert 2 <= len(messages(ring)) <= 4
    ring.add(line(99, text="x" * 5000), 20)
    assert messages(ring) == ["e99"]


def test_the_newest_are_given_or_the_first_after_a_number() -> None:
    ring = LogRing()
    for number in range(1, 11):
        ring.add(line(number), 20)
    assert messages(ring, limit=2) == ["e9", "e10"]
    assert messages(ring, after=4, limit=2) == ["e5", "e6"]
    assert messages(ring, after=10) == []


def test_less_severe_lines_are_left_out_before_they_are_counted() -> None:
    ring = LogRing()
    for number in range(1, 11):
        ring.add(line(number), 40 if number % 5 == 0 else 10)
    assert messages(ring, rank=30, limit=1) == ["e10"]
    assert messages(ring, rank=30) == ["e5", "e10"]


def test_an_entry_has_the_contracts_keys_and_the_facts_apart() -> None:
    ring = LogRing()
    ring.add(line(1, component="node", msg="mine", seq=7), 20)
    assert json.loads(ring.entries(rank=0, after=None, limit=1)[0]) == {
        "seq": 1,
        "ts": "2026-11-20T12:00:00.000Z",
        "level": "info",
        "msg": "e1",
        "component": "node",
        "fields": {"msg": "mine", "seq": 7},
    }
