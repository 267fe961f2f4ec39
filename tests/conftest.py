"""Every `async def` test runs under trio; asking for `autojump_clock` gives it virtual time."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

if TYPE_CHECKING:
    from tests.pgkit import PgServer


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps ahead whenever every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[PgServer]":
    """The one PostgreSQL server of this run; tests that want it skip where it cannot be run."""
    from tests.pgkit import NoServerError, started

    try:
        server = started()
    except NoServerError as error:
        pytest.skip(f"without PostgreSQL: {error}")
    yield server
    server.remove()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutine tests to their end under `trio.run`."""
    test: Callable[..., Any] = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    names = inspect.signature(test).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    clock: Any = arguments.get("autojump_clock")
    trio.run(partial(test, **arguments), clock=clock)
    return True
