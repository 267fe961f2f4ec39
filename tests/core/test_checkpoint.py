"""Checkpoints are signed notes as others read them, and only exactly those that were signed."""

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.audit import Place
from ambientd.core.checkpoint import NOTE_MAX, check_note, parse_note
from ambientd.core.ed25519 import PREFIX, verify
from tests.core.auditkit import AT, HOST, KEY, OTHER_KEY, OTHER_SEED, checkpoint_of, note_of

PLACE = Place(1842, "ab" * 32)
NOTE = note_of(PLACE)


def test_the_form_is_that_of_a_signed_note() -> None:
    """Read here by hand, as the form is written down (C2SP signed-note and tlog-checkpoint)."""
    text, line = NOTE.split("\n\n")
    assert text.split("\n") == [
        f"ambient-audit-v1/{HOST}",
        "1842",
        base64.b64encode(bytes.fromhex(PLACE.hash)).decode(),
        f"time {AT}",
    ]
    dash, name, blob = line.rstrip("\n").split(" ")
    assert (dash, name) == ("—", PREFIX + KEY.hex())
    raw = base64.b64decode(blob)
    assert raw[:4] == hashlib.sha256(name.encode() + b"\n" + b"\x01" + KEY).digest()[:4]
    assert verify(KEY, (text + "\n").encode(), raw[4:])
    assert len(NOTE) < NOTE_MAX


def test_a_note_reads_back_and_its_key_is_asked_for() -> None:
    signed = parse_note(NOTE)
    assert signed is not None
    assert signed.is_genuine
    assert (signed.checkpoint.place, signed.key) == (PLACE, KEY)
    assert check_note(NOTE, {KEY}) == checkpoint_of(PLACE)
    other = check_note(note_of(PLACE, OTHER_SEED), {KEY})
    assert other == f"it is signed by {PREFIX}{OTHER_KEY.hex()}, which is none of the node's keys"


@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_no_other_text_passes_for_the_note(place: int, char: str) -> None:
    changed = NOTE[:place] + char + NOTE[place + 1 :]
    if changed != NOTE:
        assert isinstance(check_note(changed, {KEY}), str)
    assert isinstance(check_note(NOTE[:place], {KEY}), str)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.replace("1842", "01842"),
        lambda note: note.replace("1842", "1843"),
        lambda note: note + "\n",
        lambda note: note + note.split("\n\n")[1],
        lambda note: note.replace("\n", "\r\n"),
        lambda note: note.replace(AT, "2026-11-20"),
        lambda note: note.replace("ed25519:", "ed25519:00"),
        lambda note: " " + note,
        lambda _: "",
        lambda _: "\n\n",
        lambda _: "x" * (NOTE_MAX + 1),
    ],
)
def test_spellings_that_nobody_signed_are_refused(change: Callable[[str], str]) -> None:
    assert isinstance(check_note(change(NOTE), {KEY}), str)


def test_a_key_that_anybody_could_sign_with_is_no_signer() -> None:
    """A small-order key: every signature would do."""
    small = bytes(32)
    assert parse_note(NOTE.replace(KEY.hex(), small.hex())) is None
