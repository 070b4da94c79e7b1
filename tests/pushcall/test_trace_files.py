"""Files of a recorded run: what is in them is what was recorded, in the documented formats."""

from __future__ import annotations

import functools
import itertools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_cli import pushcall

from pushcall import api
from pushcall.snippet.injection import Injection
from pushcall.trace.drawing import svg
from pushcall.trace.page import page
from pushcall.trace.perfetto import document
from pushcall.trace.recorded import record
from pushcall.usage import UsageError
from runtime_model.events import PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from pushcall.trace.recorded import RecordedRun

NUTS = Path(__file__).parents[2] / "examples" / "golang_nuts.s"


@functools.cache
def recorded() -> RecordedRun:
    loaded = api.program(NUTS, go="1.22", goroutines=3, procs=2, policy=Policy(None))
    return record(loaded, Injection(at=(25, 300)))


@functools.cache
def content() -> dict[str, Any]:
    text = page(recorded(), 500, 1500)
    found = re.search(r"^const data = (.*);$", text, re.MULTILINE)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1].replace("<\\/", "</"))
    return data


def test_the_pages_differences_give_every_steps_registers() -> None:
    run, data, state = recorded(), content(), dict[str, str]()
    assert (data["first"], data["total"], len(data["steps"])) == (500, len(run), 1001)
    for step, entry in enumerate(data["steps"], 500):
        state.update(entry[4])
        registers = run.registers(step)
        assert state == {name: f"{registers[name]:x}" for name in registers.names()}
        assert data["code"][entry[0]][0] == hex(registers["RIP"])
        assert data["actors"][entry[1]][0] == run.who(step).actor


def test_the_pages_stacks_are_memory_at_every_step() -> None:
    run, data = recorded(), content()
    pushed = next(m for m in run.events if isinstance(m.event, PushedCall))
    for step, entry in enumerate(data["steps"], 500):
        past = run.memory(step)
        _, rsp, rows = data["stacks"][entry[2]]
        shown = [data["rows"][row][0] for row in rows]
        # A new thread's stack pointer is the end of its stack.
        assert rsp in shown or rsp == hex(int(shown[0], 16) + 8)
        for row in rows:
            address, value, what = data["rows"][row]
            assert past.u64(int(address, 16)) == int(value, 16)
            if what.startswith("pushed PC"):
                assert int(value, 16) in {
                    m.event.resume for m in run.events if isinstance(m.event, PushedCall)
                }
    drawn = data["stacks"][data["steps"][pushed.step - 500][2]]
    assert drawn[1] == hex(pushed.event.rsp_after)


def test_a_page_needs_no_network_and_holds_so_many_steps() -> None:
    text = page(recorded(), 0, 40)
    links = set(re.findall(r"https?://[^\s\"'<]*", text))
    assert links <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<(?:link|img|iframe)|\bsrc=|@import|fetch\(", text)
    big = record(api.program(NUTS, go="1.22", policy=Policy(None)), Injection(at=(25,)))
    with pytest.raises(UsageError, match="a page holds 10000 steps"):
        page(big, 0, 20_000)


def test_the_drawing_is_svg_with_the_stacks_of_pushcall() -> None:
    run = recorded()
    root = ET.fromstring(svg(run))  # our own
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    texts = ["".join(found.itertext()) for found in root.iter(f"{space}text")]
    event = next(m.event for m in run.events if isinstance(m.event, PushedCall))
    assert f"{event.rsp_after:#x} {event.resume:016x}" in texts
    assert [t for t in texts if t.startswith("← SP")][-1].startswith("← SP pushed PC")
    ran = {f"P{piece.p}" for piece in run.outcome.slices}
    ran |= {f"M{piece.m}" for piece in run.outcome.slices}
    assert {*ran, "before pushCall", "after"} <= set(texts)
    assert len(root.findall(f"{space}line")) == len(run.preemptions)


def test_perfettos_file_follows_the_trace_event_format() -> None:
    """Phases X, i, s, f and M with the fields that the format's description asks for."""
    made = json.loads(json.dumps(document(recorded())))
    assert made["displayTimeUnit"] == "ns"
    events = made["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {e["ph"] for e in events} == {"X", "i", "s", "f", "M"}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            continue
        assert (event["pid"], event["tid"]) in names
        assert event["ts"] >= 0
        if event["ph"] == "X":
            track = tracks.setdefault((event["pid"], event["tid"]), [])
            track.append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] == "t"
    for track in tracks.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(track)):
            assert end <= start
    starts = {e["id"]: e["ts"] for e in events if e["ph"] == "s"}
    ends = {e["id"]: e["ts"] for e in events if e["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert len(starts) == len(recorded().preemptions) == 2
    assert all(starts[number] <= ends[number] for number in starts)


def test_files_are_written_and_what_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("trace", NUTS, "--at", "25", "--goroutines", "1", "--steps", "900")
    paths = [tmp_path / name for name in ("a.html", "a.svg", "a.json")]
    options = ("--html", paths[0], "--svg", paths[1], "--perfetto", paths[2])
    status, out, err = pushcall(capsys, monkeypatch, *arguments, *options)
    assert (status, out) == (0, "")
    assert "only the first 900 steps were recorded" in err
    assert [path.read_text("utf-8")[0] for path in paths] == ["<", "<", "{"]
    status, out, err = pushcall(capsys, monkeypatch, *arguments, "--svg", tmp_path)
    assert (status, out) == (2, "")
    assert "Is a directory" in err


def test_without_a_terminal_the_viewer_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = pushcall(capsys, monkeypatch, "trace", NUTS, "--at", "25")
    assert (status, out) == (2, "")
    assert err == "pushcall: trace: the viewer needs a terminal; --plain prints text\n"


def test_json_has_every_event_with_its_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("trace", NUTS, "--at", "25", "--goroutines", "1", "--json")
    status, out, _ = pushcall(capsys, monkeypatch, *arguments)
    made = json.loads(out)
    assert (status, made["schema"], made["cut"]) == (0, "pushcall.trace/1", False)
    steps = [event["step"] for event in made["events"]]
    assert steps == sorted(steps)
    assert steps[-1] <= made["steps"]
    pushed = next(e for e in made["events"] if e["event"] == "PushedCall")
    _, out, _ = pushcall(capsys, monkeypatch, *arguments, "--from", str(pushed["step"]))
    assert json.loads(out)["events"] == [e for e in made["events"] if e["step"] >= pushed["step"]]


def test_only_events_and_bounds_choose_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("trace", NUTS, "--at", "25", "--goroutines", "1", "--plain")
    _, out, _ = pushcall(capsys, monkeypatch, *arguments, "--from", "30", "--to", "41")
    steps = [int(line.split()[0]) for line in out.splitlines() if line.split()[0].isdigit()]
    assert steps == list(range(30, 42))
    _, out, _ = pushcall(capsys, monkeypatch, *arguments, "--from", "30", "--only", "events")
    assert "pushed PC" in out
    assert all(int(line.split()[0]) >= 30 for line in out.splitlines())
    _, out, _ = pushcall(
        capsys, monkeypatch, *arguments, "--from", "30", "--to", "30", "--registers"
    )
    assert re.search(r"RSP +[0-9a-f]{16} .*RBP +[0-9a-f]{16}", out)
    status, _, err = pushcall(capsys, monkeypatch, *arguments, "--from", "9", "--to", "3")
    assert (status, "the end lies before the start" in err) == (2, True)
