"""What must hold between the settings of one agent, of one notifier, and of the gateway."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ambientd.config.gateway_address import BadAddress, parse_address
from ambientd.config.problems import show_text
from ambientd.config.upstream import TARGETS_MAX, is_proxy, parse_control_url, parse_target
from ambientd.config.values import close_match

PLACEHOLDERS = ("prompt", "model", "session_id")
# The kernel takes no single argument of more than 128 KiB; the prompt replaces a placeholder later.
LONGEST_ARGUMENT = 64 * 1024

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
# `${name}` belongs to a shell, `{{name}}` to a template.
_PLACEHOLDER = re.compile(r"(?<![${])\{([A-Za-z_][A-Za-z0-9_]{0,31})\}(?!\})")


class Finding(NamedTuple):
    """A problem of one setting of the agent."""

    setting: str
    what: str
    value: str | None = None
    expected: str | None = None
    suggestion: str | None = None


def is_agent_id(text: str) -> bool:
    """Whether `text` can name an agent."""
    return _AGENT_ID.fullmatch(text) is not None


def is_variable_name(text: str) -> bool:
    """Whether `text` can name an environment variable."""
    return _VARIABLE.fullmatch(text) is not None


def check_agent(values: Mapping[str, Any]) -> list[Finding]:
    """Findings about an agent's given settings; settings that were not given or refused are absent."""
    findings = list(_check_command(values.get("command")))
    findings += _check_models(values)
    for name in ("workdir", "environment_file"):
        path = values.get(name)
        if path is not None and not path.startswith("/"):
            shown = show_text(path)
            expected = "an absolute path"
            findings.append(Finding(name, f"is {shown}, but must be {expected}", shown, expected))
    return findings


def check_notifier(values: Mapping[str, Any]) -> list[Finding]:
    """Findings about a notifier's given settings, as `check_agent`."""
    kind, command, url = values.get("kind"), values.get("command"), values.get("url")
    findings = []
    for name, needed, value in (("command", "command", command), ("webhook", "url", url)):
        if kind == name and value is None:
            expected = f"another kind, or {needed} beside it"
            findings.append(Finding("kind", f"is {show_text(name)}, which needs {needed}", expected=expected))
    if command is not None and (not command or not command[0].strip()):
        expected = "a program and its arguments"
        findings.append(Finding("command", f"names no program: it must be {expected}", expected=expected))
    if url is not None and not _is_web_address(url):
        expected = "http:// or https://, a host, and no user name"
        findings.append(Finding("url", f"cannot be used: it must be {expected}", expected=expected))
    secret = values.get("secret_file")
    if secret is not None and not secret.startswith("/"):
        findings.append(Finding("secret_file", "must be an absolute path", expected="an absolute path"))
    return findings


def check_gateway(values: Mapping[str, Any]) -> list[Finding]:
    """Findings about the gateway's given settings, as `check_agent`."""
    findings = []
    url, token_file = values.get("url"), values.get("token_file")
    if url is not None:
        address = parse_address(url, allow_plain=values.get("allow_plain") is True)
        if isinstance(address, BadAddress):
            findings.append(Finding("url", f"cannot be used: it {address.reason}", expected=address.reason))
    if token_file is not None and not token_file.startswith("/"):
        findings.append(Finding("token_file", "must be an absolute path", expected="an absolute path"))
    return findings


def check_connectivity(values: Mapping[str, Any]) -> list[Finding]:
    """Findings about the given settings of what is probed, as `check_agent`."""
    targets = values.get("targets") or ()
    expected = 'host:port ("1.1.1.1:443", "[2606:4700:4700::1111]:443")'
    findings = []
    for target in targets:
        if parse_target(target) is None:
            shown = show_text(target)
            findings.append(
                Finding("targets", f"has {shown}, but must be {expected}", value=shown, expected=expected)
            )
    if len(targets) > TARGETS_MAX:
        most = f"at most {TARGETS_MAX} targets"
        findings.append(Finding("targets", f"has {len(targets)}, but must be {most}", expected=most))
    return findings


def check_control_plane(values: Mapping[str, Any]) -> list[Finding]:
    """Findings about the control plane's given settings, as `check_agent`. The address is not repeated: it
    may hold a password."""
    findings = []
    url, proxy = values.get("url"), values.get("proxy")
    if url is not None and isinstance(reason := parse_control_url(url), str):
        findings.append(Finding("url", f"cannot be used: it {reason}", expected=reason))
    for name in ("ca_file", "client_cert", "client_key"):
        path = values.get(name)
        if path is not None and not path.startswith("/"):
            findings.append(Finding(name, "must be an absolute path", expected="an absolute path"))
    if values.get("client_key") is not None and values.get("client_cert") is None:
        expected = "client_cert beside it"
        findings.append(Finding("client_key", f"is of no use without {expected}", expected=expected))
    if proxy is not None and not is_proxy(proxy):
        expected = "http:// or socks5://, a host and a port"
        findings.append(Finding("proxy", f"cannot be used: it must be {expected}", expected=expected))
    return findings


def _is_web_address(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and port != 0


def _check_command(command: tuple[str, ...] | None) -> Iterator[Finding]:
    if command is None:
        return
    if not command or not command[0].strip():
        expected = "a program and its arguments"
        yield Finding("command", f"names no program: it must be {expected}", expected=expected)
        return
    if _PLACEHOLDER.search(command[0]):
        yield Finding(
            "command",
            "has a placeholder in place of the program",
            value=show_text(command[0]),
            expected="a fixed program as the first element",
        )
    for number, argument in enumerate(command, 1):
        if len(argument) > LONGEST_ARGUMENT:
            expected = f"at most {LONGEST_ARGUMENT} characters per element"
            yield Finding("command", f"is too long in element {number}", expected=expected)
        else:
            yield from _check_placeholders(argument)


def _check_placeholders(argument: str) -> Iterator[Finding]:
    """Unknown placeholders. In a script (anything with blanks or quotes) braces are ordinary, so there
    only a near miss counts."""
    script = any(c.isspace() or c in "'\"`;" for c in argument)
    for found in _PLACEHOLDER.finditer(argument):
        word = found[1]
        if word in PLACEHOLDERS:
            continue
        match = close_match(word, PLACEHOLDERS, cutoff=0.75)
        if match is None and script:
            continue
        expected = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
        yield Finding(
            "command",
            f"has the unknown placeholder {{{word}}}; known are {expected}",
            value=f"{{{word}}}",
            expected=expected,
            suggestion=f"{{{match}}}" if match else None,
        )


def _check_models(values: Mapping[str, Any]) -> Iterator[Finding]:
    models = values.get("models") or ()
    if any(not model for model in models):
        yield Finding("models", "has an empty name", expected="names of models")
    model = values.get("model")
    if model is None or not models or model in models:
        return
    shown = show_text(model)
    match = close_match(model, models)
    yield Finding(
        "model",
        f"is {shown}, which is not in models",
        value=shown,
        expected="one of models",
        suggestion=show_text(match) if match else None,
    )
