"""`pushcall check BINARY --function F`: preemptions inside F, by the binary's own runtime.

The executable is booted and runs to F. At each boundary that F executes from then on, until it
returns, the process is forked: the copy asks for a preemption as preemptone does (runtime/proc.go),
sends the SIGURG, and lets the runtime do the rest, while the original goes on to the next boundary.
In the copy,

- the stack below RSP and, since Go 1.26, p.xRegs.scratch hold poison when the signal is sent;
- when asyncPreempt2 returns to asyncPreempt, every register that a Go function may overwrite
  becomes the complement of what it was;
- when the goroutine is back, on whichever M, RIP, RSP, general registers, RFLAGS, XMM0 to XMM15,
  MXCSR, x87 and the stack above RSP are compared with the boundary.

Other goroutines run meanwhile, so the heap is not compared.
"""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emulator.disassembly import disassemble
from emulator.events import Event, SignalReturned
from emulator.fault import GuestStopped
from emulator.registers import ARITHMETIC_FLAGS, LAYOUT
from pushcall.audit.safepoints import select
from pushcall.booted.run import describe
from pushcall.check.verdict import Boundary, CheckResult, RegisterLoss
from pushcall.snippet.crash import Place
from pushcall.usage import UsageError
from runtime_model.booted import Booted, Settings
from runtime_model.events import Loss, PushedCall, Resumed
from runtime_model.losses import memory_losses
from runtime_model.poison import GENERAL_PART, STACK_POISON, VECTOR_PART, Poison
from runtime_model.runtime2 import P

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from emulator.linux.threads import Thread
    from emulator.registers import Registers
    from runtime_model.func_info import GoFunc
    from runtime_model.moduledata import GoBinary

MOST_BOUNDARIES: Final = 100_000  # of one call of F
INJECTION_BUDGET: Final = 50_000_000  # instructions of all threads until the goroutine is back
DEAD_STACK: Final = 4096  # bytes below RSP that are poisoned

_THREADS_OWN: Final = frozenset({"FS_BASE", "GS_BASE"})


@dataclass
class Attempt:
    """What became of one preemption; `refused` says that the handler went back without pushCall."""

    refused: bool = False
    losses: list[Loss] = field(default_factory=list)
    note: str = ""


