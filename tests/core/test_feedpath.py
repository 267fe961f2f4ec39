import pytest

from ambientd.core.feedpath import FeedPath, resolve_feed_path
from ambientd.core.hostid import NODE_ONLY, WITH_MACHINE, build_host_id

DEFAULT = "/state/observability/logs/activity_feed.jsonl"


def resolve(environment: str | None, configured: str | None = None, home: str | None = "/srv/u") -> FeedPath:
    return resolve_feed_path(environment=environment, configured=configured, state_dir="/state/", home=home)


@pytest.mark.parametrize(
    "value", ["../x", "a/../b", "a/..", "..", "a\\..\\b", "/abs/../x", "~/../x", "x/../"]
)
def test_a_dot_dot_component_is_refused(value: str) -> None:
    place = resolve(value)
    assert place.path is None
    assert place.refusal == "LUKA_ACTIVITY_FEED_JSONL: the path holds a '..' component"


@pytest.mark.parametrize("value", ["a..b/x", "..x", "x..", "...", "a/.b"])
def test_dots_within_a_name_are_fine(value: str) -> None:
    assert resolve(value).path == f"/state/{value}"


@pytest.mark.parametrize(
    ("environment", "configured", "path", "source"),
    [
        ("/feed.jsonl", "/other.jsonl", "/feed.jsonl", "LUKA_ACTIVITY_FEED_JSONL"),
        (None, "logs/f.jsonl", "/state/logs/f.jsonl", "heartbeat.feed"),
        ("", "/other.jsonl", "/other.jsonl", "heartbeat.feed"),
        (" \t ", "  ", DEFAULT, "default"),
        (None, None, DEFAULT, "default"),
        ("~/f.jsonl", None, "/srv/u/f.jsonl", "LUKA_ACTIVITY_FEED_JSONL"),
        ("ref://activity_feed", "/other.jsonl", DEFAULT, "LUKA_ACTIVITY_FEED_JSONL"),
        (" /feed.jsonl ", None, "/feed.jsonl", "LUKA_ACTIVITY_FEED_JSONL"),
    ],
)
def test_order_and_meaning_of_the_sources(
    environment: str | None, configured: str | None, path: str, source: str
) -> None:
    assert resolve(environment, configured) == FeedPath(path, None, source)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("ref://other", "reference"),
        ("~root/x", "home directory"),
        ("~", "folder"),
        ("logs/", "folder"),
        ("logs/.", "folder"),
        ("x" * 300, "longer than 255"),
        ("é" * 128, "longer than 255"),
        ("/x" * 2100, "longer than 4095"),
    ],
)
def test_what_cannot_be_a_feed_is_refused_and_never_replaced(value: str, reason: str) -> None:
    place = resolve(value, "/other.jsonl")
    assert place.path is None
    assert place.refusal is not None
    assert reason in place.refusal


def test_a_tilde_needs_a_home() -> None:
    assert resolve("~/x", home=None).path is None
    assert resolve("~/x", home="relative").path is None


def test_host_ids_are_those_of_the_specification() -> None:
    simple = build_host_id("node-1", None)
    assert simple.value == "sha256:35971be6e9bb024a895582fe0e42e04848a86da550aaef0fccbfba86f99f617d"
    assert simple.algorithm == NODE_ONLY
    full = build_host_id("node-1", "11111111-2222-3333-4444-555555555555")
    assert full.value == "sha256:44d8b3fd07a262399336b2cfdedaac68e058379fb913fb74f742efe69bbef062"
    assert full.algorithm == WITH_MACHINE
    assert build_host_id("node-1", "") == simple
