"""How well a node is, as one figure from 0 to 100 for the control plane. Pure."""

from collections.abc import Iterable

from ambientd.core.health import CRITICAL, WARNING
from ambientd.core.pushbodies import Meters
from ambientd.wire.messages import Problem

BEST = 100.0
# What each is worth; a node below 70 does not count as healthy at the control plane.
_WORTH = {CRITICAL: 40.0, WARNING: 10.0}
WARNINGS_MOST = 30.0
FULL, FULL_WORTH = 95.0, 20.0  # percent of memory or disk
UNSEEN_WORTH = 5.0  # memory or disk that cannot be read: it may be full
# That the control plane was away is no fault of the node.
_NOT_ITS_OWN = ("control.",)


def health_score(problems: Iterable[Problem], meters: Meters) -> float:
    """100 for a node without a problem; less for each that a person should look at, and for a disk or memory
    that is full or cannot be read. Its loads stand beside it in a report; those that could not be read are
    missing there."""
    own = [one for one in problems if not one.id.startswith(_NOT_ITS_OWN)]
    warnings = sum(_WORTH[WARNING] for one in own if one.severity == WARNING)
    score = BEST - min(warnings, WARNINGS_MOST)
    score -= sum(_WORTH[CRITICAL] for one in own if one.severity == CRITICAL)
    for load in (meters.memory, meters.disk):
        if load is None:
            score -= UNSEEN_WORTH
        elif load >= FULL:
            score -= FULL_WORTH
    return max(0.0, score)
