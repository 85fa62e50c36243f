"""A local S3 server (moto), and a proxy before it that counts requests and makes some of them fail."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def moto_server() -> Iterator[int]:
    """Start a server in a process of its own and give its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://{_HOST}:{port}/moto-api/", timeout=5)
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@dataclass
class Fault:
    """What befalls the next `times` requests whose ``"METHOD /bucket/key?query"`` matches.

    `what` is a status with an S3 code, such as ``"503 SlowDown"``; ``"drop"`` the connection instead of forwarding;
    ``"lose"`` the answer after forwarding; or ``"hang"``: answer nothing for `seconds`, then drop.
    """

    pattern: str
    what: str
    times: int = 1
    seconds: float = 0.0
    n_hit: int = 0


class FaultProxy:
    """An HTTP proxy before the server.

    Attributes
    ----------
    requests
        ``"METHOD /bucket/key?query"`` of all requests so far.
    latency_s
        How much later every request is answered.
    """

    def __init__(self, target: int) -> None:
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.latency_s = 0.0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy._noted(f"{self.command} {unquote(self.path)}")
                if proxy.latency_s:
                    time.sleep(proxy.latency_s)
                if fault is None or fault.what == "lose":
                    answer = self._forward(target, body)
                    if fault is None:
                        self._answer(*answer)
                        return
                elif fault.what == "hang":
                    time.sleep(fault.seconds)
                elif fault.what != "drop":
                    status, code = fault.what.split()
                    text = (
                        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>"
                    )
                    self._answer(int(status), {"Content-Type": "application/xml"}, text.encode())
                    return
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

            def _forward(self, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(_HOST, port, timeout=60)
                try:
                    headers = dict(self.headers.items())
                    connection.request(self.command, self.path, body=body or None, headers=headers)
                    response = connection.getresponse()
                    return response.status, dict(response.getheaders()), response.read()
                finally:
                    connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "server",
                        "date",
                    ):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((_HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    def fail(self, pattern: str, what: str, times: int = 1, seconds: float = 0.0) -> Fault:
        fault = Fault(pattern, what, times, seconds)
        self.faults.append(fault)
        return fault

    def calm(self) -> None:
        self.faults.clear()
        self.latency_s = 0.0

    def counts(self) -> dict[str, int]:
        """Return the requests so far by what they are: GET, HEAD, PUT, DELETE, LIST."""
        return dict(
            Counter("LIST" if "list-type=2" in item else item.partition(" ")[0] for item in self.requests)
        )

    def _noted(self, request: str) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.n_hit < fault.times and re.search(fault.pattern, request):
                    fault.n_hit += 1
                    return fault
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def make_bucket(port: int, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"http://{_HOST}:{port}/{name}", method="PUT"), timeout=10)


def environment(url: str) -> dict[str, str]:
    """Return the environment that finds the server, with a key and a secret that must show up nowhere."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS",
        "AWS_SECRET_ACCESS_KEY": "SECRETOFTHETESTS",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def upload(folder: Path, address: str) -> None:
    """Copy a folder into a bucket, object by object."""
    from stabdask.files import place_of

    root = place_of(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (root / path.relative_to(folder).as_posix()).write(path.read_bytes())


def objects_of(address: str) -> dict[str, bytes]:
    """Return the bytes of all objects below an address but receipts, whose times differ, and the lock."""
    from stabdask.files.places import place_of

    root = place_of(address)
    names = sorted(str(item["path"])[len(root.key) + 1 :] for item in root.objects())
    kept = [name for name in names if not name.startswith("receipts/")]
    return dict(zip(kept, root.read_many(kept), strict=True))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder but receipts and the lock, as `objects_of`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "receipts"
    }
