"""Text for people: the path of a preemption, the timeline, totals, losses.

Functions give lines; style is a leading tag that `show` turns into colour on a terminal and drops
elsewhere, so that pipes, NO_COLOR and tests see the same words.
"""

from __future__ import annotations

import shutil
import string
import textwrap
from typing import TYPE_CHECKING, Final

from emulator import extended
from emulator.events import Event, FrameBuilt, SignalReturned, SystemCall, Unrecorded
from pushcall.snippet.crash import Place, place
from runtime_model.events import (
    CallRuleBroken,
    Descheduled,
    Entered,
    Executing,
    ExitedSyscall,
    HandedOff,
    Loss,
    PreemptRequested,
    PushedCall,
    Queued,
    Resumed,
    SafePointFunction,
    SafePointVerdict,
    ScanRequested,
    StackChecked,
    StackCopied,
    StackScanned,
    StatusChanged,
    WorldStopped,
)
from runtime_model.runtime2 import status_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pushcall.snippet.crash import Running
    from pushcall.snippet.run import Outcome, Slice
    from runtime_model.runtime import Runtime

MAX_WIDE: Final = 4  # registers of AVX shown for a goroutine
MAX_ENDS: Final = 10  # different ends of goroutines shown
INDENT: Final = 30  # of what happened, under the functions that did it
COLUMN: Final = 41  # of a stack before and after

SIGNALS: Final = {23: "SIGURG"}
_LABELS: Final = string.digits[1:] + string.ascii_lowercase + string.ascii_uppercase


def milliseconds(ns: int) -> str:
    """A time for people."""
    return f"{ns / 1e6:.6f} ms"


def where(at: Place) -> str:
    """A PC with symbol and source."""
    source = f"   {at.source}" if at.source else ""
    return f"{at.pc:#x} {at.symbol}{source}".rstrip()


def actor(event: Event) -> str:
    """Which M and which g an event belongs to."""
    if event.m < 0:
        return ""
    g = {0: "g0", -1: "gsignal"}.get(event.g, f"G{event.g}")
    return f"M{event.m} {g}"


def describe(rt: Running, event: Event) -> list[str]:  # one case for each kind
    """An event in words; empty for what Entered already says."""
    match event:
        case PreemptRequested():
            ways = " and a signal" if event.asynchronous else ""
            return [
                f"asks G{event.target_g} on P{event.p}, M{event.target_m} to stop: {event.why}",
                f"gp.preempt = true, gp.stackguard0 = stackPreempt{ways}",
            ]
        case SystemCall():
            args = ", ".join(f"{a:#x}" if a > 9999 else str(a) for a in event.args)
            result = "" if event.result is None else f" = {event.result}"
            return [f"{event.name}({args}){result}"]
        case Unrecorded():
            return [f"… {event.instructions} instructions of other threads, not recorded"]
        case FrameBuilt():
            name = SIGNALS.get(event.signal, f"signal {event.signal}")
            stack = "gsignal stack" if event.onstack else "the same stack"
            return [
                f"{name} lands at {where(place(rt, event.pc))}",
                f"RSP {event.rsp:#x}; frame at {event.frame:#x} on the {stack}",
            ]
        case SafePointVerdict():
            verdict = "safe point" if event.safe else "not a safe point"
            return [f"{verdict}: {event.reason}"]
        case PushedCall():
            return stack_drawing(rt, event)
        case SignalReturned():
            return [f"goes on at {where(place(rt, event.pc))} with RSP {event.rsp:#x}"]
        case CallRuleBroken():
            return [call_rule_broken(event)]
        case StatusChanged():
            return [f"G{event.goid}: {status_name(event.old)} → {status_name(event.new)}"]
        case Queued():
            return [f"G{event.goid} joins the {event.queue} queue"]
        case Descheduled():
            return [f"G{event.goid} leaves M{event.m} and P{event.p}: {event.why}"]
        case Executing():
            return [f"G{event.goid} runs on M{event.m} with P{event.p}"]
        case HandedOff():
            return [f"P{event.p} is taken from a goroutine in a system call, and handed off"]
        case ExitedSyscall():
            return [f"G{event.goid} is back from its system call, with P{event.p}"]
        case WorldStopped():
            return ["the world is stopped: no goroutine runs"]
        case SafePointFunction():
            return [f"the function of forEachP is done for P{event.p}"]
        case ScanRequested():
            way = "by stackguard0 and a signal" if event.signal else "by stackguard0"
            return [f"asks G{event.goid} to stop for a scan of its stack, {way}"]
        case StackScanned():
            frames = ", ".join(
                f"{name} (word by word)" if name in event.conservative else name
                for name in event.frames
            )
            return [f"G{event.goid}'s stack is scanned: {frames}; {len(event.objects)} objects"]
        case StackChecked():
            reason = "stackguard0 is stackPreempt" if event.preempt else "no stack left"
            return [f"G{event.goid}, {reason}: {event.decision}"]
        case StackCopied():
            old, new = event.old_hi - event.old_lo, event.new_hi - event.new_lo
            sizes = f"{old} bytes at {event.old_lo:#x} to {new} at {event.new_lo:#x}"
            done = f"{event.used} bytes copied, {event.adjusted} pointers adjusted"
            return [f"G{event.goid}'s stack: {sizes}; {done}"]
        case Resumed():
            return resumed(rt, event)
        case _:
            return []


