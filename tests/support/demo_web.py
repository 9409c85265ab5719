"""A web server to be watched over: `python demo_web.py NAME HOST PORT`.

Every page says which server gave it; `/health` is what the checks ask. SIGTERM ends it.
"""

from __future__ import annotations

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> None:
    name, host, port = sys.argv[1:]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{'healthy' if self.path == '/health' else 'hello from ' + name}\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing: a check a second would fill the terminal."""

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer((host, int(port)), Page).serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
