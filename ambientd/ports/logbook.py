"""What operators may ask of the log of this process, and change of it."""

from typing import Protocol

from ambientd.config.schema import LogLevel


class LogBook(Protocol):
    """The newest lines, and how much is logged. Nothing here waits."""

    @property
    def level(self) -> LogLevel:
        """The least severe level that is logged now."""

    @property
    def configured(self) -> LogLevel:
        """The level that holds when no temporary one does."""

    def left(self) -> float | None:
        """Seconds until a temporary level ends; None when there is none."""

    def set_level(self, level: LogLevel, seconds: float | None = None) -> None:
        """Logs from `level` on, for some seconds or until a reload or restart."""

    @property
    def last_seq(self) -> int:
        """The number of the newest line."""

    def recent(self, *, level: LogLevel, after: int | None, limit: int) -> list[bytes]:
        """Lines as JSON objects, oldest first: the newest `limit`, or the first `limit` after a number."""