class FunctionCheck:
    """One check of one function: `result` grows while it goes on."""

    def __init__(self, binary: GoBinary, settings: Settings, name: str) -> None:
        self.function = find(binary, name)
        self.booted = Booted(binary, settings)
        self.machine = self.booted.machine
        self.result = CheckResult(str(binary.version), self.machine.cpu.name)
        self.result.compared = "every register and the stack"
        self._by_register: dict[str, RegisterLoss] = {}
        self.thread: Thread | None = None
        self.goid = 0
        self._end = (0, 0)  # where F returns to, and RSP then
        self._ended = False
        base = self.booted.base
        code = bytes(binary.code(self.function.entry, self.function.end))
        self.instructions = {
            each.address + base: each.text for each in disassemble(code, self.function.entry)
        }

    # The run to F, and through it.

    def run(
        self, points: int | None, jobs: int, progress: Callable[[int], None] = lambda _: None
    ) -> CheckResult:
        """Tries every boundary, or so many, evenly spread. UsageError if F is never called."""
        result = self.result
        self._enter()
        chosen = None
        if points is not None and points < (total := self._count()):
            chosen, result.of = spread(total, points), total
        children = _Children(jobs)
        try:
            for boundary in self._boundaries():
                result.boundaries += 1
                if chosen is not None and boundary.index not in chosen:
                    continue
                for at, attempt in children.start(boundary, self._attempt):
                    self._take(at, attempt)
                progress(boundary.index)
            result.finished = True
            if result.boundaries == MOST_BOUNDARIES and not self._ended:
                result.findings.append(
                    f"the call goes on: only its first {MOST_BOUNDARIES} boundaries were tried"
                )
        except GuestStopped as stopped:
            result.findings.append(describe(self.booted, stopped))
        except KeyboardInterrupt:
            result.interrupted = True
            children.abandon()
        for at, attempt in children.finish():
            self._take(at, attempt)
        result.losses = sorted(self._by_register.values(), key=lambda loss: loss.first.index)
        return result

    def _enter(self) -> None:
        entry = self.function.entry + self.booted.base
        self.machine.add_breakpoint(entry, self._reached)
        if self.machine.run() is not None:
            raise UsageError(f"{self.function.name} was never called")
        self.machine.remove_breakpoint(entry)
        thread = self.thread
        assert thread is not None
        rsp = thread.registers["RSP"]
        self.goid = self.booted.identity(thread.tid)[1]
        if self.goid == 0:
            raise UsageError(f"{self.function.name} runs on g0, which is never preempted")
        self._end = (self.booted.memory.u64(rsp), rsp + 8)

    def _reached(self, thread: Thread) -> None:
        self.thread = thread
        self.machine.stop()

    def _boundaries(self) -> Iterator[Boundary]:
        """Stops at each instruction of F that the goroutine executes, until F has returned."""
        for address in self.instructions:
            if address != self._end[0]:
                self.machine.add_breakpoint(address, self._arrived)
        self.machine.add_breakpoint(self._end[0], self._returned)
        index = 0
        while not self._ended and index < MOST_BOUNDARIES:
            thread = self.thread
            assert thread is not None
            yield Boundary(index, self._place(thread.registers["RIP"]))
            index += 1
            if self.machine.run() is not None:
                return

    def _count(self) -> int:
        """How many boundaries the call has: counted in a copy."""

        def count(_: Boundary) -> int:
            return sum(1 for _ in self._boundaries())

        children = _Children(1)
        list(children.start(Boundary(0, Place(0)), count))
        ((_, total),) = children.finish()
        assert isinstance(total, int)
        return total

    def _arrived(self, thread: Thread) -> None:
        if self.booted.identity(thread.tid)[1] == self.goid:
            self._reached(thread)

    def _returned(self, thread: Thread) -> None:
        ours = self.booted.identity(thread.tid)[1] == self.goid
        if ours and thread.registers["RSP"] == self._end[1]:
            self._ended = True
            self.machine.stop()

    def _place(self, pc: int) -> Place:
        function, base = self.function, self.booted.base
        offset = f"+{pc - base - function.entry:#x}" if pc - base != function.entry else ""
        file, line = function.file_line(pc - base)
        position = f"{file.rpartition('/')[2]}:{line}"
        return Place(pc, function.name + offset, self.instructions.get(pc, ""), position)

    def _take(self, boundary: Boundary, attempt: Any) -> None:
        result = self.result
        if isinstance(attempt, str):
            result.findings.append(f"boundary {boundary.index}, {boundary.place}: {attempt}")
            return
        if attempt.refused:
            result.unsafe += 1
            reason = "not an async safe point, by the binary's own handler"
            result.refusals[reason] = result.refusals.get(reason, 0) + 1
            return
        result.points += 1
        result.direct += 1
        for loss in attempt.losses:
            found = self._by_register.get(loss.register)
            if found is None or boundary.index < found.first.index:
                points = 0 if found is None else found.points
                found = self._by_register[loss.register] = RegisterLoss(
                    loss.register, points, boundary, loss.before, loss.after, loss.address,
                    attempt.note,
                )  # fmt: skip
            found.points += 1

    # One preemption, in a copy of the process.

    def _attempt(self, boundary: Boundary) -> Attempt:
        booted, machine = self.booted, self.machine
        thread = self.thread
        assert thread is not None
        before = thread.registers.copy()
        g = booted.getg(thread)
        assert g is not None
        rsp, stack = before["RSP"], (g.stack_lo, g.stack_hi)
        above = booted.memory.read(rsp, stack[1] - rsp)
        low = max(stack[0], rsp - DEAD_STACK)
        booted.memory.write(low, STACK_POISON * (rsp - low))
        pp = P(booted.memory, booted.layout, booted.m(g.m).p)
        if booted.version.extended_registers:
            scratch = STACK_POISON * booted.layout.size("xRegState")
            booted.memory.write(pp.field_address("xRegs.scratch"), scratch)
        watch = _Watch(self, before, Poison.complement(before))
        machine.events.subscribe(watch.listen)
        booted.request_preemption(thread, "check")
        for address in self.instructions:
            machine.breakpoints[address] = watch.arrived
        machine.budget = machine.instructions + INJECTION_BUDGET
        try:
            ended = machine.run()
        except GuestStopped as stopped:
            return Attempt(
                losses=[Loss(register="RIP", before=boundary.place.pc, after=before["RIP"])],
                note=describe(booted, stopped),
            )
        if ended is not None:
            loss = Loss(register="RIP", before=boundary.place.pc, after=0)
            return Attempt(losses=[loss], note=f"the program ended with status {ended}")
        return watch.result(above, stack)


