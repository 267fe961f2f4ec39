import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.controlhealth import judge_health

JSON = "application/json"
GOOD = b'{"status":"healthy","version":"1.0.0","timestamp":"2026-11-20T15:40:03Z"}'
PAGE = b"<html><body>Please log in</body></html>"


@pytest.mark.parametrize("kind", [JSON, "application/json; charset=utf-8", "Application/JSON"])
def test_a_control_plane_that_says_it_is_healthy_is_one(kind: str) -> None:
    assert judge_health(200, kind, GOOD).ok


@pytest.mark.parametrize(
    ("status", "kind", "body", "reason"),
    [
        (200, "text/html", PAGE, "captive portal?"),
        (200, "text/html", GOOD, "captive portal?"),
        (200, "", PAGE, "captive portal?"),
        (200, JSON, PAGE, "not as a control plane"),
        (200, JSON, b"[]", "not as a control plane"),
        (200, JSON, b'{"status":1}', "not as a control plane"),
        (200, JSON, b'{"status":"draining"}', "it is draining"),
        (200, JSON, GOOD[:20], "not as a control plane"),
        (302, JSON, GOOD, "redirects"),
        (307, "text/html", b"", "redirects"),
        (511, "text/html", PAGE, "log-in"),
        (503, JSON, b'{"status":"healthy"}', "HTTP 503"),
        (503, JSON, b'{"status":"starting"}', "it is starting (HTTP 503)"),
        (404, "text/plain", b"no", "HTTP 404"),
        (204, JSON, b"", "not as a control plane"),
    ],
)
def test_anything_else_is_none_and_says_why(status: int, kind: str, body: bytes, reason: str) -> None:
    answer = judge_health(status, kind, body)
    assert not answer.ok
    assert reason in answer.reason


@given(st.integers(100, 999), st.text(max_size=60), st.binary(max_size=300))
def test_nothing_that_a_stranger_sends_breaks_it_or_goes_far(status: int, kind: str, body: bytes) -> None:
    answer = judge_health(status, kind, body)
    assert not answer.ok or status == 200
    assert answer.reason.isprintable()
    assert len(answer.reason) < 120


def test_a_word_that_would_steer_a_terminal_is_made_harmless() -> None:
    answer = judge_health(200, JSON, b'{"status":"\\u001b[2J' + b"x" * 500 + b'"}')
    assert "\x1b" not in answer.reason
    assert len(answer.reason) < 120
