"""Connects the listener's log port to the process's log."""

from ambientd.host.log import Logger


class HttpLogLines:
    """Implements `ports.http.HttpLog`. Refusals are the client's affair and stay at debug level."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def refused(self, *, request_id: str, status: int, code: str, method: str, path: str) -> None:
        """An error answer was made."""
        line = self._log.warning if status >= 500 else self._log.debug
        line("http.refused", request=request_id, status=status, code=code, method=method, path=path)

    def fault(self, where: str, error: BaseException, *, request_id: str) -> None:
        """A defect of this program."""
        self._log.error("http.fault", where=where, request=request_id, exc_info=error)

    def note(self, event: str, **facts: object) -> None:
        """Something about the listener itself."""
        self._log.warning(f"http.{event}", **facts)
