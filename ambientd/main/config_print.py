"""How the configuration verbs print: problems one per line, JSON documents with their schema."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from ambientd.config.problems import Problem
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.clock import SystemClock


def print_problems(problems: Sequence[Problem]) -> None:
    """One `Error: …` line each, on standard error."""
    for problem in problems:
        complain(f"Error: {problem.text}")


def complain(line: str) -> None:
    """One line on standard error, in what its encoding can show."""
    encoding = sys.stderr.encoding or "ascii"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def print_json(name: str, **members: Any) -> None:
    """One document on standard output, with `schema` and `generatedAt`."""
    document = {"schema": f"ambient.{name}/1", "generatedAt": rfc3339_ms(SystemClock().now()), **members}
    print(json.dumps(document, indent=2))


def problems_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as JSON values; `message` is the sentence without its source."""
    return [
        {
            "where": problem.where,
            "line": problem.line,
            "column": problem.column,
            "path": problem.path or None,
            "value": problem.value,
            "expected": problem.expected,
            "suggestion": problem.suggestion,
            "message": problem.sentence,
        }
        for problem in problems
    ]
