"""The flows of the control plane run on both databases, too."""

from tests.store.fleet.conftest import pg_place, place

__all__ = ["pg_place", "place"]
