"""`pushcall check`: a preemption at every boundary that a snippet executes, and what it cost.

Two runtimes boot from the same program and stay side by side. The twin is never disturbed and
says what the state is to be. At each boundary the other one is preempted for real: signal,
frame, sigreturn, trampoline, scheduler, back; between save and restore every register holds the
complement of its value and the dead stack is overwritten. Compared are

1. at the landing, with the state at the boundary: RIP, RSP, all general registers, RFLAGS, XMM0
   to XMM15, MXCSR, x87, the stack above the interrupted RSP and the snippet's data;
2. at the next boundary, with the twin: all registers, the data, and what the instruction wrote to
   its stack; what it read from below RSP shows here (slots that nobody wrote may differ);
3. at the end, with the twin: last registers and all data.

After a loss the disturbed runtime becomes a copy of the twin, so each boundary is judged alone.
A refused request is withdrawn, so that it does not surface later at a stack check.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.disassembly import memory_operands
from emulator.fault import GuestFault, GuestStopped
from emulator.frames import WINDOW_WORDS, Frames
from pushcall.batch import Batch
from pushcall.crash import Place, describe, place
from pushcall.side import Side
from pushcall.verdict import Boundary, CheckResult, RegisterLoss
from runtime_model.boot import BadProgramError
from runtime_model.events import (
    Descheduled,
    Loss,
    Resumed,
    SafePointVerdict,
)
from runtime_model.poison import STACK_POISON
from runtime_model.policy import Policy
from runtime_model.preempt import Reason, Verdict, static_verdict
from runtime_model.timers import request_preemption
from runtime_model.watch import memory_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.events import Event
    from emulator.registers import Registers
    from pushcall.side import Start
    from runtime_model.boot import Config

# Each PC's first visits, and one boundary in so many, are preempted through the whole runtime; the
# others in batches (batch.py).
DIRECT_PER_PC: Final = 2
DIRECT_EVERY: Final = 997
BATCH: Final = 4096
BUDGET: Final = 2_000_000  # instructions of a program that is left alone: minutes of checking
INJECTION_BUDGET: Final = 20_000  # instructions that one preemption may take

_TWICE: Final = "asyncPreempt calls asyncPreempt2 more than once: one preemption, two deschedulings"

# Registers that belong to the thread, not to the goroutine.
_THREADS_OWN: Final = frozenset({"FS_BASE", "GS_BASE"})

# Instructions whose results no two runs share; the twin's results are taken over, as a recorder
# takes inputs, so they are never blamed on a preemption.
_INPUTS: Final = (
    b"\x0f\x31",
    b"\x0f\x01\xf9",
    b"\x0f\xa2",
    b"\x0f\x05",
)  # RDTSC(P), CPUID, SYSCALL
_INPUT_REGISTERS: Final = ("RAX", "RBX", "RCX", "RDX")


@dataclass(frozen=True)
class _Previous:
    """The state before the instruction that both sides have just executed."""

    boundary: Boundary
    registers: Registers  # the twin's
    stack: bytes  # the twin's
    other_stack: bytes


def changed_range(before: bytes, after: bytes) -> tuple[int, int] | None:
    """First and last index at which two equally long byte strings differ."""
    if before == after:
        return None
    different = int.from_bytes(before, "little") ^ int.from_bytes(after, "little")
    first = ((different & -different).bit_length() - 1) // 8
    return first, (different.bit_length() - 1) // 8


class Check:
    """One run of the check; `result` grows while it goes on."""

    def __init__(
        self,
        config: Config,
        *,
        all_direct: bool = False,
        budget: int | None = None,
        only: frozenset[int] | None = None,
        until_lost: bool = False,
        start: Start | None = None,
    ) -> None:
        self.config = config
        self.all_direct = all_direct
        self.only = only  # the boundaries to try, by index; None for all
        self.until_lost = until_lost  # the first loss is enough
        self.start = start
        self.suspects: set[int] = set()  # boundaries that a batch could not judge
        alone = dataclasses.replace(
            config, goroutines=1, policy=Policy(force_preempt_ns=None), budget=None
        )
        if not config.version.asynchronous:
            raise BadProgramError(
                f"Go {config.version} has no asynchronous preemption: there is nothing to check"
            )
        self.budget = budget or BUDGET
        self.twin = Side(alone, start)
        self.side = Side(alone, self.twin)
        self.result = CheckResult(str(config.version), self.side.machine.cpu.name)
        self._by_register: dict[str, RegisterLoss] = {}
        self._resumed: Resumed | None = None
        self._refused = False
        self._injecting = False
        self._descheduled = 0
        self._previous: _Previous | None = None
        self._places: dict[int, Place] = {}
        self._seen: dict[int, int] = {}  # PC -> how often it was executed
        self._verdicts: dict[int, Verdict] = {}
        self._batch: Batch | None = None
        self._recorded: list[Boundary] = []  # by slot of the batch
        side = self.side
        side.on_left = self._landed
        side.machine.events.subscribe(self._listen)
        side.rt.watch.memory_of = lambda gp, rsp: [(rsp, gp.stack_hi - rsp), *side.regions]

    def run(self, progress: Callable[[int], None] = lambda _: None) -> CheckResult:
        """Checks every boundary. Raises AsmError and BadProgramError for bad input."""
        result = self.result
        try:
            self._run(progress)
        except KeyboardInterrupt:
            result.interrupted = True
        result.losses = sorted(self._by_register.values(), key=lambda loss: loss.first.index)
        return result

    def _run(self, progress: Callable[[int], None]) -> None:
        twin, side, result = self.twin, self.side, self.result
        try:
            alive = twin.begin(self.start)
        except GuestStopped as stopped:
            result.crash = describe(twin.rt, stopped)
            return
        if alive:
            side.begin(self.start or twin.start())
        index = 0
        while alive and not (self.until_lost and self._by_register):
            boundary = Boundary(index, self._place(twin.registers["RIP"]))
            self._compare_with_twin()
            self._try(boundary)
            progress(index)
            self._previous = _Previous(boundary, twin.registers.copy(), twin.stack(), side.stack())
            try:
                alive = twin.advance(1)
            except GuestStopped as stopped:
                result.crash = describe(twin.rt, stopped)
                break
            if twin.machine.instructions > self.budget:
                result.findings.append(
                    f"the snippet does not end within {self.budget} instructions"
                )
                break
            try:
                side_alive = side.advance(1)
            except GuestStopped as stopped:
                self._stray(boundary, stopped)
                side_alive = alive
            if side_alive != alive:
                self._lose(boundary, Loss(register="RIP", before=0, after=0), "the end differs")
                break
            index += 1
            result.boundaries = index
        self._try_batch()
        result.finished = not alive
        if result.finished:
            self._compare_ends()
        if result.direct and not self._descheduled:
            result.findings.append(
                "asyncPreempt never came to asyncPreempt2: the goroutine was not descheduled"
            )

    # One boundary.

    def _try(self, boundary: Boundary) -> None:
        """A preemption through the whole runtime, or the boundary's place in a batch."""
        if self.only is not None:
            if boundary.index in self.only:
                self._inject(boundary)
            return
        pc = boundary.place.pc
        seen = self._seen[pc] = self._seen.get(pc, 0) + 1
        if self.all_direct or seen <= DIRECT_PER_PC or boundary.index % DIRECT_EVERY == 0:
            self._inject(boundary)
            return
        rsp = self.side.registers["RSP"]
        if not self.side.stack_lo <= rsp < self.side.stack_hi:
            self._inject(boundary)  # on g0, under systemstack: the runtime says what becomes of it
            return
        if self.twin.registers.extended:
            self._inject(boundary)  # a batch has no room for what AVX adds
            return
        verdict = self._verdict(pc)
        if verdict.safe and rsp - self.side.stack_lo < self.side.rt.asyncPreemptStack:
            verdict = Verdict(False, Reason.NO_STACK)
        # The stack suffers as from a preemption; the twin's is the one that is recorded.
        self.side.rt.poison_dead_stack(rsp, 1 << 16)
        if not verdict.safe:
            self._refuse(verdict.reason.value)
        elif verdict.resume != pc:
            self._inject(boundary)
        else:
            self._record(boundary, rsp)

    def _place(self, pc: int) -> Place:
        known = self._places.get(pc)
        if known is None:
            known = self._places[pc] = place(self.twin.rt, pc)
        return known

    def _verdict(self, pc: int) -> Verdict:
        """IsAsyncSafePoint's static part: the rest is the same at each boundary of a check."""
        verdict = self._verdicts.get(pc)
        if verdict is None:
            rt = self.side.rt
            verdict = self._verdicts[pc] = static_verdict(rt.functions, pc, rt.version)
        return verdict

    def _refuse(self, reason: str) -> None:
        self.result.unsafe += 1
        self.result.refusals[reason] = self.result.refusals.get(reason, 0) + 1

    def _record(self, boundary: Boundary, rsp: int) -> None:
        if self._batch is None:
            self._frames = Frames(BATCH)
            self._batch = Batch(self.twin.rt, self.config.trampoline, self._frames)
        size = min(8 * WINDOW_WORDS, self.twin.stack_hi - rsp)
        window = self.twin.rt.memory.read(rsp, size)
        self._frames.put(
            len(self._recorded), boundary.index, self.twin.registers.block, window, STACK_POISON
        )
        self._recorded.append(boundary)
        if len(self._recorded) == BATCH:
            self._try_batch()

    def _try_batch(self) -> None:
        """Tries what was recorded, the frames of each PC together."""
        if self._batch is None:
            return
        recorded, self._recorded = self._recorded, []
        by_index = {boundary.index: boundary for boundary in recorded}
        attempt = self._batch.attempt(self._frames.listed(len(recorded)))
        self.suspects |= attempt.unjudged
        self.result.points += len(recorded) - len(attempt.unjudged)
        for index, losses in sorted(attempt.lost.items()):
            for loss in losses:
                self._lose(by_index[index], loss)

    def _inject(self, boundary: Boundary) -> None:
        side = self.side
        assert side.thread is not None
        before = side.registers.copy()
        self._resumed = None
        self._refused = False
        self._injecting = True
        side.rt.poison_dead_stack(before["RSP"], 1 << 16)
        descheduled = self._descheduled
        request_preemption(side.rt, side.thread, "check")
        side.machine.budget = side.machine.instructions + INJECTION_BUDGET
        try:
            ended = side.machine.run() is not None
        except GuestStopped as stopped:
            self._stray(boundary, stopped, before)
            return
        finally:
            side.machine.budget = None
            self._injecting = False
        if self._refused:
            losses = [
                Loss(register=name, before=before[name], after=side.registers[name])
                for name in before.diff(side.registers)
                if name not in _THREADS_OWN
            ]
        else:
            self.result.points += 1
            self.result.direct += 1
            losses = self._resumed.losses if self._resumed is not None else []
            if self._descheduled > descheduled + 1 and _TWICE not in self.result.findings:
                self.result.findings.append(_TWICE)
        if ended:
            losses = [Loss(register="RIP", before=before["RIP"], after=0)]
        for loss in losses:
            self._lose(boundary, loss)
        if losses:
            self._repair()

    def _landed(self) -> None:
        if self._injecting and (self._resumed is not None or self._refused):
            self.side.machine.stop()

    def _listen(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self._resumed = event
        elif isinstance(event, Descheduled) and self._injecting:
            self._descheduled += event.why == "preempted"
        elif isinstance(event, SafePointVerdict) and not event.safe and self._injecting:
            self._refused = True
            self._refuse(event.reason)
            rt, gp = self.side.rt, self.side.g
            gp.preempt = 0
            gp.stackguard0 = gp.stack_lo + rt.stackGuard
            rt.p(rt.m(gp.m).p).preempt = 0

    def _stray(
        self, boundary: Boundary, stopped: GuestStopped, before: Registers | None = None
    ) -> None:
        """The disturbed run died or went astray: RIP is lost, and what else differs then."""
        self.result.points += before is not None
        self.result.direct += before is not None
        thread = self.side.machine.threads.get(stopped.tid)
        registers = stopped.registers or (thread.registers if thread is not None else None)
        rip = stopped.fault.pc if isinstance(stopped, GuestFault) else None
        if rip is None:
            rip = registers["RIP"] if registers is not None else 0
        resume = before["RIP"] if before is not None else boundary.place.pc
        self._lose(boundary, Loss(register="RIP", before=resume, after=rip), str(stopped))
        self._repair()

    def _lose(self, boundary: Boundary, loss: Loss, note: str = "") -> None:
        found = self._by_register.get(loss.register)
        if found is None:
            self._by_register[loss.register] = RegisterLoss(
                loss.register, 1, boundary, loss.before, loss.after, loss.address, note
            )
        else:
            found.points += 1
            if boundary.index < found.first.index:
                found.first, found.before, found.after = boundary, loss.before, loss.after
                found.address, found.note = loss.address, note

    def _repair(self) -> None:
        self.side.machine.restore(self.twin.machine.snapshot())
        self.side.rt.watch.preempted.clear()
        twin = self.twin.thread
        self.side.thread = self.side.machine.threads[twin.tid] if twin is not None else None

    # Against the twin.

    def _compare_with_twin(self) -> None:
        """What the instruction before this boundary made of what preemption left behind."""
        if self._previous is None:
            return
        boundary, before = self._previous.boundary, self._previous.registers
        twin, side = self.twin.registers, self.side.registers
        executed = self.twin.rt.memory.read(before["RIP"], 4) if boundary.place.symbol else b""
        if executed.startswith(_INPUTS):
            for name in _INPUT_REGISTERS:
                side[name] = twin[name]
        losses = [
            Loss(register=name, before=twin[name], after=side[name])
            for name in twin.diff(side)
            if name not in _THREADS_OWN
        ]
        if not losses:
            losses = self._stack_losses(self._previous, twin["RSP"]) + self._data_losses()
        if losses:
            red_zone = self._read_below_rsp(before)
            if red_zone is not None:
                losses = [red_zone]
            for loss in losses:
                note = "a value kept below RSP" if red_zone else "seen after the next instruction"
                self._lose(boundary, loss, note)
            self._repair()

    def _stack_losses(self, previous: _Previous, rsp: int) -> list[Loss]:
        """Words above RSP of which the last instruction wrote bytes that differ."""
        low = self.twin.stack_lo
        good, found = self.twin.stack(), self.side.stack()
        start = rsp - low
        changed = [
            part
            for before, after in ((previous.stack, good), (previous.other_stack, found))
            if (part := changed_range(before[start:], after[start:])) is not None
        ]
        losses = []
        for first, last in changed:
            written = slice(start + first, start + last + 1)
            if good[written] == found[written]:
                continue
            a, b = (start + first) & ~7, (start + last + 8) & ~7
            losses += memory_losses(low + a, good[a:b], found[a:b])
        return losses

    def _data_losses(self) -> list[Loss]:
        """Words of the snippet's data that differ between the two runs."""
        losses = []
        for address, size in self.twin.regions:
            good = self.twin.rt.memory.read(address, size)
            losses += memory_losses(address, good, self.side.rt.memory.read(address, size))
        return losses

    def _read_below_rsp(self, registers: Registers) -> Loss | None:
        """The word below RSP that the instruction at RIP reads, where the two runs differ."""
        memory, other = self.twin.rt.memory, self.side.rt.memory
        code = memory.read(registers["RIP"], 16)
        for address, size in memory_operands(code, registers):
            if address < registers["RSP"] and memory.find(address) is not None:
                good = int.from_bytes(memory.read(address, size), "little")
                found = int.from_bytes(other.read(address, size), "little")
                if good != found:
                    return Loss(register="MEMORY", address=address, before=good, after=found)
        return None

    def _compare_ends(self) -> None:
        """Last registers and all data; a difference nobody saw before is the last boundary's."""
        assert self._previous is not None
        boundary = self._previous.boundary
        twin, side = self.twin.exited, self.side.exited
        losses = []
        if twin is not None and side is not None:
            losses += [
                Loss(register=name, before=twin[name], after=side[name])
                for name in twin.diff(side)
                if name not in _THREADS_OWN
            ]
        for loss in losses + self._data_losses():
            self._lose(boundary, loss, "the ends of the two runs differ")


def check(
    config: Config,
    progress: Callable[[int], None] = lambda _: None,
    *,
    all_direct: bool = False,
    budget: int | None = None,
    until_lost: bool = False,
    start: Start | None = None,
) -> CheckResult:
    """Preempts the program at every boundary that it executes. See the module's text.

    all_direct: each preemption goes through the whole runtime, none through a batch.
    budget: instructions within which the program must end when left alone; BUDGET if not given.
    until_lost: end with the first loss.
    start: where to begin (Side.start), of the same configuration but for the trampoline.
    """
    first = Check(config, all_direct=all_direct, budget=budget, until_lost=until_lost, start=start)
    result = first.run(progress)
    if first.suspects and not result.interrupted:
        again = Check(config, budget=budget, only=frozenset(first.suspects), start=start).run(
            progress
        )
        result.add(again)
    return result
