"""The fake gateway as a child process, for tests that need another process to talk to."""

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from tests.fakes.gateway.recordings import FOLDER

_ROOT = FOLDER.parents[2]


class FakeGatewayProcess:
    """`with FakeGatewayProcess("--auto-run", "0.2") as gateway: gateway.do("finish", session=…)`."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.url = self.token = ""
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.fakes.gateway", *self._arguments]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        first = self._line()
        self.url, self.port, self.token = first["url"], first["port"], first["token"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()

    def do(self, command: str, /, **arguments: Any) -> Any:
        """Sends a command of `__main__.COMMANDS`; its result. RuntimeError when it was refused."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": command} | arguments) + "\n")
        self._child.stdin.flush()
        answer = self._line()
        if not answer["ok"]:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def _line(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the fake gateway ended")
        return json.loads(line)
