"""The models that operators prefer for agents: kept in the store, used by the sessions that start later."""

from collections.abc import Mapping
from dataclasses import replace

from ambientd.config.schema import AgentConfig
from ambientd.ports.store import Store, Transaction

LOCAL, GATEWAY = "local", "gateway"
_PREFIX = "model."


class PreferredModels:
    """Read once, then written through. A model that left a local agent's allow-list counts no more."""

    def __init__(self) -> None:
        self._models: dict[str, str] = {}
        self._applied: tuple[Mapping[str, AgentConfig], Mapping[str, AgentConfig]] | None = None

    async def load(self, store: Store) -> None:
        """Reads what is kept; raises what `Store.read` raises."""
        self._models = dict(await store.read(lambda tx: tx.settings.beginning(_PREFIX)))
        self._applied = None

    def get(self, kind: str, agent_id: str) -> str | None:
        """The preferred model of an agent."""
        return self._models.get(f"{kind}.{agent_id}")

    @staticmethod
    def write(tx: Transaction, kind: str, agent_id: str, model: str) -> None:
        """Keeps a preference; `remember` follows once it is durable."""
        tx.settings.put(f"{_PREFIX}{kind}.{agent_id}", model)

    def remember(self, kind: str, agent_id: str, model: str) -> None:
        """A preference that is kept now."""
        self._models[f"{kind}.{agent_id}"] = model
        self._applied = None

    def apply(self, agents: Mapping[str, AgentConfig]) -> Mapping[str, AgentConfig]:
        """The node's own agents with their preferred models in place of the configured ones."""
        if self._applied is not None and self._applied[0] is agents:
            return self._applied[1]
        found = {agent_id: self._preferring(agent) for agent_id, agent in agents.items()}
        self._applied = (agents, found)
        return found

    def _preferring(self, agent: AgentConfig) -> AgentConfig:
        model = self.get(LOCAL, agent.id)
        if model is None or (agent.models and model not in agent.models):
            return agent
        return replace(agent, model=model)
