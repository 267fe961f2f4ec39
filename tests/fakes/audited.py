"""Keeps the `[AUDIT]` lines that routes write."""


class Audited:
    """Implements `api.router.Audited`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def __call__(self, **facts: object) -> None:
        self.lines.append(facts)
