"""`trace --html`: one page that needs no network, with the recorded steps and a slider.

The page's script (page.html) rebuilds the registers at a step from differences; instructions,
slots, stacks and fields stand in tables, once each.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from emulator.registers import GENERAL, LAYOUT
from pushcall.snippet.crash import place
from pushcall.trace import fields as runtime_fields
from pushcall.trace import slots
from pushcall.trace.panes import Panes
from pushcall.usage import UsageError
from runtime_model.events import Entered

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushcall.trace.recorded import RecordedRun

MOST: Final = 10_000  # steps of a page
ABOVE: Final = 14  # slots of the stack
BELOW: Final = 2
_AHEAD: Final = 500  # steps before the first preemption, where not all steps fit
_FIRST: Final = (*GENERAL, "RIP", "RFLAGS")
NAMES: Final = (*_FIRST, *(name for name in LAYOUT if name not in _FIRST))

_T = TypeVar("_T")


class _Table(list[_T]):
    """Values, each once."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, int] = {}

    def number(self, value: _T) -> int:
        """The value's number, now if not before."""
        key = json.dumps(value)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self)
            self.append(value)
        return found


def page(
    run: RecordedRun,
    first: int | None = None,
    last: int | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> str:
    """The page for steps first to last, both included; by default around the first preemption."""
    data = json.dumps(content(run, *_range(run, first, last), report), separators=(",", ":"))
    template = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    return template.replace("/*DATA*/null", data.replace("</", "<\\/"))


def _range(run: RecordedRun, first: int | None, last: int | None) -> tuple[int, int]:
    if first is None and last is None and len(run) >= MOST:
        start = max(0, run.preemptions[0] - _AHEAD) if run.preemptions else 0
        return start, min(len(run), start + MOST - 1)
    low, high = first or 0, min(len(run), len(run) if last is None else last)
    if high - low >= MOST and (first is not None or last is not None):
        raise UsageError(f"a page holds {MOST} steps, not {high - low + 1}: --from and --to")
    if low > high:
        raise UsageError(f"--from {low}: the recorded run ends at {high}")
    return low, high


def content(
    run: RecordedRun, first: int, last: int, report: Callable[[int], None]
) -> dict[str, Any]:
    """What the page shows, as JSON."""
    panes = Panes(run)
    code: _Table[list[str]] = _Table()
    rows: _Table[list[str]] = _Table()
    stacks: _Table[list[Any]] = _Table()
    fields: _Table[list[list[str]]] = _Table()
    actors: _Table[list[Any]] = _Table()
    steps: list[list[Any]] = []
    before: dict[str, int] = {}
    stack = field = 0
    told = {m.step for m in run.events}
    for step in range(first, last + 1):
        registers = run.registers(step)
        names = registers.names()
        now = {name: registers[name] for name in names}
        changed = {n: f"{v:x}" for n, v in now.items() if before.get(n) != v}
        who = run.who(step)
        other = step == first or _other(run, step, told)
        if other or before["RSP"] != now["RSP"]:
            stack = stacks.number(_stack(run, step, rows))
        if other:
            found = runtime_fields.fields(run, step)
            field = fields.number([[f.owner, f.path, f.text] for f in found])
        number = actors.number([who.actor, who.tid])
        steps.append([_code(panes, code, now["RIP"]), number, stack, field, changed])
        if step < len(run) and run.log.interrupted(step, step + 1):
            # The next step's registers are not the instruction's work alone.
            behind = run.behind(step)
            steps[-1].append({n: f"{behind[n]:x}" for n in registers.diff(behind)})
        before = now
        report(step - first)
    return {
        "first": first,
        "total": len(run),
        "go": str(run.rt.version),
        "names": NAMES,
        "code": code,
        "rows": rows,
        "stacks": stacks,
        "fields": fields,
        "actors": actors,
        "steps": steps,
        "events": [
            [m.step, panes.event_text(m.event), isinstance(m.event, Entered)]
            for m in run.events
            if first <= m.step <= last
        ],
        "preemptions": [step for step in run.preemptions if first <= step <= last],
        "pieces": [
            [p.goid, p.m, p.p, max(p.start, first), min(p.end, last)]
            for p in panes.pieces
            if p.end > first and p.start <= last
        ],
    }


def _other(run: RecordedRun, step: int, told: set[int]) -> bool:
    """Whether memory, or who runs, may be another than a step before."""
    if step in told or run.who(step) != run.who(step - 1) or run.log.interrupted(step - 1, step):
        return True
    return bool(run.recording.stores(step - 1))


def _stack(run: RecordedRun, step: int, rows: _Table[list[str]]) -> list[Any]:
    drawn = slots.stack(run, step, above=ABOVE, below=BELOW)
    numbers = [rows.number([f"{s.address:#x}", f"{s.value:016x}", s.what]) for s in drawn.slots]
    return [f"{drawn.owner}: {drawn.how}", f"{drawn.rsp:#x}", numbers]


def _code(panes: Panes, code: _Table[list[str]], pc: int) -> int:
    at = place(panes.run.rt, pc)
    sign, why = panes.verdict(pc)
    return code.number([f"{pc:#x}", at.symbol, at.source, sign, why, at.position])
