"""A headless Chromium driven over its DevTools protocol, for tests of pages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the path of a browser, or skip the test."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser here ({', '.join(NAMES)}): apt-get install --no-install-recommends chromium")


class Tab:
    """One tab: commands of the protocol, and all that its pages ask for and complain of."""

    def __init__(self, socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop = socket, loop
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs = 0

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._command(method, parameters))

    async def _command(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await asyncio.wait_for(self._socket.read_message(), 60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message.get("result", {})
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(parameters["url"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs += 1
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert", "warning"):
            self.complaints.append(json.dumps(parameters["args"])[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(parameters["entry"])[:500])

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        self.resize(width, height)
        self.command("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def evaluate(self, expression: str) -> Any:
        done = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 40.0) -> Any:
        """Return the value of an expression once it is true."""
        for _ in range(int(seconds * 5)):
            if value := self.evaluate(expression):
                return value
            self._loop.run_until_complete(asyncio.sleep(0.2))
        raise AssertionError(f"not within {seconds} s: {expression}; complaints: {self.complaints}")

    def text(self) -> str:
        """Return all text of the page, also inside shadow roots."""
        return str(self.evaluate(f"({TEXT})(document.body)"))

    def until_text(self, wanted: str, seconds: float = 40.0) -> None:
        self.until(f"({TEXT})(document.body).includes({json.dumps(wanted)})", seconds)

    def move(self, x: float, y: float) -> None:
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save a picture of the page, of all its length or of the window."""
        options: dict[str, Any] = {}
        if whole:
            size = self.command("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        done = self.command("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(done["data"]))


TEXT = """function all(node) {
  if (!node) return "";
  if (node.nodeType === 3) return node.textContent + " ";
  if (["SCRIPT", "STYLE"].includes(node.tagName)) return "";
  let found = node.shadowRoot ? all(node.shadowRoot) : "";
  for (const child of node.childNodes) found += all(child);
  return found;
}"""


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Start a browser with a profile in `folder` and give a tab of it."""
    from tornado.websocket import websocket_connect

    command = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        port = _wait_for(lambda: (folder / "profile" / "DevToolsActivePort").read_text().split()[0], process)

        def first_page() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])

        address = _wait_for(first_page, process)

        async def connect() -> Any:
            return await websocket_connect(address, max_message_size=2**28)

        tab = Tab(loop.run_until_complete(connect()), loop)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.command(f"{domain}.enable")
        yield tab
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        loop.close()


def _wait_for(ask: Callable[[], str], process: subprocess.Popen[bytes]) -> str:
    import time

    for _ in range(300):
        assert process.poll() is None, "the browser ended"
        with contextlib.suppress(OSError, IndexError, ValueError):
            return ask()
        time.sleep(0.1)
    raise AssertionError("the browser did not start")
