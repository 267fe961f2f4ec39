"""Key files and rollovers: what is no key is refused, nothing but the file's text gives the seed away."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.identity import (
    FILE_MAX,
    HEAD,
    KeyFile,
    Keys,
    Rollover,
    parse_key_file,
    parse_rollover,
    roll_over,
    vouched,
)
from tests.core.auditkit import KEY, OTHER_KEY, OTHER_SEED, SEED

HERE, THERE = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)


def rollover(host: str = HERE) -> Rollover:
    old = Keys(seed=SEED, public=KEY, host=host)
    return roll_over(old, Keys(seed=OTHER_SEED, public=OTHER_KEY, host=THERE), AT)


@pytest.mark.parametrize(
    "file",
    [
        KeyFile(seed=SEED, host=HERE),
        KeyFile(seed=SEED),
        KeyFile(seed=OTHER_SEED, host=HERE, rollover=rollover()),
        KeyFile(seed=OTHER_SEED, host=HERE, rollover=rollover("")),
    ],
)
def test_a_file_reads_back(file: KeyFile) -> None:
    assert parse_key_file(file.text) == file
    assert len(file.text) < FILE_MAX
    assert SEED.hex() not in repr(file)
    assert OTHER_SEED.hex() not in repr(file)


def test_a_seed_alone_is_a_key_bound_to_no_host() -> None:
    assert parse_key_file(SEED.hex() + "\n") == KeyFile(seed=SEED)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no node's key"),
        ("x", "is no node's key"),
        (SEED.hex()[:-1], "is no node's key"),
        (SEED.hex().upper().replace("0", "A"), "is no node's key"),
        (HEAD, "does not have the lines"),
        (f"{HEAD}\nhost {HERE}\n", "does not have the lines"),
        (f"{HEAD}\nhost {HERE}\nseed {'0' * 63}\n", "its seed is not"),
        (f"{HEAD}\nhost elsewhere\nseed {SEED.hex()}\n", "its host is no host id"),
        (f"{HEAD}\nhost {HERE}\nseed {SEED.hex()}\nseed {SEED.hex()}\n", "does not have the lines"),
        (f"{HEAD}\nhost {HERE}\nseed {SEED.hex()}\nmore x\n", "does not have the lines"),
        (f"{HEAD}\nhost {HERE}\nseed {SEED.hex()}\nrollover x\n", "its rollover is no statement"),
        (KeyFile(seed=SEED, host=HERE).text.replace("v1", "v2"), "is no node's key"),
        ("x" * (FILE_MAX + 1), "is too long"),
    ],
)
def test_what_is_no_key_file_says_why_and_not_what_it_holds(text: str, why: str) -> None:
    found = parse_key_file(text)
    assert isinstance(found, str)
    assert why in found
    assert SEED.hex() not in found


@given(st.text())
def test_any_text_is_a_key_or_a_reason(text: str) -> None:
    assert isinstance(parse_key_file(text), KeyFile | str)


def test_a_rollover_is_signed_by_both_and_reads_back() -> None:
    made = rollover()
    assert made.is_genuine
    assert parse_rollover(made.text) == made
    assert parse_rollover(rollover("").text) == rollover("")


@given(st.integers(0, 10_000), st.sampled_from("0123456789abcdefg -:Z"))
def test_no_changed_rollover_is_genuine(place: int, char: str) -> None:
    text = rollover().text
    at = place % len(text)
    changed = text[:at] + char + text[at + 1 :]
    found = parse_rollover(changed)
    assert changed == text or found is None or not found.is_genuine


def test_keys_are_vouched_for_backwards_along_genuine_statements_only() -> None:
    made = rollover()
    assert vouched(OTHER_KEY, [made]) == {OTHER_KEY, KEY}
    assert vouched(KEY, [made]) == {KEY}, "an old key does not speak for what followed it"
    stolen = Rollover(
        old_key=KEY,
        new_key=OTHER_KEY,
        from_host=HERE,
        to_host=THERE,
        at=made.at,
        old_signature=made.old_signature,
        new_signature=made.old_signature,
    )
    assert not stolen.is_genuine
    assert vouched(OTHER_KEY, [stolen]) == {OTHER_KEY}


def test_who_has_a_key_of_his_own_cannot_make_it_one_that_ours_followed() -> None:
    """Only the owner of the newer key can say that it followed another."""
    foreign = bytes([7]) * 32
    from ambientd.core.ed25519 import public_of

    made = roll_over(
        Keys(seed=foreign, public=public_of(foreign), host=""), Keys(seed=foreign, public=KEY, host=""), AT
    )
    assert vouched(KEY, [made]) == {KEY}
