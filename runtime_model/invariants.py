"""What holds at every boundary of every run: the runtime's own rules, checked from outside.

- each goroutine is in exactly one place, and its status says which: on one queue, on one M, or
  nowhere (parked, waiting, dead);
- statuses change as proc.go's and stack.go's callers of casgstatus change them, and in no other
  way (runtime2.go's list of statuses);
- Ms and Ps that belong together name each other; the idle lists and their counts agree;
- a signal that was sent is pending or was handled, once, and m.signalPending says so;
- a preempted goroutine goes on with each register and its stack as they were;
- no goroutine loses its M while that holds a lock, allocates, or has preemption switched off;
- every stack pointer lies in a stack of its M's, every asyncPreempt in what isAsyncSafePoint found.

The states of g, m, p and sched are read in the guest's memory; nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from emulator.events import FrameBuilt, SignalReturned, SignalSent
from emulator.fault import GuestStopped
from emulator.linux.threads import ThreadState
from runtime_model.events import (
    CallRuleBroken,
    Descheduled,
    Entered,
    Executing,
    PushedCall,
    Resumed,
    StatusChanged,
    WorldStopped,
)
from runtime_model.proc_runq import RUNQ_SIZE
from runtime_model.runtime2 import (
    _Gcopystack,
    _Gdead,
    _Gpreempted,
    _Grunnable,
    _Grunning,
    _Gscan,
    _Gsyscall,
    _Gwaiting,
    _Pgcstop,
    _Pidle,
    _Prunning,
    _Psyscall,
    status_name,
)
from runtime_model.signal_unix import SIGURG
from runtime_model.stack import stackPreempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emulator.events import Event
    from emulator.linux.threads import Thread
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M, P
    from runtime_model.version import GoVersion

_SCANNABLE: Final = (_Grunnable, _Grunning, _Gsyscall, _Gwaiting)
_OFF_ITS_M: Final = (_Grunnable, _Gsyscall, _Gwaiting, _Gdead, _Gpreempted)
_OF_A_WORKER: Final = {(_Grunning, _Gwaiting), (_Gwaiting, _Grunning)}  # parks, and gcDrain
_WITH_M: Final = (_Grunning, _Gcopystack, _Gsyscall)


class Violation(GuestStopped):
    """A rule of the runtime that did not hold."""


def transitions(version: GoVersion) -> frozenset[tuple[int, int]]:
    """All (old, new) that some caller of casgstatus may make."""
    found = {
        (_Gdead, _Grunnable),  # newproc
        (_Grunnable, _Grunning),  # execute
        (_Grunning, _Grunnable),  # goschedImpl
        (_Grunning, _Gdead),  # goexit0
        (_Grunning, _Gcopystack),  # newstack
        (_Gcopystack, _Grunning),
        (_Gwaiting, _Grunnable),  # ready
        (_Grunning, _Gsyscall),  # entersyscall
        (_Gsyscall, _Grunning),  # exitsyscall
    }
    if version.psyscall:
        found.add((_Gsyscall, _Grunnable))  # exitsyscall0; exitsyscallNoP finds it running
    found |= {(s, s | _Gscan) for s in _SCANNABLE} | {(s | _Gscan, s) for s in _SCANNABLE}
    if version.asynchronous:
        found |= {
            (_Grunning, _Gscan | _Gpreempted),  # preemptPark
            (_Gscan | _Gpreempted, _Gpreempted),
            (_Gpreempted, _Gwaiting),  # casGFromPreempted
        }
    else:
        found |= {(_Grunning, _Gwaiting), (_Gwaiting, _Grunning)}  # newstack
    return frozenset(found)


class Invariants:
    """The checks on one runtime, from a boundary on at which no signal is being handled."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.legal = transitions(rt.version)
        self.statuses = {gp.goid: gp.atomicstatus for gp in map(rt.g, rt.goroutines)}
        self.worker = rt.g(rt.gcworker_g).goid if rt.gcworker_g else 0
        if self.worker:
            self.statuses[self.worker] = _Gwaiting
        self.running = {mp.id: rt.g(mp.curg).goid for mp in self._ms() if mp.curg}  # goid by M
        self.handling: dict[int, list[int]] = {}  # m.preemptGen at the entry of handlers, by tid
        self.pending: set[int] = set()  # tids with a SIGURG that was sent and not delivered
        self.stopped = False  # the world
        self.checks = 0
        rt.machine.events.subscribe(self.listen)
        rt.watch.on_left = self._left

    def fail(self, message: str, tid: int = -1) -> None:
        """Raises the violation."""
        raise Violation(f"invariant: {message}", tid)

    # Events.

    def listen(self, event: Event) -> None:
        """Checks one event."""
        match event:
            case StatusChanged():
                self._status(event)
            case SignalSent(signal=23):
                if event.target in self.pending:
                    self.fail(f"thread {event.target} got a second SIGURG beside a pending one")
                self.pending.add(event.target)
            case FrameBuilt(signal=23):
                self._delivered(event)
            case SignalReturned():
                self._returned(event)
            case PushedCall():
                self._pushed(event)
            case CallRuleBroken():
                text = f"asyncPreempt calls asyncPreempt2 {event.rule}"
                self.fail(f"goroutine {event.goid}'s {text}", event.tid)
            case Resumed():
                if event.losses:
                    lost = ", ".join(loss.register for loss in event.losses)
                    self.fail(f"goroutine {event.goid} went on without its {lost}", event.tid)
            case Executing():
                self._executing(event)
            case Descheduled():
                self._descheduled(event)
            case WorldStopped():
                self._stopped(event)
            case Entered(function="startTheWorldWithSema"):
                self.stopped = False

    def _whom(self) -> str:
        return ", ".join(f"goroutine {g} on M{m}" for m, g in self.running.items())

    def _status(self, event: StatusChanged) -> None:
        if event.goid not in self.statuses:
            return  # g0
        change = f"goroutine {event.goid}: {status_name(event.old)} to {status_name(event.new)}"
        legal = self.legal | _OF_A_WORKER if event.goid == self.worker else self.legal
        if (event.old, event.new) not in legal:
            self.fail(f"{change} is no step that the runtime makes", event.tid)
        if self.statuses[event.goid] != event.old:
            was = status_name(self.statuses[event.goid])
            self.fail(f"{change}, but it was {was}", event.tid)
        self.statuses[event.goid] = event.new
        old, new = event.old & ~_Gscan, event.new & ~_Gscan
        if new == _Grunning != old and old in _OFF_ITS_M:
            self._runs(event)
        elif old == _Grunning != new and new in _OFF_ITS_M:
            self.running.pop(self._m_of(event.tid).id, None)

    def _runs(self, event: StatusChanged) -> None:
        m = self._m_of(event.tid).id
        if event.goid in self.running.values():
            self.fail(f"goroutine {event.goid} runs on two Ms: M{m}, {self._whom()}", event.tid)
        if m in self.running:
            self.fail(f"M{m} runs two goroutines: {event.goid}, {self._whom()}", event.tid)
        self.running[m] = event.goid

    def _stopped(self, event: WorldStopped) -> None:
        """As stopTheWorldWithSema checks at its end (proc.go)."""
        self.stopped = True
        for pp in map(self.rt.p, self.rt.allp):
            if pp.status != _Pgcstop:
                self.fail(f"the world is stopped and P{pp.id} has status {pp.status}", event.tid)

    def _m_of(self, tid: int) -> M:
        rt = self.rt
        return rt.m(rt.g(rt.getg_of(rt.machine.threads[tid])).m)

    def _delivered(self, event: FrameBuilt) -> None:
        if event.tid not in self.pending:
            self.fail(f"thread {event.tid} was interrupted by a SIGURG that nobody sent", event.tid)
        self.pending.discard(event.tid)
        if self.rt.version.asynchronous:
            generation = self._m_of(event.tid).preemptGen
            self.handling.setdefault(event.tid, []).append(generation)

    def _returned(self, event: SignalReturned) -> None:
        handling = self.handling.get(event.tid)
        if handling:
            mp, before = self._m_of(event.tid), handling.pop()
            off = self.rt.policy.asyncpreemptoff and self.rt.version.asyncpreemptoff_in_handler
            if mp.preemptGen != before + (not off) & 0xFFFF_FFFF:
                self.fail(f"M{mp.id}'s handler counted {before} to {mp.preemptGen}", event.tid)

    def _pushed(self, event: PushedCall) -> None:
        mp = self._m_of(event.tid)
        gp = self.rt.g(mp.curg)
        self._may_leave(mp, gp)
        if event.rsp_before < gp.stack_lo + self.rt.asyncPreemptStack:
            left = event.rsp_before - gp.stack_lo
            self.fail(f"asyncPreempt was pushed with {left} bytes of stack left", event.tid)

    def _may_leave(self, mp: M, gp: G) -> None:
        for name in ("locks", "mallocing", "preemptoff_len"):
            if getattr(mp, name):
                field = name.removesuffix("_len")
                self.fail(f"goroutine {gp.goid} was preempted on M{mp.id}: m.{field} is set")

    def _executing(self, event: Executing) -> None:
        if self.running.get(event.m) != event.goid:
            self.fail(f"goroutine {event.goid} is executed and does not run on M{event.m}")
        if self.stopped:
            self.fail(f"goroutine {event.goid} runs in a stopped world", event.tid)

    def _descheduled(self, event: Descheduled) -> None:
        if event.goid in self.running.values():
            self.fail(f"goroutine {event.goid} left M{event.m} and runs", event.tid)
        if event.why != "exited":
            everybody = (*self.rt.goroutines, self.rt.gcworker_g)
            gp = next(g for g in map(self.rt.g, everybody) if g.goid == event.goid)
            self._may_leave(self._m_of(event.tid), gp)

    # States.

    def _left(self, thread: Thread) -> None:  # noqa: ARG002  # every state counts, not its own
        self.check()

    def check(self) -> None:
        """Checks the state at a boundary."""
        self.checks += 1
        ms = list(self._ms())
        self._places(ms)
        self._ms_and_ps(ms)
        self._signals(ms)
        self._stacks(ms)

    def finish(self) -> None:
        """Checks what must hold when all goroutines have ended."""
        self.check()
        if self.rt.watch.preempted:
            names = [self.rt.g(address).goid for address in self.rt.watch.preempted]
            self.fail(f"preempted and never resumed: goroutines {names}")

    def _ms(self) -> Iterator[M]:
        address = self.rt.memory.u64(self.rt.allm)
        while address:
            mp = self.rt.m(address)
            if mp.procid:
                yield mp
            address = mp.alllink

    def _queued(self) -> Counter[int]:
        """How often each g lies on a queue."""
        rt = self.rt
        found: Counter[int] = Counter()
        address, size = rt.sched.runq_head, 0
        while address:
            found[address] += 1
            size += 1
            address = rt.g(address).schedlink
        if size != rt.sched.runqsize:
            self.fail(f"the global queue has {size} goroutines and counts {rt.sched.runqsize}")
        for pp in map(rt.p, rt.allp):
            if pp.runnext:
                found[pp.runnext] += 1
            for i in range(pp.runqhead, pp.runqtail):
                found[rt.memory.u64(pp.field_address("runq") + 8 * (i % RUNQ_SIZE))] += 1
        return found

    def _places(self, ms: list[M]) -> None:
        queued = self._queued()
        current = Counter(mp.curg for mp in ms if mp.curg)
        for gp in map(self.rt.g, self.rt.goroutines):
            status = gp.atomicstatus & ~_Gscan
            expected = (int(status == _Grunnable), int(status in _WITH_M))
            found = (queued[gp.address], current[gp.address])
            if found != expected:
                self.fail(
                    f"goroutine {gp.goid} is {status_name(gp.atomicstatus)}, on {found[0]} queues "
                    f"and {found[1]} Ms"
                )
            if bool(gp.m) != bool(found[1]) or (gp.m and self.rt.m(gp.m).curg != gp.address):
                self.fail(f"goroutine {gp.goid} and its M do not name each other")

    def _ms_and_ps(self, ms: list[M]) -> None:
        rt = self.rt
        for mp in ms:
            if mp.p and rt.p(mp.p).m != mp.address:
                self.fail(f"M{mp.id} and its P do not name each other")
            # In a system call, and up to where exitsyscall has a P, syscallsp is set.
            if mp.curg and not mp.p and not rt.g(mp.curg).syscallsp:
                self.fail(f"M{mp.id} runs a goroutine without a P")
        idle = 0
        address = rt.sched.pidle
        while address:
            pp = rt.p(address)
            if pp.status != _Pidle or pp.m:
                self.fail(f"P{pp.id} is on the list of idle Ps and is not idle")
            idle += 1
            address = pp.link
        if idle != rt.sched.npidle:
            self.fail(f"{idle} Ps are on the idle list, which counts {rt.sched.npidle}")
        for pp in map(rt.p, rt.allp):
            self._p(pp)

    def _p(self, pp: P) -> None:
        rt = self.rt
        if pp.m and rt.m(pp.m).p != pp.address:
            self.fail(f"P{pp.id} and its M do not name each other")
        if pp.status == _Prunning and not pp.m:
            self.fail(f"P{pp.id} is running and has no M")
        if pp.status not in {_Prunning, _Pidle, _Pgcstop, _Psyscall}:
            self.fail(f"P{pp.id} has status {pp.status}")
        if pp.m and rt.m(pp.m).curg and pp.status != _Prunning:
            self.fail(f"P{pp.id} has a running goroutine and is not running")

    def _signals(self, ms: list[M]) -> None:
        for mp in ms:
            thread = self.rt.machine.threads[mp.procid]
            waiting = sum(info.signo == SIGURG for info in thread.pending)
            if waiting != (thread.tid in self.pending) and thread.state is not ThreadState.EXITED:
                self.fail(f"M{mp.id} has {waiting} SIGURG pending: one was lost, or came twice")
            if not self.rt.version.asynchronous or not mp.signalPending:
                continue
            if not waiting and not self.handling.get(thread.tid):
                self.fail(f"M{mp.id}: signalPending is set and no signal is on its way")

    def _stacks(self, ms: list[M]) -> None:
        rt = self.rt
        for mp in ms:
            rsp = rt.machine.threads[mp.procid].registers["RSP"]
            stacks = [rt.g(g) for g in (mp.g0, mp.gsignal, mp.curg) if g]
            if not any(g.stack_lo <= rsp <= g.stack_hi for g in stacks):
                self.fail(f"M{mp.id}'s stack pointer {rsp:#x} lies in no stack of its own")
        for gp in map(rt.g, rt.goroutines):
            status = gp.atomicstatus & ~_Gscan
            if status == _Gdead:
                continue
            if status not in _WITH_M and not gp.stack_lo < gp.sched_sp <= gp.stack_hi:
                self.fail(f"goroutine {gp.goid} would go on outside of its stack")
            guard = gp.stack_lo + rt.stackGuard
            if gp.stackguard0 not in {guard, stackPreempt}:
                self.fail(f"goroutine {gp.goid}'s stackguard0 is {gp.stackguard0:#x}")
