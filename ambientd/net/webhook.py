"""Posts notifications to a web address. `httpcore2` is loaded only when one is sent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from ambientd.core.webhook import build_headers, is_delivered, may_help_again
from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.notifier import Undelivered
from ambientd.wire.alert_messages import AlertNotification

if TYPE_CHECKING:
    import httpcore2

# An answer says with its status all that matters; the rest is read only so far that nobody is cut off early.
ANSWER_MAX = 64 * 1024


class WebhookNotifier:
    """Implements `ports.notifier.Notifier`: one POST, no redirects, no proxy, nothing of the answer kept."""

    kind = "webhook"

    def __init__(
        self,
        *,
        url: str,
        key: Callable[[], bytes | None],
        clock: Clock,
        timeout: float,
        attempts: int,
        agent: str,
    ) -> None:
        """`key` reads the signature's key anew for each request, so that it can be replaced; it raises
        UnavailableError when that fails. `agent` is the User-Agent."""
        self._url = url
        self._key = key
        self._clock = clock
        self._agent = agent
        self.timeout = timeout
        self.attempts = attempts

    async def send(self, notification: AlertNotification) -> Undelivered | None:
        """One attempt; None when the answer was 2xx."""
        try:
            import httpcore2
        except ImportError:
            return Undelivered("the package httpcore2 is missing (the extra `webhook`)", again=False)
        body = msgspec.json.encode(notification)
        try:
            key = self._key()
        except UnavailableError as error:
            return Undelivered(f"the key cannot be used: {error}", again=False)
        headers = build_headers(notification.id, self._clock.now(), key, body)
        headers |= {"User-Agent": self._agent, "Connection": "close", "Content-Length": str(len(body))}
        try:
            return await self._post(list(headers.items()), body)
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            return Undelivered(_words(error))
        except OSError as error:
            return Undelivered(f"no connection: {error.strerror or type(error).__name__}")

    async def _post(
        self, headers: Sequence[tuple[bytes | str, bytes | str]], body: bytes
    ) -> Undelivered | None:
        import httpcore2

        async with (
            httpcore2.AsyncConnectionPool(max_connections=1, retries=0) as pool,
            pool.stream("POST", self._url, headers=headers, content=body) as answer,
        ):
            await _read_some(answer)
            if is_delivered(answer.status):
                return None
            told = f"answered {answer.status}"
            if 300 <= answer.status < 400:
                told += "; redirects are not followed"
            return Undelivered(told, again=may_help_again(answer.status))


async def _read_some(answer: "httpcore2.Response") -> None:
    taken = 0
    async with aclosing(answer.aiter_stream()) as parts:
        async for part in parts:
            taken += len(part)
            if taken > ANSWER_MAX:
                return


def _words(error: Exception) -> str:
    """What kind of trouble it was. The library's text may hold the address, which may hold a token."""
    import ssl

    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return "no TLS connection: another protocol, or a certificate that is not trusted"
    words = {"Connect": "no connection", "Timeout": "no answer in time", "Protocol": "the answer is no HTTP"}
    name = type(error).__name__
    return next((text for sign, text in words.items() if sign in name), f"the connection broke ({name})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
