"""The control plane's own secrets, and whether it may start with those that were found (R1.68–R1.73)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from ambientd.core.weaksecret import fault_of_secret


class SecretName(StrEnum):
    """Environment variables, credentials and files bear these names."""

    ACCESS_TOKEN_KEY = "ACCESS_TOKEN_KEY"  # noqa: S105 - a name, no secret
    REFRESH_TOKEN_PEPPER = "REFRESH_TOKEN_PEPPER"  # noqa: S105 - a name, no secret
    API_KEY_PEPPER = "API_KEY_PEPPER"
    CONNECT_SESSION_TOKEN_PEPPER = "CONNECT_SESSION_TOKEN_PEPPER"  # noqa: S105 - a name, no secret


PURPOSE = {
    SecretName.ACCESS_TOKEN_KEY: "keys the stored hashes of access tokens",
    SecretName.REFRESH_TOKEN_PEPPER: "keys the stored hashes of refresh tokens",
    SecretName.API_KEY_PEPPER: "keys the stored hashes of API keys, join tokens and device tokens",
    SecretName.CONNECT_SESSION_TOKEN_PEPPER: "keys the stored hashes of connect-session tokens",
}
_DEVELOPMENT = "development only, not a secret: "


class Judged(NamedTuple):
    """The secrets to use, or why not to start. `warnings`: one sentence for each built-in default in use."""

    values: Mapping[SecretName, bytes]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge_secrets(found: Mapping[SecretName, str | None], *, production: bool) -> Judged:
    """Every secret at once, so that an operator mends all in one go. No sentence repeats a value."""
    values: dict[SecretName, bytes] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for name in SecretName:
        value = found.get(name)
        if value is None and not production:
            values[name] = (_DEVELOPMENT + name.value).encode()
            warnings.append(f"{name.value} is not set: a known default {PURPOSE[name]}; never in production")
            continue
        fault = (
            "is not set; make all with: ambientd control-plane init"
            if value is None
            else fault_of_secret(value, production=production) or _twin(name, value, values)
        )
        if fault is not None or value is None:
            problems.append(f"{name.value} {fault} (it {PURPOSE[name]})")
        else:
            values[name] = value.encode()
    return Judged(values, tuple(problems), tuple(warnings))


def _twin(name: SecretName, value: str, before: Mapping[SecretName, bytes]) -> str | None:
    """Two kinds of tokens under one key: whoever learns one key has the other."""
    for other, taken in before.items():
        if taken == value.encode():
            return f"is the same as {other.value}; each needs one of its own"
    return None
