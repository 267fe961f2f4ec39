"""The control plane's own signing keys: where they lie, and making them. One signs policies, one leases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ambientd.core.ed25519 import KEY_BYTES, parse_seed
from ambientd.host.fleet_secrets import FOLDER, is_credential
from ambientd.host.private_file import make_private
from ambientd.host.secrets import SecretError, find_secret

POLICY_KEY, LEASE_KEY = "ISSUER_KEY", "LEASE_ISSUER_KEY"


class IssuerKeys(NamedTuple):
    """Seeds (32 bytes), None for a control plane that does not sign."""

    policy: bytes | None = None
    lease: bytes | None = None


def find_issuer_keys(state_dir: Path, environ: Mapping[str, str]) -> tuple[IssuerKeys, list[str]]:
    """The keys that are there (credentials, then `<state>/secrets/…`), and what is wrong with others."""
    problems: list[str] = []
    found: list[bytes | None] = []
    for name in (POLICY_KEY, LEASE_KEY):
        file = state_dir / FOLDER / name
        try:
            secret = find_secret(name, environ=environ, file=str(file) if os.path.lexists(file) else None)
        except SecretError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
            found.append(None)
            continue
        seed = None if secret is None else parse_seed(secret.reveal())
        if secret is not None and seed is None:
            problems.append(f"{name} is no private key (64 hexadecimal digits)")
        found.append(seed)
    return IssuerKeys(*found), problems


def make_issuer_keys(state_dir: Path, environ: Mapping[str, str]) -> list[str]:
    """Makes the files that are missing, 0600; existing ones are never touched. Which were made.

    None is made for a key that comes as a credential. Raises OSError when the folder cannot be written.
    """
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = (POLICY_KEY, LEASE_KEY)
    return [
        name
        for name in names
        if not is_credential(name, environ) and make_private(folder / name, os.urandom(KEY_BYTES).hex())
    ]
