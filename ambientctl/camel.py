"""Keys of `/api/v1`, which are snake_case, as `--json` has them."""

from collections.abc import Collection
from typing import Any


def camel(value: Any, *, as_is: Collection[str] = ()) -> Any:
    """The same document with every key in camelCase, however deep.

    What an object named in `as_is` holds stays as it is: its keys are codes or somebody else's words.
    """
    if isinstance(value, dict):
        return {
            _key(str(name)): inner if name in as_is and isinstance(inner, dict) else camel(inner, as_is=as_is)
            for name, inner in value.items()
        }
    return [camel(inner, as_is=as_is) for inner in value] if isinstance(value, list) else value


def _key(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
