"""`ports.http.HttpLog` as lists."""

from typing import NamedTuple


class Refusal(NamedTuple):
    """One error answer."""

    request_id: str
    status: int
    code: str
    method: str
    path: str


class ListHttpLog:
    """Keeps everything that it is told."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.faults: list[tuple[str, BaseException, str]] = []
        self.notes: list[tuple[str, dict[str, object]]] = []

    def refused(self, *, request_id: str, status: int, code: str, method: str, path: str) -> None:
        self.refusals.append(Refusal(request_id, status, code, method, path))

    def fault(self, where: str, error: BaseException, *, request_id: str) -> None:
        self.faults.append((where, error, request_id))

    def note(self, event: str, **facts: object) -> None:
        self.notes.append((event, facts))
