"""The environment of an agent's processes."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ambientd.config.schema import AgentConfig


class BadEnvironment(msgspec.Struct, frozen=True):
    """Why an agent's environment cannot be made; never holds a value."""

    message: str


class AgentEnvironment(Protocol):
    """Scrubbed base, configured variables, variables of the environment file."""

    async def of(self, agent: AgentConfig) -> Mapping[str, str] | BadEnvironment:
        """The variables for one start; the environment file is read anew each time."""
