import hashlib
import hmac
from datetime import UTC, datetime

import pytest

from ambientd.core.webhook import build_headers, is_delivered, may_help_again, sign

AT = datetime(2026, 11, 20, 15, 40, 3, 999_000, tzinfo=UTC)


def test_the_signature_is_hmac_sha256_over_timestamp_dot_body() -> None:
    expected = hmac.new(b"key", b'1795189203.{"a":1}', hashlib.sha256).hexdigest()
    assert sign(b"key", "1795189203", b'{"a":1}') == f"sha256={expected}"


def test_every_part_changes_the_signature() -> None:
    base = sign(b"key", "1", b"body")
    assert base not in {sign(b"kez", "1", b"body"), sign(b"key", "2", b"body"), sign(b"key", "1", b"bodz")}
    assert sign(b"key", "1", b"2.body") != sign(b"key", "1.2", b".body")


def test_headers_carry_id_time_and_signature() -> None:
    headers = build_headers("n-1", AT, b"key", b"{}")
    assert headers == {
        "Content-Type": "application/json",
        "X-Ambient-Notification": "n-1",
        "X-Ambient-Timestamp": str(int(AT.timestamp())),
        "X-Ambient-Signature": sign(b"key", str(int(AT.timestamp())), b"{}"),
    }
    assert "X-Ambient-Signature" not in build_headers("n-1", AT, None, b"{}")


@pytest.mark.parametrize(
    ("status", "delivered", "again"),
    [
        (200, True, False),
        (204, True, False),
        (301, False, False),
        (400, False, False),
        (404, False, False),
        (408, False, True),
        (429, False, True),
        (500, False, True),
        (503, False, True),
    ],
)
def test_what_an_answer_means(status: int, delivered: bool, again: bool) -> None:
    assert (is_delivered(status), may_help_again(status)) == (delivered, again)
