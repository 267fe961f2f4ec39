"""The secret of HTTP on TCP: where it comes from, and whether the node may start with it (R1.69, R3.34).

Looked for before any socket is opened. Nothing that is said about it repeats it.
"""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ambientd.config.schema import Config, Mode
from ambientd.core.weaksecret import fault_of_secret
from ambientd.host.secrets import Secret, SecretError, find_secret

CREDENTIAL = "http.secret"
# The second one is the gateway's; it opens this door too, but only on a developer's machine (R3.34).
VARIABLES = ("HELICARRIER_SECRET", "OPENCLAW_AUTH_TOKEN")


class HttpKey(NamedTuple):
    """The outcome: a secret, or why HTTP is off, or why the node must not start."""

    secret: Secret | None = None
    off: str | None = None
    problems: tuple[str, ...] = ()


def find_http_key(config: Config, environ: Mapping[str, str]) -> HttpKey:
    """Credential, then file, then variable; the first place that gives one decides."""
    http, production = config.http, config.node.mode is Mode.PRODUCTION
    if http.enabled is False:
        return HttpKey(off="http.enabled is false")
    try:
        found = next(_found(config, environ), None)
    except SecretError as error:
        return HttpKey(problems=tuple(f"http: {problem}" for problem in error.problems))
    if found is None:
        missing = _missing(environ, production=production)
        if http.enabled:
            return HttpKey(problems=(f"http.enabled is true, but {missing}",))
        return HttpKey(off=missing)
    origin, secret = found
    fault = fault_of_secret(secret.reveal(), production=production)
    if fault is not None:
        return HttpKey(problems=(f"{origin} {fault}",))
    return HttpKey(secret=secret)


def _found(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[str, Secret]]:
    secret = find_secret(CREDENTIAL, environ=environ)
    if secret is not None:
        yield f"the credential {CREDENTIAL}", secret
    if config.http.secret_file is not None:
        path = config.http.secret_file
        secret = find_secret(CREDENTIAL, environ={}, file=path)
        if secret is not None:
            yield f"http.secret_file ({path})", secret
    for name in VARIABLES if config.node.mode is Mode.DEVELOPMENT else VARIABLES[:1]:
        secret = find_secret(CREDENTIAL, environ={name: environ.get(name, "")}, variables=(name,))
        if secret is not None:
            yield name, secret


def _missing(environ: Mapping[str, str], *, production: bool) -> str:
    own, gateways = VARIABLES
    text = f"there is no secret: set {own} or http.secret_file"
    if production and environ.get(gateways):
        text += f" ({gateways} opens HTTP in development only)"
    return text


def make_key_file(path: str) -> None:
    """A fresh secret in a private file, for development; an existing file is left as it is."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(fd, "wb") as file:
        file.write(os.urandom(32).hex().encode() + b"\n")
