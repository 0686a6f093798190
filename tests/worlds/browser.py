"""A headless Chromium for tests, spoken to over its DevTools pipe: no port, no driver.

Where CI=true a Chromium that is missing fails the test; elsewhere it is skipped.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.worlds.servers import missing

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 180.0  # seconds until an answer that does not come fails the test
# The first two descriptors of a process's own that are not the standard three: Chromium's rule.
READS, WRITES = 3, 4


@dataclass
class Page:
    """A tab, and what it has said and asked for since it was opened."""

    browser: "Browser"
    session: str
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, exceptions, and what the page's policy refused."""
    requests: list[str] = field(default_factory=list)
    """Every URL that was asked for, the page's own among them."""

    def open(self, file: Path, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a file at a width in CSS pixels; return when all of it is there."""
        self.visit(file.resolve().as_uri(), width, height, scheme)

    def visit(self, url: str, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load an address, as `open` does a file."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=url)
        self.browser.until(lambda event: event.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> Path:
        """Write the whole page, however long, as a PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def pdf(self, file: Path) -> Path:
        """Write the page as it prints."""
        answer = self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a DevTools command to this tab; return its result."""
        return self.browser.send(method, self.session, **parameters)

    def hear(self, event: dict[str, Any]) -> None:
        """Keep what an event of this tab says."""
        said = event["params"]
        match event["method"]:
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(said["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(said["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])


@dataclass
class Browser:
    """A running Chromium."""

    to: int
    answers: int
    waiting: bytes = b""
    sent: int = 0
    pages: dict[str, Page] = field(default_factory=dict)

    def page(self) -> Page:
        """Open a tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.pages[session] = Page(self, session)
        return self.pages[session]

    def send(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a DevTools command; return its result, having kept the events before it."""
        self.sent += 1
        command: dict[str, Any] = {"id": self.sent, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        left = json.dumps(command).encode() + b"\0"
        while left:
            left = left[os.write(self.to, left) :]
        answer = self.until(lambda message: message.get("id") == self.sent)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def until(self, wanted: Any) -> dict[str, Any]:
        """Return the first message that is wanted, having kept the events before it."""
        until = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self.waiting:
                ready, _, _ = select.select([self.answers], [], [], until - time.monotonic())
                assert ready, f"Chromium did not answer within {PATIENCE:.0f} s"
                read = os.read(self.answers, 1 << 20)
                assert read, "Chromium ended"
                self.waiting += read
            text, self.waiting = self.waiting.split(b"\0", 1)
            message: dict[str, Any] = json.loads(text)
            page = self.pages.get(message.get("sessionId", ""))
            if page is not None and "method" in message:
                page.hear(message)
            if wanted(message):
                return message


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Start a Chromium that keeps its own files in `folder`; kill it at the end."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        missing(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    its_input, to = _pipe()
    answers, its_output = _pipe()
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" {READS}<&{its_input} {WRITES}>&{its_output}',
                "bash",
                str(program),
                "--headless=new",
                "--no-sandbox",  # the tests may run as root, where it cannot have one
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-pipe",
                f"--user-data-dir={folder / 'profile'}",
                "about:blank",
            ],
            env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(its_input, its_output),
            start_new_session=True,
        )
    os.close(its_input)
    os.close(its_output)
    browser = Browser(to, answers)
    try:
        yield browser
        browser.send("Browser.close")
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(to)
        os.close(answers)


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are clear of the two that Chromium is given."""
    ends = os.pipe()
    clear = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return clear[0], clear[1]
