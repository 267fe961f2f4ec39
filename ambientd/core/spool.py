"""The spool's documents: the bytes of a handed-in file become a task or a reason (R2.81–R2.86)."""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ambientd.wire.routes import PROMPT_MAX_BYTES

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.json")
TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
SHORT_TEXT_MAX = 200
REQUIRES_MAX = 32

_KEYS: Mapping[str, bool] = {  # key: required
    "task_id": True,
    "agent_id": True,
    "prompt": True,
    "model": False,
    "title": False,
    "category": False,
    "requires": False,
}


class Requirement(msgspec.Struct, frozen=True):
    """Something that must hold before a task may run: `task_done` an id, or `file_exists` a path."""

    kind: str
    value: str


class SpoolTask(msgspec.Struct, frozen=True):
    """A task that may be tried."""

    task_id: str
    agent_id: str
    prompt: str
    model: str | None = None
    title: str | None = None
    category: str | None = None
    requires: tuple[Requirement, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a file is not a task: a word for programs, a sentence for people, and the field if there is one.

    The file's content is never repeated: it may hold what should not be in a log.
    """

    code: str
    message: str
    field: str | None = None


def is_candidate(name: str) -> bool:
    """Whether a file of this name is looked at; others are reported (R2.85). The names of our own notes are
    not for handing in: a note written later would take the file's place."""
    return FILE_NAME.fullmatch(name) is not None and not name.endswith((".reason.json", ".result.json"))


def parse_task(content: bytes) -> SpoolTask | Refusal:
    """Reads one handed-in document; the first problem in a fixed order is the answer."""
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except UnicodeDecodeError:
        return Refusal("not_utf8", "the file is not UTF-8 text")
    except _DuplicateKeyError as error:
        return Refusal("duplicate_key", "a key appears twice", error.args[0])
    except (ValueError, RecursionError):
        return Refusal("not_json", "the file is not one JSON document")
    if not isinstance(document, dict):
        return Refusal("not_object", "the document is not a JSON object")
    refusal = _check_keys(document) or _check_texts(document)
    if refusal:
        return refusal
    requires = _parse_requires(document.get("requires", []))
    if isinstance(requires, Refusal):
        return requires
    texts = {key: document[key] for key in _KEYS if key != "requires" and document.get(key) is not None}
    return SpoolTask(**texts, requires=requires)


class _DuplicateKeyError(ValueError):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKeyError(key[:SHORT_TEXT_MAX])
        found[key] = value
    return found


def _check_keys(document: Mapping[str, Any]) -> Refusal | None:
    for key in sorted(document):
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            return Refusal("unknown_key", f"not a key of a task; known keys: {known}", key[:SHORT_TEXT_MAX])
    for key, required in _KEYS.items():
        if required and key not in document:
            return Refusal("missing_key", "a task needs this key", key)
    return None


def _check_texts(document: Mapping[str, Any]) -> Refusal | None:
    for key in _KEYS:
        value = document.get(key)
        if key == "requires" or (value is None and not _KEYS[key]):
            continue
        if not isinstance(value, str):
            return Refusal("wrong_type", "expected a string", key)
        if "\x00" in value or not _is_text(value):
            return Refusal("bad_text", "contains NUL or unpaired surrogates", key)
        limit = PROMPT_MAX_BYTES if key == "prompt" else SHORT_TEXT_MAX
        if len(value.encode()) > limit:
            return Refusal("too_large", f"longer than {limit} bytes", key)
        if not value.strip():
            return Refusal("empty", "must not be empty", key)
    if not TASK_ID.fullmatch(document["task_id"]):
        return Refusal("bad_id", "letters, digits and . _ : - only, at most 128", "task_id")
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_requires(value: Any) -> tuple[Requirement, ...] | Refusal:
    if not isinstance(value, list) or len(value) > REQUIRES_MAX:
        return Refusal("wrong_type", f"expected a list of at most {REQUIRES_MAX} strings", "requires")
    found: list[Requirement] = []
    for item in value:
        kind, _, rest = item.partition(":") if isinstance(item, str) else ("", "", "")
        if (kind == "task_done" and TASK_ID.fullmatch(rest)) or (kind == "file_exists" and _is_inside(rest)):
            found.append(Requirement(kind, rest))
        elif kind == "file_exists":
            return Refusal("path_outside", "file_exists takes a path under the state directory", "requires")
        else:
            return Refusal("bad_requirement", "expected task_done:<id> or file_exists:<path>", "requires")
    return tuple(found)


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    safe = bool(path) and len(path) <= SHORT_TEXT_MAX and path.isprintable() and "\\" not in path
    return safe and not path.startswith("/") and not any(part in {"", ".", ".."} for part in parts)