def stack_drawing(rt: Running, event: PushedCall) -> list[str]:
    """The goroutine's stack before and after pushCall, side by side, high addresses on top."""
    rows = [f"{'before':<{COLUMN}}after"]
    interrupted = place(rt, event.pc or event.resume)
    target = place(rt, event.target)
    rows.append(f"{f'PC = {interrupted.pc:#x}':<{COLUMN}}PC = {target.pc:#x} {target.symbol}")
    words = dict(zip(range(event.rsp_after, 1 << 64, 8), event.stack_after, strict=False))
    for address in sorted(words, reverse=True):
        word = f"{address:#x}  {words[address]:016x}"
        old = word if address >= event.rsp_before else ""
        if address == event.rsp_before:
            old += "  ← SP"
        new = word
        if address == event.rsp_after:
            new += "  ← SP"
        rows.append(f"{old:<{COLUMN}}{new}")
    return [*rows, f"{'':<{COLUMN}}the pushed PC: {event.resume:#x}"]


def resumed(rt: Running, event: Resumed) -> list[str]:
    """Where a goroutine went on, and whether all is as it was."""
    lines = [
        f"G{event.goid} goes on at {where(place(rt, event.pc))}, on M{event.m}"
        + ("" if event.m == event.interrupted_m else f" (was M{event.interrupted_m})"),
        f"RSP {event.rsp:#x}",
    ]
    if event.losses:
        return lines + [f"LOST {loss_text(loss)}" for loss in event.losses]
    return [*lines, "every register and the stack are as they were"]


def call_rule_broken(event: CallRuleBroken) -> str:
    """The finding: what is wrong with a trampoline's call."""
    return f"asyncPreempt calls asyncPreempt2 {event.rule}"


def loss_text(loss: Loss) -> str:
    """One difference."""
    at = f" at {loss.address:#x}" if loss.address is not None else ""
    return f"{loss.register}{at}: was {loss.before:#x}, is {loss.after:#x}"


def path(rt: Runtime, events: Sequence[Event], width: int) -> list[str]:
    """A preemption step by step: functions on a line while nothing else happens."""
    lines: list[str] = []
    chain: list[str] = []
    head: tuple[str, str] = ("", "")
    # On a narrow terminal what happened stands further left, so that the stacks fit.
    indent = INDENT if width >= INDENT + 2 * COLUMN + 4 else 2

    def flush() -> None:
        if chain:
            start = f"  {head[0]:>14}  {head[1]:<10} "
            lines.extend(
                textwrap.wrap(
                    " → ".join(chain),
                    width,
                    initial_indent=start,
                    subsequent_indent=" " * len(start),
                    break_long_words=False,
                )
            )
            chain.clear()

    for event in events:
        stamp = (milliseconds(event.time), actor(event))
        if isinstance(event, Entered):
            if stamp[1] != head[1]:
                flush()
            if not chain:
                head = stamp
            chain.append(event.function)
            continue
        flush()
        lines += [f"{'':>{indent}}{line}" for line in describe(rt, event)]
    flush()
    return lines


def label(goid: int) -> str:
    """One character for a goroutine in the timeline."""
    return _LABELS[goid - 1] if goid <= len(_LABELS) else "*"


