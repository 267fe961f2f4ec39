"""Links and a clock that are as a test says."""

from datetime import datetime, timedelta

from ambientd.core.connectivity import Action, may
from ambientd.wire.enums import Connectivity


class FakeLinks:
    """Implements `ports.autonomy.ConnectivityView`."""

    def __init__(self, state: Connectivity = Connectivity.ONLINE) -> None:
        self.state = state

    def may(self, action: Action) -> bool:
        return may(self.state, action)


class FakeTrustedClock:
    """Implements `ports.autonomy.TrustedClock`: stands still until it is moved."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.doubt: str | None = None
        self.ahead = timedelta()

    def now(self) -> datetime:
        return self.at + self.ahead

    def reached(self) -> datetime:
        return self.at

    def move(self, **span: float) -> None:
        """Time goes on, by what `timedelta` takes."""
        self.at += timedelta(**span)

    def claim(self, **span: float) -> None:
        """The wall clock says that it is so much later, and nothing confirms it."""
        self.ahead = timedelta(**span)
        self.doubt = "the wall clock is ahead" if self.ahead else None