class _Watch:
    """Follows the goroutine from the signal to the boundary where it goes on."""

    def __init__(self, check: FunctionCheck, before: Registers, poison: Poison) -> None:
        self.check = check
        self.before = before
        self.poison = poison
        self.resume = before["RIP"]
        self.pushed = False
        self.back = False  # asyncPreempt has returned
        self.refused = False
        self.at: Thread | None = None
        booted = check.booted
        for address in booted.asyncPreempt[1]:
            booted.machine.add_breakpoint(address, self._poison)

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, PushedCall) and event.g == self.check.goid:
            self.pushed, self.resume = True, event.resume
            where = self.check.booted.machine
            if self.resume not in where.breakpoints:
                where.add_breakpoint(self.resume, self.arrived)
        elif isinstance(event, Resumed) and event.goid == self.check.goid:
            self.back = True
        elif isinstance(event, SignalReturned) and not self.pushed:
            thread = self.check.thread
            self.refused |= thread is not None and event.tid == thread.tid

    def _poison(self, thread: Thread) -> None:
        """Behind asyncPreempt2's call: what a Go function may overwrite is overwritten.

        SP and BP are callee-saved; since 1.26 asyncPreempt finds its P through R14, the g.
        """
        if self.check.booted.identity(thread.tid)[1] != self.check.goid or self.back:
            return
        registers = thread.registers
        kept = {"RSP", "RBP"} | ({"R14"} if self.check.booted.version.extended_registers else set())
        values = {name: registers[name] for name in kept}
        registers.block[GENERAL_PART] = self.poison.general
        registers.block[VECTOR_PART] = self.poison.vectors
        for name, value in values.items():
            registers[name] = value
        registers["RFLAGS"] = registers["RFLAGS"] & ~int(ARITHMETIC_FLAGS) | self.poison.flags

    def arrived(self, thread: Thread) -> None:
        """At an instruction of F, or where the goroutine goes on."""
        if self.check.booted.identity(thread.tid)[1] != self.check.goid:
            return
        if self.back or self.refused:
            self.at = thread
            self.check.machine.stop()

    def result(self, above: bytes, stack: tuple[int, int]) -> Attempt:
        """The comparison, where the goroutine has come back."""
        assert self.at is not None
        after = self.at.registers
        booted = self.check.booted
        expected = self.before.copy()
        expected["RIP"] = self.resume
        losses = [
            Loss(register=name, before=expected[name], after=after[name])
            for name in LAYOUT
            if name not in _THREADS_OWN and expected[name] != after[name]
        ]
        rsp = self.before["RSP"]
        g = booted.getg(self.at)
        if g is not None and (g.stack_lo, g.stack_hi) == stack:
            losses += memory_losses(rsp, above, booted.memory.read(rsp, len(above)))
        return Attempt(refused=self.refused and not self.pushed, losses=losses)


class _Children:
    """Copies of this process, at most `jobs` at once, each with one piece of work."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._running: list[tuple[Boundary, int, BinaryIO]] = []  # boundary, pid, pipe

    def start(
        self, boundary: Boundary, work: Callable[[Boundary], Any]
    ) -> Iterator[tuple[Boundary, Any]]:
        """Starts a copy; yields what finished copies have to say."""
        while len(self._running) >= self.jobs:
            yield self._take()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(reader)
                try:
                    answer = work(boundary)
                except Exception as error:  # noqa: BLE001  # told by the parent
                    answer = f"{type(error).__name__}: {error}"
                with os.fdopen(writer, "wb") as pipe:
                    pickle.dump(answer, pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        self._running.append((boundary, pid, os.fdopen(reader, "rb")))

    def finish(self) -> Iterator[tuple[Boundary, Any]]:
        """Waits for all."""
        while self._running:
            yield self._take()

    def abandon(self) -> None:
        """Those that are not done will say nothing: a Ctrl-C has met them as well."""
        for _, pid, pipe in self._running:
            pipe.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._running.clear()

    def _take(self) -> tuple[Boundary, Any]:
        boundary, pid, pipe = self._running[0]
        with pipe:
            data = pipe.read()
        del self._running[0]
        os.waitpid(pid, 0)
        if not data:
            return boundary, "the process that tried it died"
        return boundary, pickle.loads(data)  # noqa: S301  # from our own child


def spread(total: int, points: int) -> set[int]:
    """So many indices below `total`, evenly spread; all if there are no more."""
    if points >= total:
        return set(range(total))
    return {index * total // points for index in range(points)}


def find(binary: GoBinary, name: str) -> GoFunc:
    """The one function of that name, or whose name ends in it; UsageError with near ones."""
    found = select(binary, name)
    if len(found) > 1:
        names = ", ".join(sorted(function.name for function in found)[:5])
        raise UsageError(f"{name} is the name of {len(found)} functions: {names}")
    return found[0]


def check_function(
    binary: GoBinary,
    settings: Settings,
    name: str,
    *,
    points: int | None = None,
    jobs: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> CheckResult:
    """Checks the first call of a function; see the module's text."""
    return FunctionCheck(binary, settings, name).run(points, jobs, progress)