def timeline(slices: Sequence[Slice], end: int, width: int) -> list[str]:
    """Rows of Ps and Ms over time: which goroutine ran, a character for each; idle is a dot."""
    if not slices or end <= 0:
        return []
    columns = max(20, width - 12)
    goids = sorted({s.goid for s in slices})
    legend = f"{label(goids[0])} is G{goids[0]}"
    if len(goids) > 1:
        legend += f" … {label(goids[-1])} is G{goids[-1]}"
    column = milliseconds(end // columns)
    lines = [f"0 to {milliseconds(end)}, a column is {column}; {legend}, · is idle"]
    for kind in ("P", "M"):
        numbers = sorted({s.p if kind == "P" else s.m for s in slices})
        for number in numbers:
            row = ["·"] * columns
            # Long ones first, so that the short ones stay visible.
            for piece in sorted(slices, key=lambda s: s.start - s.end):
                if (piece.p if kind == "P" else piece.m) != number:
                    continue
                first = piece.start * columns // end
                last = max(first + 1, -(-piece.end * columns // end))
                for i in range(first, min(last, columns)):
                    row[i] = label(piece.goid)
            lines.append(f"  {kind}{number:<4} {''.join(row)}")
    return lines


def final_registers(out: Outcome) -> list[str]:
    """The goroutines' last RAX, and what AVX holds, equal ones together."""
    by_value: dict[str, list[int]] = {}
    for goid, registers in sorted(out.goroutines.items()):
        if registers is not None:
            value = registers["RAX"]
            text = [f"RAX = {value:#x} ({value})"]
            wide = extended.shown(registers.extended)
            text += [f"{name} = {registers[name]:#x}" for name in wide[:MAX_WIDE]]
            if len(wide) > MAX_WIDE:
                text.append(f"and {len(wide) - MAX_WIDE} more of YMM, ZMM and K")
            by_value.setdefault(", ".join(text), []).append(goid)
    ends = [f"{goroutines(goids)} ended with {text}" for text, goids in by_value.items()]
    more = len(ends) - MAX_ENDS
    return ends if more <= 0 else [*ends[:MAX_ENDS], f"and {more} other ends"]


def goroutines(goids: Sequence[int]) -> str:
    """G1, G2 … as a short text."""
    if len(goids) > 4:
        contiguous = goids[-1] - goids[0] + 1 == len(goids)
        if contiguous:
            return f"G{goids[0]} to G{goids[-1]} (all {len(goids)})"
        return f"G{goids[0]} … G{goids[-1]} ({len(goids)})"
    return ", ".join(f"G{g}" for g in goids)


def terminal_width() -> int:
    """Columns of the terminal; 120 where there is none."""
    return shutil.get_terminal_size((120, 24)).columns


def run_report(rt: Runtime, out: Outcome) -> Iterable[str]:
    """The whole text of `pushcall run`. `#`, `+` and `!` at the start of a line are styles."""
    if out.path:
        yield "# The first preemption"
        yield from path(rt, out.path, terminal_width())
        yield ""
    drawn = timeline(out.slices, out.time, terminal_width())
    if drawn:
        yield "# Timeline"
        yield from drawn
        yield ""
    yield "# Totals"
    yield from totals(rt, out)


def totals(rt: Runtime, out: Outcome) -> Iterable[str]:
    """What a run came to, behind its pictures."""
    yield (
        f"{out.instructions} instructions, {out.user_instructions} of them the program's own, "
        f"in {milliseconds(out.time)} of virtual time"
    )
    yield (
        f"{out.requests} requests to preempt, {out.signals} signals: "
        f"{out.preemptions} asynchronous preemptions, {out.cooperative} cooperative"
    )
    for reason, count in sorted(out.refusals.items(), key=lambda item: -item[1]):
        yield f"{count} refused: {reason}"
    yield from final_registers(out)
    if out.expected and not out.failed:
        yield f"+ as expected: {', '.join(out.expected)}"
    if out.crash is not None:
        yield ""
        for line in out.crash.lines():
            yield f"! {line}"
        yield from starvation(rt, out)
    for text in [*out.failed, *out.findings]:
        yield f"! {text}"
    if out.losses:
        yield f"! {out.lost} of {out.resumed} preemptions lost state:"
        for event in out.losses[:10]:
            at = place(rt, event.interrupted)
            for loss in event.losses[:4]:
                yield f"!   G{event.goid} at {where(at)}: {loss_text(loss)}"
    elif out.resumed:
        times = f"each of {out.resumed} preemptions" if out.resumed > 1 else "the preemption"
        yield f"+ after {times} every register and the stack survived"
    if out.as_compiled:
        yield (
            "The snippet counts as compiled Go code; assembly functions Go itself never preempts "
            "(--as-assembly)"
        )
    if out.interrupted:
        yield "! interrupted: this is what is known so far"


def starvation(rt: Runtime, out: Outcome) -> Iterable[str]:
    """Who still held a P when the run died, and who waited for it."""
    for piece in out.slices if out.starved else ():
        if not piece.why:
            held = milliseconds(piece.end - piece.start)
            yield f"! G{piece.goid} has held P{piece.p} for {held} without giving way"
    if out.waiting:
        yield f"! never ran: {goroutines(out.waiting)}"
    if not rt.version.asynchronous and out.requests:
        yield f"! Go {rt.version} has no asynchronous preemption: a loop without calls runs on"
