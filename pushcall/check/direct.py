"""Preempts a program for real, beside a twin that is left alone, and compares the two.

Two runtimes boot from the same program and stay side by side. The twin is never disturbed and
says what the state is to be. At each chosen boundary the other one is preempted through everything
that Go does: signal, frame, sigreturn, trampoline, scheduler, back; between save and restore every
register holds the complement of its value and the dead stack is overwritten. Compared are

1. at the landing, with the state at the boundary: RIP, RSP, all general registers, RFLAGS, XMM0
   to XMM15, MXCSR, x87, the stack above the interrupted RSP and the snippet's data;
2. at the next boundary, with the twin: all registers, the data, and what the instruction wrote to
   its stack; what it read from below RSP shows here (slots that nobody wrote may differ);
3. on arrival at the next chosen boundary, with the twin: all registers;
4. at the end, with the twin: last registers and all data.

A restart sequence goes on at its start; what is compared behind it is the boundary itself, when the
goroutine has come there again.

After a loss the disturbed runtime becomes a copy of the twin, so each boundary is judged alone.
A refused request is withdrawn, so that it does not surface later at a stack check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.disassembly import memory_operands
from emulator.fault import GuestFault, GuestStopped
from emulator.frames import poison
from pushcall.check.verdict import Boundary, CheckResult
from pushcall.snippet.crash import place
from pushcall.snippet.text import call_rule_broken
from runtime_model.events import (
    CallRuleBroken,
    Descheduled,
    Loss,
    Resumed,
    SafePointVerdict,
)
from runtime_model.losses import memory_losses
from runtime_model.preempt import MAX_RESTART_DISTANCE, Reason
from runtime_model.timers import p_of, request_preemption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emulator.events import Event
    from emulator.registers import Registers
    from pushcall.snippet.crash import Place
    from pushcall.snippet.side import Side

SINGLY: Final = 16  # instructions between two preemptions that are compared one by one
SINGLY_WITH_INPUTS: Final = 4096
FAR: Final = 2048  # instructions that take longer one by one than taking over a boundary
DEAD_STACK: Final = 1 << 16  # bytes below RSP that are poisoned, if the goroutine gives way
INJECTION_BUDGET: Final = 20_000  # instructions that one preemption may take

_TWICE: Final = "asyncPreempt calls asyncPreempt2 more than once: one preemption, two deschedulings"
_NO_P: Final = "asyncPreempt wrote into m or p: behind it the M has not the P that it had"

# Registers that belong to the thread, not to the goroutine.
_THREADS_OWN: Final = frozenset({"FS_BASE", "GS_BASE"})

# Instructions whose results no two runs share; the twin's results are taken over, as a recorder
# takes inputs, so they are never blamed on a preemption.
INPUTS: Final = (
    b"\x0f\x31",
    b"\x0f\x01\xf9",
    b"\x0f\xa2",
    b"\x0f\x05",
)  # RDTSC(P), CPUID, SYSCALL
INPUT_SIZE: Final = 3  # bytes of the longest
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


class Direct:
    """Preempts `side` at chosen boundaries; `result` grows while it goes on."""

    def __init__(
        self, twin: Side, side: Side, scouts: Callable[[], tuple[Side, Side]] | None = None
    ) -> None:
        self.twin, self.side = twin, side
        self._scouts = scouts  # on a faster engine: they go long ways for the two
        self.result = CheckResult(str(side.rt.version), side.machine.cpu.name)
        self.descheduled = 0
        self._resumed: Resumed | None = None
        self._refused = False
        self._injecting = False
        self._counted = True
        self._previous: _Previous | None = None
        self._inputs = True
        self._places: dict[int, Place] = {}
        side.on_left = self._landed
        side.machine.events.subscribe(self._listen)
        side.rt.watch.memory_of = lambda gp, rsp: [(rsp, gp.stack_hi - rsp), *side.regions]

    def run(
        self,
        indexes: Iterable[int],
        *,
        uncounted: frozenset[int] = frozenset(),
        end: int | None = None,
        inputs: bool = True,
        until_lost: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> CheckResult:
        """Preempts at these boundaries, which rise and are there.

        `end` is the number of instructions after which the program ends by itself: both are then
        followed until there. `inputs` says that it may execute instructions whose results no two
        runs share: what they lead to is not compared over long stretches.

        At `uncounted` ones the preemption only leaves its traces in memory for those that follow.
        """
        result = self.result = CheckResult(self.result.go, self.result.engine)
        self.descheduled = 0
        self._previous = None
        self._inputs = inputs
        started = alive = False
        for index in indexes:
            if not started:
                self._seek(index)
                started = True
            elif not self._advance_to(index):
                alive = False
                break
            self._counted = index not in uncounted
            boundary = Boundary(index, self._place(self.twin.registers["RIP"]))
            result.visited.add(boundary.place.pc)
            self._inject(boundary)
            alive = self._step(boundary)
            if self._counted:
                progress()
            self._counted = True
            if not alive or (until_lost and result.losses):
                alive = False
                break
        if end is not None and alive and self._advance_to(end - 1):
            self._step(Boundary(end - 1, self._place(self.twin.registers["RIP"])))
        if self.twin.exited is not None and self.side.exited is not None:
            self._compare_ends()
        return result

    def _seek(self, index: int) -> None:
        """Brings both to a boundary, from wherever they are."""
        if self._scouts is not None and not 0 <= index - self.twin.at <= FAR:
            scout = self._scouts()[0]
            scout.seek(index)
            self.twin.follow(scout)
        else:
            self.twin.seek(index)
        self.side.follow(self.twin)

    def _advance_to(self, index: int) -> bool:
        """Lets both run up to a boundary; False where the program ends before."""
        if self._scouts is not None and index - self.twin.at > FAR:
            return self._send_scouts(self._scouts, index)
        count = index - self.twin.at
        alive = True
        if count <= (SINGLY_WITH_INPUTS if self._inputs else SINGLY):
            while alive and self.twin.at < index:
                pc = self.twin.registers["RIP"]
                alive = self._step(Boundary(self.twin.at, self._place(pc)))
            return alive
        alive = self.twin.advance(count)  # nothing stops it on the way: that was seen before
        try:
            side_alive = self.side.advance(count)
        except GuestStopped as stopped:
            self._stray(self._last(), stopped)
            return alive
        if self._inputs:
            self._repair()
        elif alive != side_alive:
            loss = Loss(register="RIP", before=0, after=0)
            self._lose(self._last(), loss, "the end differs")
            self._repair()
        elif alive:
            self._compare_on_arrival()
        return alive

    def _send_scouts(self, scouts: Callable[[], tuple[Side, Side]], index: int) -> bool:
        """_advance_to on the faster engine, from here and back."""
        own = self.twin, self.side
        far = scouts()
        self._scouts = None
        try:
            for one, other in zip(far, own, strict=True):
                one.follow(other)
            self.twin, self.side = far
            return self._advance_to(index)
        finally:
            for one, other in zip(own, far, strict=True):
                one.follow(other)
            self.twin, self.side = own
            self._scouts = scouts

    def _last(self) -> Boundary:
        assert self._previous is not None
        return self._previous.boundary

    def _step(self, boundary: Boundary) -> bool:
        """The instruction behind a boundary, on both; False if the twin goes no further."""
        twin, side = self.twin, self.side
        self._previous = _Previous(boundary, twin.registers.copy(), twin.stack(), side.stack())
        try:
            alive = twin.advance(1)
        except GuestStopped:
            return False  # it would have done so if left alone
        try:
            side_alive = side.advance(1)
        except GuestStopped as stopped:
            self._stray(boundary, stopped)
            return alive
        if side_alive != alive:
            self._lose(boundary, Loss(register="RIP", before=0, after=0), "the end differs")
            self._repair()
        elif alive:
            self._compare_with_twin()
        return alive

    def _place(self, pc: int) -> Place:
        known = self._places.get(pc)
        if known is None:
            known = self._places[pc] = place(self.twin.rt, pc)
        return known

    def _compare_on_arrival(self) -> None:
        """What differs here was caused before, by memory that no load was seen of."""
        twin, side = self.twin.registers, self.side.registers
        losses = [
            Loss(register=name, before=twin[name], after=side[name])
            for name in twin.diff(side)
            if name not in _THREADS_OWN
        ]
        for loss in losses or self._data_losses():
            self._lose(self._last(), loss, f"seen at boundary {self.twin.at}")
            self._repair()

    def _inject(self, boundary: Boundary) -> None:
        side = self.side
        assert side.thread is not None
        before = side.registers.copy()
        self._resumed = None
        self._refused = False
        self._injecting = True
        side.rt.stack_poison = poison(boundary.index, before.block)
        region = side.rt.memory.find(before["RSP"] - 1)
        low = before["RSP"] if region is None else max(region.start, before["RSP"] - DEAD_STACK)
        dead = side.rt.memory.read(low, before["RSP"] - low) if region is not None else b""
        side.rt.poison_dead_stack(before["RSP"], DEAD_STACK)
        descheduled = self.descheduled
        if not request_preemption(side.rt, side.thread, "check"):
            self._injecting = False
            if dead:
                side.rt.memory.write(low, dead)
            assert self.twin.thread is not None
            if p_of(self.twin.rt, self.twin.thread):
                self._find(_NO_P)
                self._repair()
            elif self._counted:
                self.result.refuse(Reason.NO_P.value)  # it runs on, as in a system call
            return
        side.machine.budget = side.machine.instructions + INJECTION_BUDGET
        try:
            ended = side.machine.run() is not None
        except GuestStopped as stopped:
            self._count_point()
            self._stray(boundary, stopped, before)
            return
        finally:
            side.machine.budget = None
            self._injecting = False
        if self._refused:
            if dead:  # the handler has a stack of its own
                side.rt.memory.write(low, dead)
            losses = [
                Loss(register=name, before=before[name], after=side.registers[name])
                for name in before.diff(side.registers)
                if name not in _THREADS_OWN
            ]
        else:
            self._count_point()
            losses = self._resumed.losses if self._resumed is not None else []
            if self.descheduled > descheduled + 1:
                self._find(_TWICE)
        if ended:
            losses = [Loss(register="RIP", before=before["RIP"], after=0)]
        for loss in losses:
            self._lose(boundary, loss)
        if losses:
            self._repair()
        elif side.registers["RIP"] != before["RIP"]:
            self._come_again(boundary, before["RIP"])

    def _count_point(self) -> None:
        self.result.points += self._counted
        self.result.direct += self._counted

    def _come_again(self, boundary: Boundary, pc: int) -> None:
        """Lets a restart sequence run from its start to where it was interrupted."""
        resumed = self.side.registers["RIP"]
        for _ in range(MAX_RESTART_DISTANCE):
            try:
                alive = self.side.advance(1)
            except GuestStopped as stopped:
                self._stray(boundary, stopped)
                return
            if alive and self.side.registers["RIP"] == pc:
                twin = self.twin.registers
                losses = [
                    Loss(register=name, before=twin[name], after=self.side.registers[name])
                    for name in twin.diff(self.side.registers)
                    if name not in _THREADS_OWN
                ]
                for loss in losses or self._data_losses():
                    self._lose(boundary, loss, "after the restart sequence came here again")
                if losses:
                    self._repair()
                return
        self._lose(
            boundary,
            Loss(register="RIP", before=pc, after=resumed),
            "the restart sequence does not come here again",
        )
        self._repair()

    def _landed(self) -> None:
        if self._injecting and (self._resumed is not None or self._refused):
            self.side.machine.stop()

    def _listen(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self._resumed = event
        elif isinstance(event, CallRuleBroken) and self._injecting:
            self._find(call_rule_broken(event))
        elif isinstance(event, Descheduled) and self._injecting:
            self.descheduled += event.why == "preempted"
        elif isinstance(event, SafePointVerdict) and not event.safe and self._injecting:
            self._refused = True
            if self._counted:
                self.result.refuse(event.reason)
            rt, gp = self.side.rt, self.side.g
            gp.preempt = 0
            gp.stackguard0 = gp.stack_lo + rt.stackGuard
            rt.p(rt.m(gp.m).p).preempt = 0

    def _stray(
        self, boundary: Boundary, stopped: GuestStopped, before: Registers | None = None
    ) -> None:
        """The disturbed run died or went astray: RIP is lost, and what else differs then."""
        thread = self.side.machine.threads.get(stopped.tid)
        registers = stopped.registers or (thread.registers if thread is not None else None)
        rip = stopped.fault.pc if isinstance(stopped, GuestFault) else None
        if rip is None:
            rip = registers["RIP"] if registers is not None else 0
        resume = before["RIP"] if before is not None else boundary.place.pc
        self._lose(boundary, Loss(register="RIP", before=resume, after=rip), str(stopped))
        self._repair()

    def _find(self, finding: str) -> None:
        if finding not in self.result.findings:
            self.result.findings.append(finding)

    def _lose(self, boundary: Boundary, loss: Loss, note: str = "") -> None:
        if self._counted:
            self.result.lose(boundary, loss, note)

    def _repair(self) -> None:
        self.side.follow(self.twin)

    # Against the twin.

    def _compare_with_twin(self) -> None:
        """What the instruction before this boundary made of what preemption left behind."""
        assert self._previous is not None
        boundary, before = self._previous.boundary, self._previous.registers
        twin, side = self.twin.registers, self.side.registers
        executed = self.twin.rt.memory.read(before["RIP"], 4) if boundary.place.symbol else b""
        if executed.startswith(INPUTS):
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
