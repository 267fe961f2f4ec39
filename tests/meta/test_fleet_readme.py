"""README and help of the control plane name what an operator has to know."""

from ambientd.core.fleet.secrets import SecretName
from ambientd.main.control_plane import _TEXT
from ambientd.main.fleet_start import DATABASE_PASSWORD
from tests.meta.tree import ROOT

README = (ROOT / "README.md").read_text()


def test_readme_and_help_name_every_secret() -> None:
    for name in (*SecretName, "ISSUER_KEY", "LEASE_ISSUER_KEY", DATABASE_PASSWORD):
        assert f"`{name}`" in README
        assert str(name) in _TEXT
    assert "change-me" in README  # the placeholder that is refused


def test_the_readme_says_which_routes_are_open() -> None:
    for path in ("/livez", "/readyz", "/api/v1/health"):
        assert f"`{path}`" in README
