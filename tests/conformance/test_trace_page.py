"""The page of `trace --html` in a real Chromium, from the file system, driven by its keys.

Chromium is spoken to over --remote-debugging-pipe (the Chrome DevTools Protocol).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace.page import MOST, page
from pushcall.trace.recorded import record
from runtime_model.events import PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pushcall.trace.recorded import RecordedRun

ROOT = Path(__file__).parents[2]
NUTS = ROOT / "examples" / "golang_nuts.s"
SCREENSHOT = ROOT / "build" / "trace-page.png"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

# As a descriptor may have the number that another is to get, both go out of the way first.
_AT_3_AND_4 = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Page:
    """A page in a headless Chromium."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._number = 0
        self._session = ""
        self._rest = b""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._back, 1 << 16)
            assert data, "Chromium has gone"
            self._rest += data
        first, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(first))

    def open(self, path: Path) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        size = {"width": 1400, "height": 950, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.enable")
        self.call("Page.navigate", url=path.as_uri())
        while self.value("document.readyState") != "complete" or not self.value("!!window.go"):
            pass

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, name: str) -> str:
        return str(self.value(f"document.getElementById('{name}').innerText"))

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def step(self) -> int:
        return int(self.text("number").split()[0])


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A Chromium that speaks over file descriptors 3 and 4."""
    assert CHROMIUM is not None
    theirs, ours = os.pipe()
    back, answers = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
               "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"]  # fmt: skip
    command = [sys.executable, "-c", _AT_3_AND_4, str(theirs), str(answers), CHROMIUM, *options]
    with (profile / "log").open("w") as log:
        process = subprocess.Popen(command, pass_fds=(theirs, answers), stderr=log, stdout=log)
        os.close(theirs)
        os.close(answers)
        page_ = Page(ours, back)
        try:
            yield page_
        finally:
            process.terminate()
            process.wait()
            os.close(ours)
            os.close(back)


def whole_run() -> RecordedRun:
    loaded = api.program(NUTS, go="1.22", goroutines=30, procs=2, policy=Policy(None))
    return record(loaded, Injection(every=1000))


def test_the_page_of_ten_thousand_steps_works_from_the_file_system(tmp_path: Path) -> None:
    run = whole_run()
    text = page(run)
    assert len(text.encode()) < 5_000_000
    path = tmp_path / "trace.html"
    path.write_text(text, "utf-8")
    pushed = next(m for m in run.events if isinstance(m.event, PushedCall))
    event = pushed.event
    with chromium(tmp_path) as shown:
        shown.open(path)
        first = shown.step()
        assert shown.value("data.steps.length") == MOST
        shown.press("p")
        assert shown.step() == pushed.step
        row = next(line for line in shown.text("stack").splitlines() if "< SP" in line)
        assert row.split()[:2] == [f"*{event.rsp_after:#x}", f"{event.resume:016x}"]
        assert "pushed PC" in row
        SCREENSHOT.parent.mkdir(exist_ok=True)
        picture = shown.call("Page.captureScreenshot", format="png")["data"]
        SCREENSHOT.write_bytes(base64.b64decode(picture))
        for step in (pushed.step, first + 9000, first + 127, first + 128, first + MOST - 1):
            shown.value(f"go({step - first})")
            registers = run.registers(step)
            lines = shown.text("registers").replace("*", " ").splitlines()
            said = dict(line.split()[:2] for line in lines if line.strip())
            for name in ("RAX", "RSP", "R14", "RIP", "RFLAGS"):
                assert said[name] == f"{registers[name]:016x}", (step, name)
        shown.press("Home")
        assert shown.step() == first
        shown.press("ArrowRight")
        shown.press("ArrowRight")
        shown.press("ArrowLeft")
        assert shown.step() == first + 1
        shown.press("e")
        assert shown.step() == next(s for s in run.stops if s > first + 1)
        shown.value("slider.value = 4000; slider.dispatchEvent(new Event('input'))")
        assert shown.step() == first + 4000
        begun = shown.value("performance.now()")
        for _ in range(100):
            shown.value("go(at + 37)")
        assert shown.value("performance.now()") - begun < 100 * 50
        assert shown.value("document.activeElement.tagName") in ("BODY", "INPUT")
