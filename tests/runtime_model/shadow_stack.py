"""A shadow call stack, kept by watching the machine's CALLs: what a stack walk must find.

It knows nothing of Go's tables. A slot is a stack address to which CALL has written a return PC
(or pushCall, or newproc's goexit); those at or above SP are the live ones. Of frame pointers it
knows which slot BP was set up for.
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import TYPE_CHECKING

from emulator.disassembly import disassemble
from emulator.events import Event, Executed
from runtime_model.events import PushedCall, StackCopied
from runtime_model.traceback import fpTracebackPCs, unwind, unwindFlags

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G

# As a traceback for printing walks: from g0 to the goroutine, and no throw at SPWRITE.
THROUGH = frozenset({"runtime.morestack", "runtime.systemstack"})
PRINTING = unwindFlags.PrintErrors | unwindFlags.JumpStack


class ShadowStack:
    """Listener of a machine that steps everything; compares both walks at each boundary."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.slots: list[int] = []  # rising, of all stacks
        self.returns: dict[int, int] = {}
        self.with_bp: set[int] = set()
        self.compared: Counter[str] = Counter()  # walks by what they began in
        self.wrong: list[str] = []
        self._is_call: dict[int, bool] = {}
        for address in rt.goroutines:
            gp = rt.g(address)
            self._push(gp.sched_sp, rt.symbol("goexit") + 1)
        rt.machine.step_all = True
        rt.machine.events.executed_wanted = True
        rt.machine.events.subscribe(self.listen)

    def _push(self, slot: int, pc: int) -> None:
        if slot not in self.returns:
            bisect.insort(self.slots, slot)
        self.returns[slot] = pc
        self.with_bp.discard(slot)

    def _drop(self, low: int, high: int) -> None:
        first, last = bisect.bisect_left(self.slots, low), bisect.bisect_left(self.slots, high)
        for slot in self.slots[first:last]:
            del self.returns[slot]
            self.with_bp.discard(slot)
        del self.slots[first:last]

    def between(self, low: int, high: int) -> list[int]:
        """The live slots of a range, innermost first."""
        first, last = bisect.bisect_left(self.slots, low), bisect.bisect_left(self.slots, high)
        return self.slots[first:last]

    def listen(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, PushedCall):
            self._push(event.rsp_after, event.resume)
        elif isinstance(event, StackCopied):
            delta = event.new_hi - event.old_hi
            moved = [(s, self.returns[s], s in self.with_bp) for s in self.slots
                     if event.old_lo <= s < event.old_hi]  # fmt: skip
            self._drop(event.old_lo, event.old_hi)
            for slot, pc, has_bp in moved:
                self._push(slot + delta, pc)
                if has_bp:
                    self.with_bp.add(slot + delta)
        elif isinstance(event, Executed):
            self._executed(event)

    def _executed(self, event: Executed) -> None:
        before, after = event.before, event.after
        assert before is not None
        assert after is not None
        rsp, pc = after["RSP"], before["RIP"]
        is_call = self._is_call.get(pc)
        if is_call is None:
            code = disassemble(self.rt.memory.read(pc, 15), pc, 1)
            is_call = self._is_call[pc] = bool(code) and code[0].mnemonic == "call"
        self._before(pc, before["RSP"])
        if is_call and after["RIP"] == self.rt.symbol("mstart"):
            self._drop(rsp, rsp + 8)  # the first frame of every M
        elif is_call:
            self._push(rsp, self.rt.memory.u64(rsp))
        region = self.rt.memory.find(rsp) or self.rt.memory.find(rsp - 1)
        assert region is not None
        self._drop(region.start, rsp)
        bp = after["RBP"]
        if bp != before["RBP"] and (bp == 0 or region.start <= bp < region.end):
            self.with_bp -= set(self.between(region.start, bp + 8 if bp else region.end))
            if bp + 8 in self.returns:
                self.with_bp.add(bp + 8)
        if self.rt.tid < 0:  # not in a call from Python, which nobody has CALLed
            self._compare(after["RIP"], rsp, bp)

    def _before(self, pc: int, rsp: int) -> None:
        """What Python has done to the stack since the last instruction."""
        region = self.rt.memory.find(rsp) or self.rt.memory.find(rsp - 1)
        assert region is not None
        self._drop(region.start, rsp)
        fn = self.rt.functions.findfunc(pc)
        if fn is not None and fn.entry == pc and rsp < region.end and not self.rt.memory.u64(rsp):
            self._drop(rsp, region.end)  # a gate has left for it: nobody will be returned to

    def _compare(self, pc: int, rsp: int, bp: int) -> None:
        rt = self.rt
        gp = self._g_of(rsp)
        if gp is None:
            return  # gsignal: the kernel has called
        gate = rt.machine.gates.names.get(pc)
        if gate is not None:
            pc, rsp = rt.memory.u64(rsp), rsp + 8
        frames = [(f.pc, f.lr) for f in unwind(rt, gp, PRINTING, pc, rsp)]
        fn = rt.functions.findfunc(pc)
        name = fn.name if fn is not None else f"{pc:#x}"
        on_g0 = bool(gp.m) and rt.m(gp.m).g0 == gp.address
        if fn is not None and fn.sp_write and not (on_g0 and name in THROUGH):
            # Go's walk ends there: nobody knows on which stack SP is.
            self._same(name, [lr for _, lr in frames], [0], rsp)
            return
        if on_g0:
            expected = self._on_g0(gp, rsp, name)
            name = f"g0: {name}"
        else:
            expected = [self.returns[s] for s in self.between(rsp, gp.stack_hi)]
        found = [lr for _, lr in frames if lr]
        self._same(name, found, expected, rsp)
        if not on_g0 and gate is None:
            slots = [s for s in self.between(rsp, gp.stack_hi) if s in self.with_bp]
            chain = list(fpTracebackPCs(rt, bp, 1000))
            self._same(f"BP: {name}", chain, [self.returns[s] for s in slots], rsp)

    def _on_g0(self, g0: G, rsp: int, name: str) -> list[int]:
        """Return PCs between SP and where g0 was entered, and on the stack that it came from."""
        rt = self.rt
        entered = g0.sched_sp if rsp < g0.sched_sp else g0.stack_hi
        here = [self.returns[s] for s in self.between(rsp, entered)]
        functions = [rt.functions.findfunc(pc) for pc in here]
        names = [name, *(fn.name if fn is not None else "" for fn in functions)]
        through = next((i for i, known in enumerate(names) if known in THROUGH), None)
        if through is None:
            return here
        # The walk goes on on the goroutine's stack, where it was left.
        curg = rt.g(rt.m(g0.m).curg)
        there = self.between(curg.sched_sp, curg.stack_hi)
        return [*here[:through], *(self.returns[slot] for slot in there)]

    def _g_of(self, rsp: int) -> G | None:
        rt = self.rt
        for address in (*rt.goroutines, *(rt.m(m).g0 for m in self._ms())):
            gp = rt.g(address)
            if gp.stack_lo <= rsp < gp.stack_hi:
                return gp
        return None

    def _ms(self) -> list[int]:
        found, address = [], self.rt.memory.u64(self.rt.allm)
        while address:
            found.append(address)
            address = self.rt.m(address).alllink
        return found

    def _same(self, name: str, found: list[int], expected: list[int], rsp: int) -> None:
        self.compared[name] += 1
        if found != expected and len(self.wrong) < 10:
            rows = [f"{n}: {[f'{v:#x}' for v in x]}" for n, x in
                    (("found", found), ("expected", expected))]  # fmt: skip
            self.wrong.append(f"{name} at SP {rsp:#x}: " + "; ".join(rows))
