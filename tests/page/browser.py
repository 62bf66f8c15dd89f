"""Headless Chromium by the W3C WebDriver protocol, with the standard library alone.

python tests/page/browser.py http://127.0.0.1:8000/ page.png --width 1600 --height 1500 --dark
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1",
]  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Down": "\ue015",
    "Up": "\ue013",
    "End": "\ue010",
    "Home": "\ue011",
}


class Browser:
    """One browser with a fresh profile; everything it started ends with it."""

    def __init__(self, *, width: int = 1600, height: int = 1200, dark: bool = False) -> None:
        self.home = tempfile.TemporaryDirectory(
            prefix="qcluster-browser-", ignore_cleanup_errors=True
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen(
            [str(DRIVER), f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.home.name},
        )
        flags = [
            *FLAGS,
            f"--user-data-dir={self.home.name}/profile",
            f"--window-size={width},{height}",
        ]
        options = {"args": flags, "binary": CHROMIUM}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.path = ""
        self.until(self.driver_answers, 20)
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.path = f"/session/{session['sessionId']}"
        # Headless windows have a least width; the emulated screen has none.
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", screen)
        self.media(dark=dark)

    def driver_answers(self) -> bool:
        try:
            return bool(self.call("GET", "/status")["ready"])
        except urllib.error.URLError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + self.path + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:600]) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(10)
            self.home.cleanup()

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def js(self, script: str, *args: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def cdp(self, command: str, params: dict[str, Any]) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def media(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        if reduced_motion:
            features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        self.cdp("Emulation.setEmulatedMedia", {"features": features})

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def visible(self, selector: str) -> bool:
        return self.js(
            "return document.querySelector(arguments[0])?.offsetParent != null", selector
        )

    def click(self, selector: str) -> None:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/click", {})

    def keys(self, *names: str) -> None:
        actions = [
            {"type": kind, "value": KEYS.get(name, name)}
            for name in names
            for kind in ("keyDown", "keyUp")
        ]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.call("POST", "/actions", {"actions": [source]})

    def until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """The condition's first true value, asked again until the time is over."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout_s} s: {condition}")
            time.sleep(0.05)
        return value

    def log(self) -> list[str]:
        """Console messages since the last call: errors, and what CSP blocked."""
        rows = self.call("POST", "/se/log", {"type": "browser"})
        return [f"{row['level']}: {row['message']}" for row in rows]

    def screenshot(self, path: str | Path, *, whole: bool = False) -> None:
        params = {"captureBeyondViewport": whole}
        if whole:
            size = self.cdp("Page.getLayoutMetrics", {})["cssContentSize"]
            params["clip"] = {**size, "scale": 1}
        data = self.cdp("Page.captureScreenshot", params)["data"]
        Path(path).write_bytes(base64.b64decode(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--wait-s", type=float, default=8.0, help="how long plans may build up")
    args = parser.parse_args()
    with Browser(width=args.width, height=args.height, dark=args.dark) as browser:
        browser.open(args.url)
        browser.until(
            lambda: browser.js("return document.querySelector('#plan-table tbody tr') != null"), 60
        )
        time.sleep(args.wait_s)
        browser.screenshot(args.out, whole=True)
        print(*browser.log(), sep="\n")


if __name__ == "__main__":
    main()
