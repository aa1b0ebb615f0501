"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 30  # seconds


class Browser:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.number = connection, 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The response of the browser to a method of the protocol.

        What it reports of the page meanwhile is kept.
        """
        self.number += 1
        self.connection.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=_PATIENCE))
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(message["params"]["exceptionDetails"]["exception"]["description"])
        if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + _PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.complaints}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.body?.dataset.ready")

    def leave(self) -> None:
        """Leave the page, whose server may have ended."""
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")

    def shape(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def middle(self, selector: str, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """A place of an element, in the window's pixels; the element is scrolled into view."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        return box[0] + across * box[2], box[1] + down * box[3]

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        x, y = self.middle(selector, across, down)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if "P" in kind or "R" in kind else "none",
                      clickCount=0 if kind == "mouseMoved" else 1)  # fmt: skip

    def drop(self, selector: str, *files: Path) -> None:
        x, y = self.middle(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str) -> None:
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Home": 36, "End": 35}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def key(self, key: str) -> None:
        """Press a key that is not meant for a text field."""
        self.run("document.activeElement.blur()")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def save_downloads(self, folder: Path) -> None:
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Save a screenshot of the page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}} if whole else {}
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)["data"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(image))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty `profile` folder, ended with the context."""
    assert PROGRAM is not None
    options = (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "hide-scrollbars",
        "remote-debugging-port=0",
    )
    command = [PROGRAM, *(f"--{option}" for option in options), f"--user-data-dir={profile}", "about:blank"]
    with (profile / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with connect(_page_address(profile, process), max_size=None, proxy=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()


def _page_address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The WebSocket of the first page, as soon as the browser has written its port."""
    import urllib.request

    file, end = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE
    while not (file.is_file() and file.read_text().count("\n")):
        assert process.poll() is None, (profile / "log").read_text()
        assert time.monotonic() < end, "the browser does not start"
        time.sleep(0.02)
    port = file.read_text().split()[0]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        pages = [
            page
            for page in json.load(direct.open(f"http://127.0.0.1:{port}/json", timeout=_PATIENCE))
            if page["type"] == "page"
        ]
        if pages:
            address: str = pages[0]["webSocketDebuggerUrl"]
            return address
        assert time.monotonic() < end, "the browser opens no page"
        time.sleep(0.02)
