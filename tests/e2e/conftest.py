"""Everything here carries the marker `e2e`; `new_node` makes nodes that end with the test."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers whether the test failed, so that its nodes' folders are kept."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether the test went wrong; for fixtures that end nodes, to keep what they said."""
    return lambda: request.node.stash.get(_FAILED, True)


@pytest.fixture
def new_node(failed: Callable[[], bool]) -> Iterator[Callable[..., Node]]:
    """Makes and starts nodes (arguments as of `Node`); ends them when the test is over."""
    nodes: list[Node] = []

    def make(*arguments: Any, **options: Any) -> Node:
        node = Node(*arguments, **options)
        nodes.append(node)
        return node.__enter__()

    yield make
    for node in reversed(nodes):
        node.close(keep=failed())
