"""A small local HTTP service of the standard library: a page to type a question, and the same as JSON.

    GET /                                  the page
    GET /search?q=怎么还款&k=5&threshold=0.6  {"question", "threshold", "matches": [{id, question, answer, ..}]}
    POST /search {"q": .., "k": .., "threshold": ..}  the same

It is meant for one machine: no accounts, no encryption. Put it behind a proxy that has them before others reach it.
"""

import dataclasses
import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from similarity.faq import FaqIndex
from trainer import UserError

PAGE = Path(__file__).with_name("page.html")
MOST_BYTES = 65_536  # of a request's body
MOST_MATCHES = 100


def answer(index: FaqIndex, fields: dict[str, Any]) -> dict[str, Any]:
    """The reply to a question.

    Raises:
        UserError: a field that is missing or of another kind.
    """
    question = fields.get("q")
    if not isinstance(question, str):
        raise UserError("the question is missing: give q")
    try:
        count = int(fields.get("k", 5))
        given = fields.get("threshold")
        threshold = None if given in (None, "") else float(given)
    except (TypeError, ValueError):
        raise UserError("k is a whole number and threshold a number") from None
    if not 1 <= count <= MOST_MATCHES:
        raise UserError(f"k must be from 1 to {MOST_MATCHES}, got {count}")
    matches = index.search(question, count, threshold)
    if threshold is None:
        threshold = index.calibration.threshold if index.calibration else None
    return {
        "question": question,
        "threshold": threshold,
        "matches": [dataclasses.asdict(match) for match in matches],
    }


def make_server(index: FaqIndex, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet running.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "similarity"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/":
                self._reply(HTTPStatus.OK, "text/html", PAGE.read_bytes())
            elif parts.path == "/search":
                fields = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                self._answer({"q": "", **fields} if "q=" in parts.query else fields)
            else:
                self._json(HTTPStatus.NOT_FOUND, {"error": f"nothing at {parts.path}; try /search?q="})

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length", 0))
                if not 0 <= length <= MOST_BYTES:
                    raise UserError(f"a request of {length} bytes; at most {MOST_BYTES}")
                fields = json.loads(self.rfile.read(length))
                if not isinstance(fields, dict):
                    raise UserError("expected a JSON object")
            except ValueError as error:  # UserError and JSONDecodeError are ValueErrors
                self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
                return
            self._answer(fields)

        def _answer(self, fields: dict[str, Any]) -> None:
            try:
                self._json(HTTPStatus.OK, answer(index, fields))
            except UserError as error:
                self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

        def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
            self._reply(status, "application/json", json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))

        def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Questions are private: nothing is logged."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}, port {port} ({error}); try --port 0 for a free one") from error


def serve_forever(index: FaqIndex, host: str, port: int) -> None:
    """Answer until Ctrl-C."""
    with make_server(index, host, port) as server:
        print(f"{len(index):,} questions at http://{host}:{server.server_port}  (Ctrl-C ends)", flush=True)
        server.serve_forever()
