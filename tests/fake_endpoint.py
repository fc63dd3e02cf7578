"""An endpoint of OpenAI's chat completions on this machine that answers as a test says: well, badly, late or not."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text, finish_reason="stop", tokens=(7, 3), **message):
    """The body of a good answer."""
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text} | message,
            }
        ],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


class FakeEndpoint:
    """Serves `reply(body, number)` on a port of its own until the block ends.

    `reply` gets the request's JSON and its number from 0, and returns a text, a body, or (status, headers, body).
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Any]):
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_in_flight = self._in_flight = 0
        lock, fake = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(fake.bodies)
                    fake.bodies.append(body)
                    fake.headers.append({name.lower(): value for name, value in self.headers.items()})
                    fake.times.append(time.monotonic())
                    fake._in_flight += 1
                    fake.most_in_flight = max(fake.most_in_flight, fake._in_flight)
                try:
                    answer = reply(body, number)
                finally:
                    with lock:
                        fake._in_flight -= 1
                status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
                if isinstance(content, str):
                    content = completion(content)
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(status)
                    kind = "text/html" if raw.startswith(b"<") else "application/json"
                    for name, value in ({"content-type": kind, "content-length": len(raw)} | headers).items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    self.close_connection = True  # the client has given up, as some tests want it to

            def log_message(self, *_):
                """Say nothing: a test's output is its own."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256  # with five, connections made at once are repeated a second later

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
