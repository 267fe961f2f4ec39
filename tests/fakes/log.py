"""A log that keeps its lines."""


class ListLog:
    """Implements what services use of structlog."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **facts: object) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: object) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: object) -> None:
        self.lines.append(("error", event, facts))

    def events(self) -> list[str]:
        """Names of all lines."""
        return [line[1] for line in self.lines]
