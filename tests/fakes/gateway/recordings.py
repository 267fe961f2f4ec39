"""Reads the recorded frames in `tests/data/gateway`."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "data" / "gateway"
OLD = "old-2026.5.7-all"

Frame = dict[str, Any]


class Recorded(NamedTuple):
    """One line of a recording. `direction` is send, recv or close."""

    direction: str
    at: float
    frame: Frame


class Case(NamedTuple):
    """One attempt to connect of the files 40 to 42."""

    name: str
    ok: bool
    error: Frame | None
    close: Frame | None
    auth: Frame | None
    frames: list[Recorded]


def names() -> list[str]:
    """All recordings."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def _read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def _frames(rows: list[Frame]) -> list[Recorded]:
    return [Recorded(row["dir"], row["t"], row["frame"]) for row in rows]


def cases(name: str) -> list[Case]:
    """The attempts of a file of attempts; none for the others."""
    content = _read(name)
    if not isinstance(content, list):
        return []
    return [
        Case(
            row["case"],
            row["ok"],
            row.get("error"),
            row.get("close"),
            row.get("auth"),
            _frames(row["frames"]),
        )
        for row in content
    ]


def frames(name: str) -> list[Recorded]:
    """Every frame of a recording, of all its attempts where it has several."""
    content = _read(name)
    if isinstance(content, list):
        return [frame for case in cases(name) for frame in case.frames]
    return _frames(content["frames"])


def answers(name: str, method: str) -> list[Frame]:
    """The payloads of the good answers to `method`, as fresh copies."""
    asked = {row.frame["id"] for row in frames(name) if row.frame.get("method") == method}
    return [
        copy.deepcopy(row.frame["payload"])
        for row in frames(name)
        if row.frame.get("type") == "res" and row.frame["id"] in asked and row.frame["ok"]
    ]


def rows(name: str) -> list[Frame]:
    """Every session row that `sessions.list` ever answered, oldest first."""
    return [row for answer in answers(name, "sessions.list") for row in answer["sessions"]]
