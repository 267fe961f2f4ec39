"""The environment of an agent's processes: a scrubbed base, then what is configured for the agent."""

from collections.abc import Mapping
from functools import partial

from ambientd.config.schema import AgentConfig
from ambientd.core.agent_output import scrub_environment
from ambientd.host.secrets import SecretError, read_environment_file
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.environment import BadEnvironment


class HostAgentEnvironment:
    """Implements `ports.environment.AgentEnvironment`. `base` is the daemon's own environment."""

    def __init__(self, base: Mapping[str, str], *, run_sync: RunSync = run_in_thread) -> None:
        self._base = base
        self._run = run_sync

    async def of(self, agent: AgentConfig) -> Mapping[str, str] | BadEnvironment:
        """The allow-listed base, the agent's variables, and on top those of its environment file."""
        secrets: Mapping[str, str] = {}
        if agent.environment_file is not None:
            try:
                read = await self._run(partial(read_environment_file, agent.environment_file))
            except SecretError as error:
                return BadEnvironment(str(error))
            secrets = {name: secret.reveal() for name, secret in read.items()}
        return scrub_environment(self._base, {**agent.environment, **secrets})
