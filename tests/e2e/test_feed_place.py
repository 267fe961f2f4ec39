"""Where a running node puts its feed: the environment, the configuration, the default; never elsewhere."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.feedkit import assert_serves_readers
from tests.e2e.harness import Node

MakeNode = Callable[..., Node]
DEFAULT = "observability/logs/activity_feed.jsonl"
VARIABLE = "LUKA_ACTIVITY_FEED_JSONL"


@pytest.mark.parametrize(
    ("variable", "configured", "place"),
    [
        ("  ", None, "state/" + DEFAULT),
        ("own/a..b/..x.jsonl", "other.jsonl", "state/own/a..b/..x.jsonl"),
        ("", "~/feed.jsonl", "home/feed.jsonl"),
        (None, "ref://activity_feed", "state/" + DEFAULT),
    ],
)
def test_beats_go_to_the_named_file_and_to_no_other(
    new_node: MakeNode, variable: str | None, configured: str | None, place: str
) -> None:
    config: dict[str, Any] = {"heartbeat": {"feed": configured}} if configured else {}
    node = new_node(config, environment={} if variable is None else {VARIABLE: variable})
    feed = node.root / place
    node.wait_for(lambda: len(node.beats(feed)) >= 2)
    assert node.status()["heartbeat"]["feed"] == str(feed)
    assert [path for path in node.root.rglob("*.jsonl") if path.is_file()] == [feed]
    told = node.ambientd("feed", "validate", "--strict")
    assert told.returncode == 0
    assert str(feed) in told.stdout
    assert_serves_readers(node, feed)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("/../x", "'..'"),
        ("n" * 256, "longer than 255"),
        ("/dev/null", "devtmpfs|character device"),
        ("/proc/self/mem", "proc"),
        ("/etc/passwd/feed.jsonl", "ENOTDIR"),
    ],
)
def test_a_refused_place_is_told_and_nothing_is_written_anywhere(
    new_node: MakeNode, value: str, reason: str
) -> None:
    node = new_node(environment={VARIABLE: value})
    told = node.wait_for(lambda: now if (now := node.status()["heartbeat"])["lost"] >= 3 else None)
    assert any(word in told["lastError"] for word in reason.split("|"))
    assert node.heartbeat()["cycles"] >= 3
    (problem,) = node.status()["problems"]
    assert problem["id"] in ("feed.refused", "feed.failing")
    assert told["lastError"] in problem["text"]
    assert [path for path in node.root.rglob("*") if path.suffix == ".jsonl" or path.name == "x"] == []
    assert not os.path.lexists("/x")
    stopped = node.stop()
    assert stopped.code == 0
    assert stopped.seconds < 3


def test_a_feed_that_is_switched_off_is_silent_and_the_loop_goes_on(new_node: MakeNode) -> None:
    node = new_node({"heartbeat": {"enabled": False}})
    node.wait_for(lambda: node.heartbeat()["cycles"] >= 5)
    told = node.status()
    assert (told["heartbeat"]["enabled"], told["heartbeat"]["lost"], told["health"]) == (False, 0, "ok")
    assert list(node.root.rglob("*.jsonl")) == []
