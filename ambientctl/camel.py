"""Keys of `/api/v1`, which are snake_case, as `--json` has them."""

from typing import Any


def camel(value: Any) -> Any:
    """The same document with every key in camelCase, however deep."""
    if isinstance(value, dict):
        return {_key(name): camel(item) for name, item in value.items()}
    return [camel(item) for item in value] if isinstance(value, list) else value


def _key(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in others)
