"""Follows each asynchronous preemption from the interrupted instruction to the resumed one.

The observer of the machine: it names the functions that a thread goes through, remembers what a
goroutine's registers and stack were when the signal hit, and compares when the goroutine executes
its own code again, on whichever M that is. It changes nothing but what a preemption leaves to
chance: the dead stack and the P's scratch area are poisoned when pushCall is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.events import Event, Faulted, FrameBuilt
from runtime_model.abi_internal import broken_by_trampoline
from runtime_model.events import (
    CallRuleBroken,
    Entered,
    GoroutineExited,
    Loss,
    PushedCall,
    Resumed,
)
from runtime_model.losses import memory_losses
from runtime_model.poison import Poison
from runtime_model.preempt_xreg import poison_scratch

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from emulator.registers import Registers
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

# Registers that belong to the thread, not to the goroutine.
_THREADS_OWN: Final = frozenset({"FS_BASE", "GS_BASE"})


@dataclass(slots=True)
class Preempted:
    """A goroutine's state at the boundary where the signal hit, and what it must be again."""

    m: int
    registers: Registers  # interrupted
    resume: int
    memory: tuple[tuple[int, bytes], ...]  # (address, bytes) that preemption must not change


class Watch:
    """Observer of the machine and listener of the event stream, for one runtime."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.preempted: dict[int, Preempted] = {}  # by address of g
        self.memory_of: Callable[[G, int], list[tuple[int, int]]] = self.stack_above
        self.on_left: Callable[[Thread], None] = lambda _: None  # behind all of left's own work
        self.interrupted: dict[int, Registers] = {}  # by tid, at the latest signal frame
        self.faults: dict[int, Faulted] = {}  # by tid, the latest
        self._function: dict[int, str] = {}  # by tid, while in watched code
        self._names = {
            instruction.address: function.name.removeprefix("runtime.")
            for function in rt.text.functions
            for instruction in function.instructions
        }
        self._goexit = rt.symbol("goexit") + 1
        self._asyncPreempt2 = rt.symbol("asyncPreempt2") if rt.version.asynchronous else 0
        rt.machine.observer = self
        rt.machine.events.subscribe(self.listen)
        rt.preemption_poison = self.poison

    def stack_above(self, gp: G, rsp: int) -> list[tuple[int, int]]:
        """The live part of a goroutine's stack, [rsp, stack.hi), as (address, size)."""
        return [(rsp, gp.stack_hi - rsp)]

    def poison(self, gp: G) -> Poison:
        """The complement of what gp's registers were when it was interrupted."""
        record = self.preempted.get(gp.address)
        return Poison.complement(record.registers) if record else Poison.distinct()

    # The event stream.

    def listen(self, event: Event) -> None:
        """Remembers the interrupted state, and opens a record when pushCall is done."""
        if isinstance(event, FrameBuilt):
            assert event.interrupted is not None
            self.interrupted[event.tid] = event.interrupted
        elif isinstance(event, Faulted):
            self.faults[event.tid] = event
        elif isinstance(event, PushedCall):
            rt = self.rt
            registers = self.interrupted[event.tid]
            # sigtrampgo runs with g = gsignal; the interrupted one is curg.
            mp = rt.m(rt.getg().m)
            gp = rt.g(mp.curg)
            memory = rt.memory
            self.preempted[gp.address] = Preempted(
                mp.id,
                registers,
                event.resume,
                tuple((a, memory.read(a, n)) for a, n in self.memory_of(gp, event.rsp_before)),
            )
            # What lies below the interrupted RSP is anybody's.
            rt.poison_dead_stack(event.rsp_after)
            if rt.version.extended_registers:
                poison_scratch(rt, rt.p(mp.p))

    # The machine's observer.

    def stepping(self, thread: Thread, rip: int) -> None:
        """Emits Entered whenever the thread comes into another function of the runtime.

        User code's own return to goexit is a goroutine's end, though a signal may come between.
        """
        if rip == self._goexit:
            registers = self.rt.machine.registers(thread).copy()
            gp = self.rt.g(self.rt.getg_of(thread))
            self.rt.machine.events.emit(
                GoroutineExited(tid=thread.tid, goid=gp.goid, registers=registers)
            )
        name = self._names.get(rip)
        if name is not None and name != self._function.get(thread.tid):
            self._function[thread.tid] = name
            self.rt.machine.events.emit(Entered(tid=thread.tid, pc=rip, function=name))
            if rip == self._asyncPreempt2:
                self._look_at_call(thread)

    def _look_at_call(self, thread: Thread) -> None:
        """The rules of calls, where asyncPreempt has just called asyncPreempt2."""
        rt = self.rt
        address = rt.getg_of(thread)
        record = self.preempted.get(address)
        if record is None:
            return  # a program of the user's calls it
        called = rt.machine.registers(thread)
        for rule in broken_by_trampoline(rt, record.registers, called):
            goid = rt.g(address).goid
            rt.machine.events.emit(CallRuleBroken(tid=thread.tid, goid=goid, rule=rule))

    def entered(self, thread: Thread) -> None:
        """User code came into the runtime: stepping says where."""

    def left(self, thread: Thread) -> None:
        """User code goes on: where a preemption is open for this goroutine, it ends here."""
        rt = self.rt
        pc = thread.registers["RIP"]
        function = rt.functions.findfunc(pc)
        name = function.name if function is not None else f"{pc:#x}"
        self._function.pop(thread.tid, None)
        rt.machine.events.emit(Entered(tid=thread.tid, pc=pc, function=name))
        address = rt.getg_of(thread)
        record = self.preempted.pop(address, None)
        if record is not None:
            rt.machine.events.emit(
                Resumed(
                    tid=thread.tid,
                    pc=pc,
                    goid=rt.g(address).goid,
                    interrupted=record.registers["RIP"],
                    interrupted_m=record.m,
                    rsp=thread.registers["RSP"],
                    losses=self.compare(record, thread.registers),
                )
            )
        self.on_left(thread)

    def compare(self, record: Preempted, now: Registers) -> list[Loss]:
        """What differs from the interrupted state, registers first, then bytes of memory."""
        expected = record.registers.copy()
        expected["RIP"] = record.resume
        losses = [
            Loss(register=name, before=expected[name], after=now[name])
            for name in expected.diff(now)
            if name not in _THREADS_OWN
        ]
        for address, before in record.memory:
            losses += memory_losses(address, before, self.rt.memory.read(address, len(before)))
        return losses
