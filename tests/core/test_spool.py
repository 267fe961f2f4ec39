import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.spool import Refusal, Requirement, SpoolTask, is_candidate, parse_task

GOOD = {"task_id": "nightly-1", "agent_id": "reviewer", "prompt": "Look at it"}


def parsed(**changes: object) -> SpoolTask | Refusal:
    document = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    return parse_task(json.dumps(document).encode())


def test_a_whole_task_is_read_with_all_its_parts() -> None:
    task = parsed(model="p/m", title="T", category="c", requires=["task_done:a", "file_exists:x/y.txt"])
    assert task == SpoolTask(
        task_id="nightly-1",
        agent_id="reviewer",
        prompt="Look at it",
        model="p/m",
        title="T",
        category="c",
        requires=(Requirement("task_done", "a"), Requirement("file_exists", "x/y.txt")),
    )


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"task_id": ...}, "missing_key", "task_id"),
        ({"prompt": ...}, "missing_key", "prompt"),
        ({"prompt": 5}, "wrong_type", "prompt"),
        ({"prompt": "  "}, "empty", "prompt"),
        ({"prompt": "x" * (512 * 1024 + 1)}, "too_large", "prompt"),
        ({"prompt": "a\x00b"}, "bad_text", "prompt"),
        ({"prompt": "\ud800"}, "bad_text", "prompt"),
        ({"title": "x" * 201}, "too_large", "title"),
        ({"task_id": "a/b"}, "bad_id", "task_id"),
        ({"ops": []}, "unknown_key", "ops"),
        ({"root": "/"}, "unknown_key", "root"),
        ({"requires": "task_done:a"}, "wrong_type", "requires"),
        ({"requires": ["rm -rf"]}, "bad_requirement", "requires"),
        ({"requires": [5]}, "bad_requirement", "requires"),
        ({"requires": ["file_exists:/etc/passwd"]}, "path_outside", "requires"),
        ({"requires": ["file_exists:a/../../b"]}, "path_outside", "requires"),
        ({"requires": ["file_exists:"]}, "path_outside", "requires"),
    ],
)
def test_what_is_not_a_task_is_refused_with_its_field(
    changes: dict[str, object], code: str, field: str
) -> None:
    refusal = parsed(**changes)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == (code, field)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"task_id: x", "not_json"),
        (b"[]", "not_object"),
        (b"\xff\xfe{}", "not_utf8"),
        (b'{"task_id":"a","task_id":"b"}', "duplicate_key"),
        (b"[" * 100_000, "not_json"),
        (b'{"task_id":' + b"9" * 10_000 + b"}", "not_json"),
    ],
)
def test_what_is_not_a_document_is_refused(content: bytes, code: str) -> None:
    refusal = parse_task(content)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code


def test_a_refusal_never_repeats_what_was_handed_in() -> None:
    secret = "hunter2-hunter2"
    for changes in ({"prompt": [secret]}, {"model": {secret: 1}}, {"requires": [secret]}):
        refusal = parsed(**changes)
        assert isinstance(refusal, Refusal)
        assert secret not in repr(refusal)


@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer(content: bytes) -> None:
    assert isinstance(parse_task(content), (SpoolTask, Refusal))


@pytest.mark.parametrize(
    ("name", "candidate"),
    [("a.json", True), ("task_1.json", True), (".a.json", False), ("a.yaml", False), ("a b.json", False)],
)
def test_only_plain_json_names_are_looked_at(name: str, candidate: bool) -> None:
    assert is_candidate(name) is candidate
