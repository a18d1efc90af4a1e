"""A small local HTTP service of the standard library: a page to type a question, and the same as JSON.

    GET /                                  the page
    GET /search?q=怎么还款&k=5&threshold=0.6  {"question", "threshold", "matches": [{id, question, answer, ..}]}
    POST /search {"q": .., "k": .., "threshold": ..}  the same

It is meant for one machine: no accounts, no encryption. Put it behind a proxy that has them before others reach it.
"""

import dataclasses
import json
import math
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from similarity.faq import FaqIndex
from trainer import UserError

PAGE = Path(__file__).with_name("page.html")
MOST_BYTES = 65_536  # of a request's body
MOST_DRAINED = 1 << 26  # bytes of a larger body that are read before it is refused: else the sender sees a broken pipe
SECONDS = 10  # that a request may keep silent
MOST_MATCHES = 100


def answer(index: FaqIndex, fields: dict[str, Any]) -> dict[str, Any]:
    """The reply to a question.

    Raises:
        UserError: a field that is missing or of another kind.
    """
    question = fields.get("q")
    if not isinstance(question, str):
        raise UserError("the question is missing: give q")
    count, given = fields.get("k", 5), fields.get("threshold")
    try:  # from a URL both are text
        count = int(count) if isinstance(count, str) else count
        threshold = None if given in (None, "") else float(given)
        fine = type(count) is int and not isinstance(given, bool) and math.isfinite(threshold or 0)
    except (TypeError, ValueError, OverflowError):
        fine = False
    if not fine:
        raise UserError("k is a whole number and threshold a number")
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
        timeout = SECONDS

        def do_GET(self) -> None:
            try:
                parts = urlsplit(self.path)
                fields = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            except ValueError as error:
                self._json(HTTPStatus.BAD_REQUEST, {"error": f"not a URL ({error})"})
                return
            if parts.path == "/":
                self._reply(HTTPStatus.OK, "text/html", PAGE.read_bytes())
            elif parts.path == "/search":
                self._answer(fields)
            else:
                self._json(HTTPStatus.NOT_FOUND, {"error": f"nothing at {parts.path}; try /search?q="})

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length", 0))
                if length < 0:
                    raise UserError(f"a request of {length} bytes")
                if length > MOST_BYTES:
                    self._drain(length)
                    message = f"a request of {length} bytes; at most {MOST_BYTES}"
                    self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": message})
                    return
                fields = json.loads(self.rfile.read(length))
                if not isinstance(fields, dict):
                    raise UserError("expected a JSON object")
            except (ValueError, RecursionError) as error:  # UserError and JSONDecodeError are ValueErrors
                self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
                return
            except TimeoutError:
                message = f"less than the {length} bytes of Content-Length came within {SECONDS} s"
                self._json(HTTPStatus.REQUEST_TIMEOUT, {"error": message})
                return
            self._answer(fields)

        def _drain(self, length: int) -> None:
            for first in range(0, min(length, MOST_DRAINED), MOST_BYTES):
                if not self.rfile.read(min(MOST_BYTES, length - first)):
                    return

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
