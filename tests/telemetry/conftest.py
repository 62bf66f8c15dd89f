"""An exporter on loopback."""

from __future__ import annotations

import http.server
import threading

import pytest


class Exporter(http.server.ThreadingHTTPServer):
    """Serves ``answers`` one after another, the last for ever."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.asked = list(answers), 0
        self.hold = threading.Event()
        self.hold.set()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/metrics"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answers = self.server.answers
        self.server.asked += 1
        code, text = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(code)
        self.end_headers()
        self.server.hold.wait(10)
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def exporter():
    made = []

    def make(*answers):
        made.append(Exporter(*answers))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()
        one.server_close()
