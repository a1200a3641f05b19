"""A real browser for tests: Chromium without a screen and with scripts off, driven over DevTools' pipe.

Nothing but Chromium itself is needed: messages are JSON with a NUL byte at the end, on two pipes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)
_MOST_EVENTS = 10_000


class Browser:
    """One page of a browser.

    Args:
        to: Where commands go.
        back: Where answers and events come from.
    """

    def __init__(self, to: Any, back: Any) -> None:
        self._to, self._back, self._number, self._session = to, back, 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Emulation.setScriptExecutionDisabled", value=True)
        self.errors: list[str] = []
        self._call("Log.enable")

    def size(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """Be a screen of a size."""
        scale = 2 if phone else 1
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> str:
        """Open an address and return the document when it is loaded."""
        failed = self._call("Page.navigate", url=url).get("errorText")
        if failed:
            raise ConnectionError(failed)
        self._wait("Page.loadEventFired")
        return self.document()

    def click(self, selector: str) -> str:
        """Click on an element that leads to another page, and return its document."""
        node = self._node(selector)
        self._call("DOM.scrollIntoViewIfNeeded", nodeId=node)
        box = self._call("DOM.getBoxModel", nodeId=node)["model"]["content"]
        x, y = (box[0] + box[4]) / 2, (box[1] + box[5]) / 2
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self._wait("Page.loadEventFired")
        return self.document()

    def document(self) -> str:
        """Return the document as it stands."""
        html: str = self._call("DOM.getOuterHTML", nodeId=self._node("html"))["outerHTML"]
        return html

    def width(self) -> tuple[float, float]:
        """Return the widths of the window and of what is in it."""
        found = self._call("Page.getLayoutMetrics")
        return found["cssLayoutViewport"]["clientWidth"], found["cssContentSize"]["width"]

    def styled(self, selector: str, name: str) -> str:
        """Return a computed style of an element."""
        self._call("DOM.enable")
        self._call("CSS.enable")
        found = self._call("CSS.getComputedStyleForNode", nodeId=self._node(selector))["computedStyle"]
        return str(next(item["value"] for item in found if item["name"] == name))

    def picture(self, path: Path, height: int) -> None:
        """Write a PNG of the top of the page."""
        wide = self.width()[0]
        clip = {"x": 0, "y": 0, "width": wide, "height": height, "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _node(self, selector: str) -> int:
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        found: int = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        if not found:
            raise LookupError(selector)
        return found

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        asked: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        self._to.write(json.dumps(asked).encode() + b"\0")
        self._to.flush()
        for message in self._messages():
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
        raise ConnectionError(method)

    def _wait(self, event: str) -> None:
        next(message for message in self._messages() if message.get("method") == event)

    def _messages(self) -> Iterator[dict[str, Any]]:
        for _ in range(_MOST_EVENTS):
            message = json.loads(self._line())
            if message.get("method") == "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])
            yield message

    def _line(self) -> bytes:
        """Return the next message; ConnectionError if the browser went away."""
        found = bytearray()
        while not found.endswith(b"\0"):
            byte = self._back.read(1)
            if not byte:
                raise ConnectionError("the browser went away")
            found += byte
        return bytes(found[:-1])


@contextmanager
def browser(trusted: x509.Certificate) -> Iterator[Browser]:
    """Start Chromium; it believes the chains that hold one key, and no others that it does not know."""
    if CHROMIUM is None:
        raise LookupError("there is no Chromium")
    public = trusted.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        (their_in, to), (back, their_out) = os.pipe(), os.pipe()
        command = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        flags = (*_FLAGS, f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={pin}")
        process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *flags],
            pass_fds=(their_in, their_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        stack.callback(process.wait)
        stack.callback(process.kill)
        writer = stack.enter_context(os.fdopen(to, "wb"))
        reader = stack.enter_context(os.fdopen(back, "rb"))
        yield Browser(writer, reader)
