"""A node's work as the control plane tells it: what is active, and a line for everything that happened.

A task is among the active ones until it has ended; the log says of each how it stands.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Item, Screen
from ambientctl.text import inert

ACTIVE, LOG = "Active Tasks", "Activity Log"
NOTHING_ACTIVE = "No tasks currently assigned to this node"
TASK_SHOWN = 12  # of a task's id
GOOD, BAD, PLAIN = "good", "bad", "plain"
_COLORS = {GOOD: "green", BAD: "red", PLAIN: ""}
_ENDED = ("completed", "failed")
_CONNECT = "connect_only"
_EVENTS = {"task_cleared": ("cleared", BAD), "task_connected": ("connected", GOOD)}


class Entry(NamedTuple):
    """One line of the log; `at` is RFC 3339, `tone` good, bad or plain."""

    at: str
    task_id: str
    task_type: str
    label: str
    tone: str

    def item(self) -> Item:
        """For programs."""
        return {
            "at": self.at,
            "taskId": self.task_id,
            "taskType": self.task_type,
            "label": self.label,
            "tone": self.tone,
        }


def is_active(task: Document, node: str) -> bool:
    """Whether the node has it and it has not ended."""
    return _has(task, "assignedNodes", node) and wire.text(task, "status") not in _ENDED


def standing(task: Document, node: str) -> tuple[str, str] | None:
    """Label and tone of a task in the node's log; None for one that is none of its."""
    here, was = _has(task, "assignedNodes", node), _has(task, "formerAssignedNodes", node)
    status = wire.text(task, "status")
    if not here and not was:
        return None
    if status == "completed":
        connect = wire.text(task, "taskType") == _CONNECT
        return ("session completed ✓" if connect else "finished (completed) ✓"), GOOD
    if status == "failed":
        return "finished (failed) ✗", BAD
    return (f"{status} (active)", GOOD) if here else ("cleared from node", BAD)


def log_of(node: str, tasks: Iterable[Document], events: Iterable[Document]) -> list[Entry]:
    """The log, newest first. A line's time is that of what it tells, not that of its being shown."""
    entries = [_of_event(event) for event in events]
    for task in tasks:
        found = standing(task, node)
        if found is not None:
            at = wire.text(task, "completedAt") or wire.text(task, "updatedAt")
            entries.append(Entry(at, wire.text(task, "taskId"), wire.text(task, "taskType"), *found))
    return sorted(entries, key=lambda entry: entry.at, reverse=True)


def _of_event(event: Document) -> Entry:
    name = wire.text(event, "event")
    label, tone = _EVENTS.get(name, (name.removeprefix("task_").replace("_", " "), PLAIN))
    at = wire.text(event, "at") or wire.text(event, "clearedAt")
    return Entry(at, wire.text(event, "taskId"), wire.text(event, "taskType"), label, tone)


def _has(task: Document, key: str, node: str) -> bool:
    value = task.get(key)
    return isinstance(value, list) and node in value


def short_task(task_id: str, screen: Screen) -> str:
    """The beginning of a task's id."""
    found = inert(task_id)
    return found if len(found) <= TASK_SHOWN else found[:TASK_SHOWN] + screen.glyph("…", "..")


def line_of(entry: Entry, screen: Screen) -> str:
    """`[2026-11-20T15:40:03.120Z] Task 1f0c2d3e-4a5… [agent_session] — cleared`, in its colour."""
    label = entry.label.replace("✓", screen.glyph("✓", "*")).replace("✗", screen.glyph("✗", "x"))
    task = short_task(entry.task_id, screen)
    kind, dash = inert(entry.task_type), screen.glyph("—", "-")
    text = f"[{inert(entry.at)}] Task {task} [{kind}] {dash} {inert(label)}"
    return screen.paint(text, _COLORS[entry.tone])
