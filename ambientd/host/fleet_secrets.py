"""Where the control plane's secrets lie: systemd credentials, private files, or variables of their names."""

import os
from collections.abc import Mapping
from pathlib import Path

from ambientd.core.fleet.secrets import SecretName
from ambientd.host.private_file import make_private
from ambientd.host.secrets import ENV_CREDENTIALS, SecretError, find_secret

FOLDER = "secrets"
_BYTES = 32


def find_fleet_secrets(
    state_dir: Path, environ: Mapping[str, str]
) -> tuple[dict[SecretName, str | None], list[str]]:
    """Every secret that is given somewhere, and what is wrong with the places that give one.

    Credential, then `<state>/secrets/<NAME>`, then the variable; the first that is there decides.
    """
    found: dict[SecretName, str | None] = {}
    problems: list[str] = []
    for name in SecretName:
        file = state_dir / FOLDER / name.value
        try:
            secret = find_secret(
                name.value,
                environ=environ,
                file=str(file) if os.path.lexists(file) else None,
                variables=(name.value,),
            )
        except SecretError as error:
            problems.extend(f"{name.value}: {problem}" for problem in error.problems)
            found[name] = None
            continue
        found[name] = None if secret is None else secret.reveal()
    return found, problems


def make_fleet_secrets(state_dir: Path, environ: Mapping[str, str]) -> list[SecretName]:
    """Makes the files that are missing, 0600, durably; existing ones are never touched. Which were made.

    None is made for a secret that comes as a credential or a variable. Raises OSError when the folder cannot
    be written.
    """
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [
        name
        for name in SecretName
        if not (environ.get(name.value) or is_credential(name.value, environ))
        and make_private(folder / name.value, os.urandom(_BYTES).hex())
    ]


def is_credential(name: str, environ: Mapping[str, str]) -> bool:
    """Whether systemd passes a secret on, good or not."""
    directory = environ.get(ENV_CREDENTIALS)
    return directory is not None and os.path.lexists(f"{directory}/{name}")
