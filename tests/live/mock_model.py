"""A model that does as its name says, over the chat completions protocol of OpenAI.

    mock-fast   answers at once, with usage        mock-slow   streams a word a second for a minute
    mock-short  streams for eight seconds          mock-hang   takes the request and says nothing
    mock-400    refuses with HTTP 400              mock-tool   asks for a shell command, then answers

Requests without tools are about a session's title and are answered at once whatever the model. The command
of `mock-tool` is the rest of the line after the last "RUN:" that the user said.

    python3 tests/live/mock_model.py [PORT]
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Json = dict[str, Any]
# 1,003 tokens went in, of which 100 came from a cache; the gateway reports 903 and the price below.
USAGE: Json = {
    "prompt_tokens": 1003,
    "completion_tokens": 42,
    "total_tokens": 1045,
    "prompt_tokens_details": {"cached_tokens": 100},
}
INPUT_TOKENS, OUTPUT_TOKENS = 903, 42
PRICES = {"input": 1, "output": 2, "cacheRead": 0.1, "cacheWrite": 0}  # US$ per million
COST_USD = (903 * 1 + 42 * 2 + 100 * 0.1) / 1e6
SLOW_WORDS, SHORT_WORDS = 60, 8
HANG_SEC = 300.0


@dataclass(frozen=True)
class Call:
    """One request for a completion. `is_title`: about the name of a session, not part of a run."""

    at: float
    model: str
    is_title: bool
    prompt: str


class MockModel:
    """The server, in a thread of its own. `calls` is what was asked; `streaming` how many answers flow."""

    def __init__(self, port: int = 0) -> None:
        self.calls: list[Call] = []
        self.streaming = 0
        self.ended: list[tuple[float, str]] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def runs(self, model: str) -> list[Call]:
        """The calls of a model that are part of runs."""
        return [call for call in list(self.calls) if call.model == model and not call.is_title]


def _handler(mock: MockModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            self._json(200, {"object": "list", "data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            model, prompt = str(body.get("model", "")).rpartition("/")[2], _prompt(body)
            is_title = not body.get("tools")
            mock.calls.append(Call(time.monotonic(), model, is_title, prompt))
            if is_title:
                self._answer(body, _text("A title"))
            elif model == "mock-400":
                self._json(400, {"error": {"message": "mock says 400", "type": "invalid_request_error"}})
            elif model == "mock-hang":
                mock.closing.wait(HANG_SEC)
                self.close_connection = True
            else:
                self._answer(body, _script(mock, model, body, prompt))
            mock.ended.append((time.monotonic(), model))

        def _json(self, status: int, value: Json) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, body: Json, pieces: Iterator[Json]) -> None:
            if not body.get("stream"):
                self._json(200, _whole(body, list(pieces)))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with mock.lock:
                mock.streaming += 1
            try:
                for piece in pieces:
                    self._event(json.dumps(_chunk(body, piece)))
                self._event(json.dumps(_chunk(body, None)))
                self._event("[DONE]")
            except OSError:
                pass  # it was killed
            finally:
                with mock.lock:
                    mock.streaming -= 1

        def _event(self, data: str) -> None:
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()

    return Handler


def _prompt(body: Json) -> str:
    """What the user said; the gateway adds messages of its own in the same role."""
    said = []
    for message in body.get("messages") or []:
        if message.get("role") == "user":
            content = message.get("content")
            parts = (
                [content] if isinstance(content, str) else [part.get("text", "") for part in content or []]
            )
            said += [str(part) for part in parts]
    return "\n".join(said)


def _script(mock: MockModel, model: str, body: Json, prompt: str) -> Iterator[Json]:
    if model == "mock-slow":
        return _words(mock, SLOW_WORDS)
    if model == "mock-short":
        return _words(mock, SHORT_WORDS)
    answered = any(message.get("role") == "tool" for message in body.get("messages") or [])
    if model == "mock-tool" and not answered:
        return _tool(prompt.rpartition("RUN:")[2].partition("\n")[0].strip() or "true")
    return _text("hello from mock")


def _words(mock: MockModel, count: int) -> Iterator[Json]:
    for number in range(count):
        yield {"delta": {"role": "assistant", "content": f"word{number} "}}
        if mock.closing.wait(1.0):
            return
    yield {"delta": {}, "finish_reason": "stop"}


def _text(text: str) -> Iterator[Json]:
    yield {"delta": {"role": "assistant", "content": text}}
    yield {"delta": {}, "finish_reason": "stop"}


def _tool(command: str) -> Iterator[Json]:
    function = {"name": "exec", "arguments": json.dumps({"command": command})}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    yield {"delta": {"role": "assistant", "tool_calls": [call]}}
    yield {"delta": {}, "finish_reason": "tool_calls"}


def _chunk(body: Json, piece: Json | None) -> Json:
    """One event of a stream; None is the last, with the usage."""
    head = {"id": "mock", "object": "chat.completion.chunk", "created": 0, "model": body.get("model")}
    if piece is None:
        return head | {"choices": [], "usage": USAGE}
    return head | {"choices": [{"index": 0, "finish_reason": None} | piece]}


def _whole(body: Json, pieces: list[Json]) -> Json:
    message: Json = {"role": "assistant", "content": ""}
    finish = "stop"
    for piece in pieces:
        message["content"] += piece["delta"].get("content", "")
        if "tool_calls" in piece["delta"]:
            message["tool_calls"] = piece["delta"]["tool_calls"]
        finish = piece.get("finish_reason") or finish
    return {
        "id": "mock",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }


if __name__ == "__main__":
    with MockModel(int(sys.argv[1]) if len(sys.argv) > 1 else 18999) as served:
        print(f"http://127.0.0.1:{served.port}/v1", flush=True)
        threading.Event().wait()
