"""What the viewer's panes show at a step, as styled lines; nothing here knows the terminal.

Whatever colour says, a sign says too: `>` the instruction that comes next, `*` what changed, `+` a
safe point, `-` none, `~` a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from rich.text import Text

from emulator.memory import UnmappedError
from emulator.registers import GENERAL, ST, XMM, Flags
from pushcall.snippet.crash import place
from pushcall.snippet.text import actor, describe, label
from pushcall.trace import fields as runtime_fields
from pushcall.trace import slots
from pushcall.trace.code import instruction
from runtime_model.events import Descheduled, Entered, Executing, PushedCall
from runtime_model.preempt import Reason, static_verdict

if TYPE_CHECKING:
    from asm.image import Function
    from emulator.events import Event
    from emulator.history import PastMemory
    from pushcall.trace.recorded import RecordedRun

NARROW: Final = 94  # columns under which instructions are shown in less
HERE: Final = "bold reverse"
CHANGED: Final = "bold bright_yellow"
SAFE: Final = "bright_blue"
UNSAFE: Final = "bright_red"
DIM: Final = "dim"
HEAD: Final = "bold"

_FLAGS: Final = ("CF", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF", "AC", "ID")
_CONTROL: Final = ("MXCSR", "FCW", "FSW", "FTW", "FS_BASE", "GS_BASE")
_HIGH: Final = frozenset(f"XMM{i}" for i in range(16, 32))
_SIGNS: Final = {Reason.RESTART: "~", Reason.RESTART_AT_ENTRY: "~"}
_STYLES: Final = {"+": SAFE, "-": UNSAFE, "~": SAFE}


class Page(Enum):
    """Which registers are shown."""

    GENERAL = 0
    VECTORS = 1
    CONTROL = 2


@dataclass(slots=True)
class Piece:
    """Steps `[start, end)` in which an M and P run a goroutine."""

    goid: int
    m: int
    p: int
    start: int
    end: int = -1


@dataclass
class Panes:
    """All panes of one run. Widths are in columns; lines may be wider and are cut by who shows."""

    run: RecordedRun
    goid: int | None = None  # whose stack and fields, None: whoever runs
    page: Page = Page.GENERAL
    scrolled: int = 0  # slots that the stack is shown higher than from RSP
    pieces: list[Piece] = field(init=False)

    def __post_init__(self) -> None:
        self.pieces = pieces(self.run)
        self.step_line = lru_cache(maxsize=1024)(self._step_line)
        self.verdict = lru_cache(maxsize=4096)(self._verdict)

    # Code.

    def _verdict(self, pc: int) -> tuple[str, str]:
        """A sign and the reason: whether Go's tables let a goroutine be preempted at pc."""
        rt = self.run.rt
        verdict = static_verdict(rt.functions, pc, rt.version)
        sign = _SIGNS.get(verdict.reason, "+") if verdict.safe else "-"
        return sign, verdict.reason.value

    def _step_line(self, step: int, width: int) -> Text:
        """One executed instruction, with what it changed."""
        run = self.run
        line = Text(f"{step:>{len(str(len(run)))}} ")
        if step == len(run):
            return line.append("the end of what was recorded", HEAD)
        symbol, source = (18, 24) if width < NARROW else (26, 34)
        pc = run.pc(step)
        at = place(run.rt, pc)
        sign, _ = self.verdict(pc)
        line.append(f"{run.who(step).actor:<7} ", DIM)
        line.append(sign, _STYLES[sign])
        line.append(f" {_cut(_short(at.symbol), symbol):<{symbol}} ")
        line.append(f"{_cut(at.source or hex(pc), source):<{source}} ", HEAD)
        behind = run.behind(step)
        changes = [n for n in run.registers(step).diff(behind) if n not in ("RIP", "RFLAGS")]
        return line.append(" ".join(f"*{name}={behind[name]:x}" for name in changes), CHANGED)

    def function(self, step: int) -> Function | None:
        """The function that the next instruction is in."""
        pc = self.run.registers(step)["RIP"]
        rt = self.run.rt
        return rt.user.findfunc(pc) or rt.text.findfunc(pc)

    def code_line(self, function: Function, index: int, pc: int) -> Text:
        """An instruction of a function's listing, with its verdict."""
        found = function.instructions[index]
        here = found.address == pc
        sign, why = self.verdict(found.address)
        line = Text("> " if here else "  ", HERE if here else "")
        line.append(sign, _STYLES[sign])
        offset = f"+{found.address - function.address:#x}"
        line.append(f" {found.address:#x} {offset:<7} ", DIM)
        line.append(f"{' '.join(found.source.split()):<34}", HEAD if here else "")
        line.append(f" {found.data.hex():<20} {found.position}", DIM)
        if sign != "+":
            line.append(f"  {why}", _STYLES[sign])
        return line

    # Registers.

    def registers(self, step: int, width: int) -> list[Text]:
        """The registers before the instruction; those that the last one changed are marked."""
        run = self.run
        now = run.registers(step)
        before = _of_thread_before(run, step)
        changed = set(run.registers(before).diff(now)) if before is not None else set()
        if self.page is Page.VECTORS:
            wide = [*XMM, *(name for name in now.names() if name[0] in "YZK" or name in _HIGH)]
            return [_cell(name, f"{now[name]:032x}", name in changed) for name in wide]
        if self.page is Page.CONTROL:
            flags = " ".join(f"{n}={int(bool(now['RFLAGS'] & Flags[n]))}" for n in _FLAGS)
            lines = [_cell("RFLAGS", flags, "RFLAGS" in changed)]
            lines += [_cell(name, f"{now[name]:x}", name in changed) for name in _CONTROL]
            return lines + [_cell(name, f"{now[name]:020x}", name in changed) for name in ST]
        cells = [_cell(name, f"{now[name]:016x}", name in changed) for name in (*GENERAL, "RIP")]
        lines = _columns(cells, max(1, width // 26), 26)
        names = " ".join(n for n in _FLAGS if now["RFLAGS"] & Flags[n] and n not in ("IF", "ID"))
        last = _cell("RFLAGS", f"{now['RFLAGS']:x} {names}", "RFLAGS" in changed)
        others = sorted(changed - {*GENERAL, "RIP", "RFLAGS"}, key=_natural)
        if others:
            last.append(f"   (u) *{' *'.join(others)}", CHANGED)
        lines.append(last)
        return lines

    # The stack.

    def stack(self, step: int, height: int) -> list[Text]:
        """The stack with what each slot is; high addresses on top, as it is drawn everywhere."""
        run = self.run
        below = (1 if height < 12 else 3) - self.scrolled
        found = slots.stack(run, step, self.goid, above=max(2, height - below - 1), below=below)
        lines = [Text(f"{found.owner}: {found.how}", DIM)]
        earlier = run.memory(step - 1) if step else None
        for slot in found.slots:
            old = slot.value if earlier is None else _old(earlier, slot.address)
            line = _mark(old != slot.value)
            line.append(f"{slot.address:#x} ", DIM)
            line.append(f"{slot.value:016x}", CHANGED if old != slot.value else "")
            line.append(" < SP " if slot.address == found.rsp else "      ", HEAD)
            line.append(slot.what, SAFE if "saved" in slot.what or "PC" in slot.what else DIM)
            lines.append(line)
        return lines

    # g, m, p.

    def fields(self, step: int, width: int, height: int) -> list[Text]:
        """The fields of g, m and p; those that changed since the step before are marked."""
        run = self.run
        old = (
            {(f.owner, f.path): f.value for f in runtime_fields.fields(run, step - 1, self.goid)}
            if step
            else {}
        )
        cells, owner = [], ""
        for item in runtime_fields.fields(run, step, self.goid):
            changed = old.get((item.owner, item.path), item.value) != item.value
            cell = _mark(changed)
            cell.append(f"{item.owner if item.owner != owner else '':<4}", HEAD)
            cell.append(f"{item.path:<15} ", DIM)
            cell.append(item.text, CHANGED if changed else "")
            cells.append(cell)
            owner = item.owner
        columns = max(1, min(width // 35, -(-len(cells) // max(1, height))))
        return _columns(cells, columns, max(1, width // columns))

    # Events.

    def event_line(self, index: int) -> Text:
        """One of the run's events in words."""
        marked = self.run.events[index]
        line = Text(f"{marked.step:>8} ")
        line.append(f"{actor(marked.event):<11}", DIM)
        return line.append(self.event_text(marked.event), _event_style(marked.event))

    def event_text(self, event: Event) -> str:
        """An event in one line."""
        if isinstance(event, Entered):
            return f"→ {event.function}"
        if isinstance(event, PushedCall):
            target = place(self.run.rt, event.target).symbol
            return f"pushCall: {event.resume:#x} pushed at {event.rsp_after:#x}, RIP = {target}"
        words = describe(self.run.rt, event)
        return "; ".join(words) if words else type(event).__name__

    # The timeline.

    def timeline(self, step: int, width: int) -> list[Text]:
        """Which goroutine each P and M runs, over the whole run, and where we are."""
        run = self.run
        columns = max(8, width - 6)
        end = max(1, len(run))
        here = min(columns - 1, step * columns // end)
        marks = {s * columns // end for s in run.preemptions}
        ruler = Text("      ")
        for column in range(columns):
            sign = "v" if column == here else "!" if column in marks else " "
            ruler.append(sign, HERE if column == here else CHANGED)
        lines = [ruler]
        for kind in ("P", "M"):
            for number in sorted({getattr(piece, kind.lower()) for piece in self.pieces}):
                row = ["·"] * columns
                for piece in sorted(self.pieces, key=lambda piece: piece.start - piece.end):
                    if getattr(piece, kind.lower()) == number:
                        first = piece.start * columns // end
                        last = max(first + 1, -(-piece.end * columns // end))
                        row[first:last] = label(piece.goid) * (min(last, columns) - first)
                line = Text(f"{kind}{number:<4} ", HEAD)
                line.append("".join(row[:here]))
                line.append(row[here], HERE)
                lines.append(line.append("".join(row[here + 1 :])))
        return lines

    # One line for where we are.

    def status(self, step: int) -> Text:
        """Step, thread, verdict of the next instruction, and the events before it."""
        run = self.run
        who = run.who(step)
        line = Text(f"step {step} of {len(run)}", HEAD).append(f"  {who.actor}")
        told = [e for e in run.events_at(step) if not isinstance(e, Entered)]
        if told:
            chosen = next((e for e in told if isinstance(e, PushedCall)), told[0])
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            line.append(f"  {self.event_text(chosen)}{more}", CHANGED)
        pc = run.registers(step)["RIP"]
        if instruction(run.rt, pc) is not None:
            sign, why = self.verdict(pc)
            line.append(f"  {sign} {why}", _STYLES[sign])
        return line


def _columns(cells: list[Text], columns: int, width: int) -> list[Text]:
    """Cells column by column, in lines."""
    rows = -(-len(cells) // columns)
    lines = []
    for row in range(rows):
        line = Text()
        for cell in cells[row::rows]:
            line.pad_right(max(0, len(line) and -(-len(line) // width) * width - len(line)))
            piece = cell.copy()
            piece.truncate(width)
            line.append_text(piece)
        lines.append(line)
    return lines


def _natural(name: str) -> tuple[str, int]:
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short(symbol: str) -> str:
    return symbol.removeprefix("runtime.").removeprefix("main.")


def _mark(changed: bool) -> Text:
    """The sign of what has changed; its style is not that of what follows."""
    return Text().append("*" if changed else " ", CHANGED)


def _cell(name: str, value: str, changed: bool) -> Text:
    cell = _mark(changed)
    cell.append(f"{name:<6} ", HEAD if changed else DIM)
    return cell.append(value, CHANGED if changed else "")


def _old(memory: PastMemory, address: int) -> int | None:
    try:
        return memory.u64(address)
    except UnmappedError:
        return None


def _of_thread_before(run: RecordedRun, step: int) -> int | None:
    """The step that the thread executed before this one."""
    tid = run.who(step).tid
    for span in run.spans_of(step, lambda span: span.tid == tid, back=True):
        if span.start < step:
            return min(span.end, step) - 1
    return None


def _event_style(event: Event) -> str:
    if isinstance(event, Entered):
        return DIM
    return CHANGED if isinstance(event, PushedCall) else ""


def pieces(run: RecordedRun) -> list[Piece]:
    """Who ran where, in steps."""
    found: list[Piece] = []
    running: dict[int, Piece] = {}
    for marked in run.events:
        event = marked.event
        if isinstance(event, Executing):
            running[event.m] = Piece(event.goid, event.m, event.p, marked.step)
            found.append(running[event.m])
        elif isinstance(event, Descheduled) and event.m in running:
            running.pop(event.m).end = marked.step
    for piece in running.values():
        piece.end = len(run)
    return found
