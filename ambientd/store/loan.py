"""A transaction under way in a thread: how to end it when nobody waits for it any more."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Loan:
    """One use of a lent connection, and what came of it.

    As a context it keeps an error for the waiter: raised in a nursery it would come out wrapped in a group.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._lock = threading.Lock()
        self._give_up: Callable[[], object] | None = None
        self.given_up = False
        self.value: Any = None
        self.error: Exception | None = None

    def hold(self, give_up: Callable[[], object] | None) -> None:
        """Only while something is held can it be ended: later the connection may serve another."""
        with self._lock:
            self._give_up = give_up

    def interrupt(self) -> None:
        """Ends what is running, if anything is; takes as long as the held function."""
        with self._lock:
            if self._give_up is not None:
                self.given_up = True
                self._give_up()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keeps an ordinary error."""
        if isinstance(error, Exception):
            self.error = error
            return True
        return False
