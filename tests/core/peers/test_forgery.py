"""A snapshot that was touched anywhere is refused, and nothing that is decoded makes a decoder raise."""

import random

import pytest

from ambientd.core.earlier_sync import read
from ambientd.core.peers.floors import Floors
from ambientd.core.peers.frames import decode_hello, decode_message
from ambientd.core.snapshot import Checked
from tests.core.peers.test_snapshot import checked, signed, snapshot
from tests.fuzz.peers import fuzz

RAW = signed(snapshot())


def test_every_bit_flipped_is_refused() -> None:
    """FAULTS P2."""
    taken = []
    for at in range(len(RAW)):
        for bit in range(8):
            flipped = bytearray(RAW)
            flipped[at] ^= 1 << bit
            if isinstance(checked(bytes(flipped)), Checked):
                taken.append((at, bit))
    assert taken == []
    assert isinstance(checked(RAW), Checked)


def test_cut_off_at_every_byte_it_is_refused() -> None:
    assert [at for at in range(len(RAW)) if isinstance(checked(RAW[:at]), Checked)] == []
    assert [at for at in range(len(RAW)) if isinstance(checked(RAW[at + 1 :]), Checked)] == []


def test_bytes_doubled_dropped_and_swapped_are_refused() -> None:
    for at in range(0, len(RAW), 3):
        for other in (
            RAW[:at] + RAW[at : at + 4] + RAW[at:],
            RAW[:at] + RAW[at + 4 :],
            RAW[:at] + RAW[at : at + 2][::-1] + RAW[at + 2 :],
        ):
            assert other == RAW or not isinstance(checked(other), Checked)


def test_floors_never_change_by_a_refusal() -> None:
    floors = Floors(since=0)
    checked(RAW[:-1], floors=floors)
    assert floors == Floors(since=0)


def test_nothing_makes_a_decoder_raise() -> None:
    """FAULTS P15; the long form is `python tests/fuzz/peers.py`."""
    assert fuzz(2_000, seed=7).uncaught == 0


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", b"\x9f" * 70_000, b"\x91" * 70_000, b"[" * 70_000, b'{"a":' * 20_000]
)
def test_no_depth_makes_a_decoder_raise(raw: bytes) -> None:
    decode_message(raw)
    decode_hello(raw[:512])
    read(raw)


def test_random_bytes_are_refused() -> None:
    source = random.Random(3)
    assert not any(
        isinstance(checked(source.randbytes(source.randrange(600))), Checked) for _ in range(2_000)
    )
