"""`ledger`: what goes into the ledger from outside, and what is done to it as a whole."""

from ambientctl.cli import Verbs
from ambientctl.commands.export import export
from ambientctl.commands.ingest import ingest
from ambientctl.commands.legacy import import_, verify_import
from ambientctl.commands.recost import recost

ledger = Verbs(
    "ledger",
    help="What goes into the ledger from outside, and what is done to it as a whole.",
    example="ambientctl ledger import /srv/helicarrier/web/data --dry-run",
)
ledger.add_command(ingest)
ledger.add_command(recost)
ledger.add_command(export)
ledger.add_command(import_)
ledger.add_command(verify_import)
