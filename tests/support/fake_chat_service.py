"""A chat-completions service on loopback that answers, fails or stalls as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes] | str | None


class FakeChatService:
    """Serves ``/v1/chat/completions``.

    Args:
        answer: Gets the number of the request, from 0, and its JSON body. Returns the text of a
            whole answer; status, headers and body of a raw one; or nothing to close the line.

    Attributes:
        bodies: The JSON bodies in order of arrival.
        keys: The ``Authorization`` headers.
        times: When each arrived, on the monotonic clock.
    """

    def __init__(self, answer: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(service.bodies)
                    service.bodies.append(body)
                    service.keys.append(self.headers.get("Authorization", ""))
                    service.times.append(time.monotonic())
                reply = answer(number, body)
                if reply is None:
                    self.close_connection = True
                    return
                status, headers, content = (
                    (200, {}, completion(reply)) if isinstance(reply, str) else reply
                )
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def completion(text: str, tokens: int = 100) -> bytes:
    """Return the body of a whole answer."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "fake",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": tokens - 1, "total_tokens": tokens},
        }
    ).encode()
