"""A local endpoint that speaks the OpenAI protocol for chat completions, and can be slow, rude and wrong.

Every reply costs a quarter of the request's bytes in tokens, and what it cost is counted here, whether it was read or
not.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


class Endpoint(ThreadingHTTPServer):
    """Answers each request by `script(number, messages)`: a text, or a status with headers and a body."""

    daemon_threads = True

    def __init__(self, script: "Callable[[int, list[dict[str, str]]], str | Reply]") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.requests = 0
        self.tokens = 0
        self.answered: Counter[str] = Counter()
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked, own = json.loads(body), self.server
        assert self.path == "/v1/chat/completions"
        with own.lock:
            own.requests += 1
            number = own.requests
            own.keys.append(self.headers.get("Authorization"))
            own.at_once += 1
            own.most_at_once = max(own.most_at_once, own.at_once)
        try:
            reply = own.script(number, asked["messages"])
        finally:
            with own.lock:
                own.at_once -= 1
        if isinstance(reply, str):
            tokens = len(body) // 4
            with own.lock:
                own.tokens += tokens
                own.answered[body.decode()] += 1
            choices = [{"index": 0, "message": {"role": "assistant", "content": reply}}]
            reply = 200, {}, json.dumps({"choices": choices, "usage": {"total_tokens": tokens}}).encode()
        status, headers, content = reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing is printed."""


def stalled(seconds: float, then: str) -> str:
    """The same reply, late."""
    time.sleep(seconds)
    return then
