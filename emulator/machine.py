"""The deterministic computer: memory, one processor, Linux threads, gates and virtual time.

Every thread has a clock of its own; an instruction takes 1 ns of it, gates and system calls
nothing. emulator.linux.sched picks the thread by these clocks, so all that happens follows from
the program: no host clock, no threads of the host.

Between two instructions of a thread, in this order: pending signals are delivered, as on any
return to user mode; the observer hears that the thread crosses between watched code (or a gate)
and the rest; a gate's function is called; the timer fires; a breakpoint's function is called.
After each of these the boundary is looked at again, so that whatever they changed counts.

Unwatched code runs a slice at a time; watched code is single-stepped.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final

from emulator.cpu import Stop, StopReason
from emulator.events import EventStream, Executed
from emulator.fault import BudgetExhausted, Fault, FaultKind, GuestStopped
from emulator.gates import GATES, Gates
from emulator.linux import faults, signals, syscalls
from emulator.linux.process import Process
from emulator.linux.sched import FOREVER, Scheduler
from emulator.linux.signal_frame import RED_ZONE
from emulator.linux.threads import ThreadState
from emulator.live_registers import LiveRegisters
from emulator.observer import Debugger, InstructionTimer, Observer, TimeStamped
from emulator.registers import Registers
from emulator.snapshot import MachineState, Snapshot, restore_memory, save_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.cpu import Cpu
    from emulator.gates import GateFunction
    from emulator.linux.threads import Thread
    from emulator.memory import Memory

STUCK: Final = 1_000_000  # stops in a row without an instruction between them


class Machine:
    """One computer with one process. All public attributes may be read whenever Python runs.

    `slice_ns` is how far a thread may get ahead of another that is ready. `budget` limits the
    instructions of all threads together. With `step_all`, unwatched code is
    single-stepped too, which changes nothing but speed and `Executed` events. `seed` varies slices.
    """

    def __init__(
        self,
        memory: Memory,
        cpu: Cpu,
        *,
        slice_ns: int = 10_000,
        budget: int | None = None,
        gates_at: int = GATES,
        step_all: bool = False,
        seed: int = 0,
    ) -> None:
        self.memory = memory
        self.cpu = cpu
        self.budget = budget
        self.step_all = step_all
        self.events = EventStream(now=lambda: self.now)
        self.linux = Process(memory, self.events, cpu.attach, cpu.remap)
        self.scheduler = Scheduler(self.linux, slice_ns, seed)
        self.instructions = 0  # executed by all threads
        self.observer: Observer | None = None
        self.timer: InstructionTimer | None = None
        self.breakpoints: dict[int, Callable[[Thread], None]] = {}
        self.debugger: Debugger | None = None  # set by `debug`
        self._watched: list[tuple[int, int]] = []
        self.live = LiveRegisters(cpu)
        self._running: Thread | None = None  # whose code is executed, in a slice or a call
        self._active = False  # in `run`
        self._stopping = False
        self._idle = 0
        if isinstance(cpu, TimeStamped):
            cpu.time_stamp = lambda: self.now + cpu.executed()  # 1 GHz, as RDTSC shows it
        self.gates = Gates(memory, cpu, gates_at)
        self._return = self.gate("return to Python", self._misplaced_return)

    @property
    def threads(self) -> dict[int, Thread]:
        """All threads by tid, those that have exited included."""
        return self.linux.threads

    @property
    def user_instructions(self) -> int:
        """Executed by all threads outside of watched code and of calls from Python."""
        return sum(thread.user_instructions for thread in self.threads.values())

    @property
    def now(self) -> int:
        """The time of the running thread, in ns."""
        return self._running.time if self._running is not None else 0

    def gate(self, name: str, function: GateFunction) -> int:
        """A new address at which machine code calls a Python function; see `gates`."""
        return self.gates.add(name, function)

    def watch(self, start: int, end: int) -> None:
        """Single-steps `[start, end)` from now on."""
        self.cpu.add_watch(start, end)
        bisect.insort(self._watched, (start, end))

    def add_breakpoint(self, address: int, function: Callable[[Thread], None]) -> None:
        """Calls the function each time a thread is about to execute this unwatched instruction.

        If a signal or a change of registers then takes the thread elsewhere, the function is
        called again when it comes back.
        """
        self.breakpoints[address] = function
        self.cpu.add_breakpoint(address)

    def remove_breakpoint(self, address: int) -> None:
        """Takes a breakpoint back."""
        del self.breakpoints[address]
        if self.debugger is None or address not in self.debugger.breakpoints:
            self.cpu.remove_breakpoint(address)

    def debug(self, debugger: Debugger | None) -> None:
        """Lets a debugger stop the machine from now on, or no longer."""
        if self.debugger is not None:
            for address in tuple(self.debugger.breakpoints):
                self.set_debug_stop(address, on=False)
            self.cpu.watch_data(())
        self.debugger = debugger
        self.linux.tracer = None if debugger is None else debugger.signalled

    def set_debug_stop(self, address: int, *, on: bool) -> None:
        """Whether the debugger hears of a thread that is about to execute this instruction."""
        assert self.debugger is not None
        stops = self.debugger.breakpoints
        (stops.add if on else stops.discard)(address)
        if on:
            self.cpu.add_breakpoint(address)
        elif address not in self.breakpoints:
            self.cpu.remove_breakpoint(address)

    def spawn(
        self, *, rip: int, rsp: int, fs_base: int = 0, time: int | None = None, **registers: int
    ) -> Thread:
        """A new thread, ready to run, with the initial state that Linux gives one.

        Its time is the running thread's unless given. The first one's tid is the pid.
        """
        block = Registers()
        for name, value in (registers | {"RIP": rip, "RSP": rsp, "FS_BASE": fs_base}).items():
            block[name] = value
        return self.linux.add_thread(block, self.now if time is None else time)

    def registers(self, thread: Thread) -> Registers:
        """`thread.registers`, made current; for listeners and `Observer.stepping`."""
        self.live.sync(thread)
        return thread.registers

    def stop(self) -> None:
        """Makes `run` return None at the next boundary; the next `run` goes on right there."""
        self._stopping = True

    def run(self) -> int | None:
        """Runs until the process exits, and returns its exit status; None after `stop`.

        Raises GuestStopped where the guest cannot go on. The machine can then be inspected.
        """
        self._stopping = False
        self._active = True
        process = self.linux
        try:
            while process.exit_status is None and not self._stopping:
                thread, limit = self.scheduler.pick()
                self._running = thread
                if thread.sigpending:
                    self.live.sync(thread)
                    signals.deliver(process, thread)
                if thread.state is ThreadState.RUNNABLE and not self._stopping:
                    self._advance(thread, limit)
        finally:
            self._active = False
            self.live.sync_all()
        return process.exit_status

    def step(self) -> bool:
        """Executes one instruction of unwatched code, if nothing else is to happen before it.

        A short cut of `run` for who stops at each instruction; the timer is not asked. True if
        the thread then is at unwatched code again. Else `run` does what comes next, which may be
        the instruction itself: `user_instructions` tells.
        """
        thread = self.scheduler.current
        if thread is None or self.step_all or not self._goes_on(thread):
            return False
        if self.linux.need_resched or thread.time >= self.scheduler.limit(thread):
            return False
        self._allowance(thread, FOREVER)
        self._running = thread
        self.live.enter(thread)
        stop = self.cpu.run(1, armed=False)
        self._advanced(thread, stop, nested=False)
        self._stopped(thread, stop, nested=False)
        self.live.sync(thread)
        return stop.fault is None and self._goes_on(thread)

    def _goes_on(self, thread: Thread) -> bool:
        """Whether the thread executes unwatched code next, and nothing comes before that."""
        if self.linux.exit_status is not None or thread.state is not ThreadState.RUNNABLE:
            return False
        if thread.sigpending or thread.inside is not False:
            return False
        rip = self.live.rip(thread)
        special = rip in self.gates.functions or rip in self.breakpoints or self._range(rip)
        return not special and self.debugger is None

    def call(self, thread: Thread, address: int, **registers: int) -> Registers:
        """Runs machine code as a function on the thread's stack, and returns the registers.

        The thread's own registers are as before afterwards. The stack pointer starts below the
        red zone, or at a given RSP, aligned so that the callee sees RSP % 16 == 8. Nothing else
        runs meanwhile and no signal is delivered; system calls work, but may not wait. The
        observer hears of the steps only. Raises GuestStopped for what goes wrong inside.
        """
        self.live.sync(thread)
        saved, running = thread.registers, self._running
        waiting = (thread.state, thread.wait, thread.wake_at, thread.break_passed)
        thread.registers = saved.copy()
        for name, value in registers.items():
            thread.registers[name] = value
        rsp = (registers.get("RSP", saved["RSP"] - RED_ZONE) & -16) - 8
        self.memory.put_u64(rsp, self._return)
        thread.registers["RSP"] = rsp
        thread.registers["RIP"] = address
        thread.state, thread.wait, thread.wake_at = ThreadState.RUNNABLE, None, None
        self._running = thread
        try:
            while self.live.rip(thread) != self._return:
                self._advance(thread, FOREVER, nested=True)
            return self.registers(thread)
        finally:
            self.live.sync(thread)
            thread.registers = saved
            thread.state, thread.wait, thread.wake_at, thread.break_passed = waiting
            self._running = running

    def state(self) -> MachineState:
        """A copy of all that a run can change, but for memory."""
        self.live.sync_all()
        current = self.scheduler.current
        tid = None if current is None else current.tid
        return MachineState(self.linux.save(), self.scheduler.save(), self.instructions, tid)

    def snapshot(self) -> Snapshot:
        """A copy of all that a run can change: writable memory, threads, kernel, counters."""
        return Snapshot(save_memory(self.memory), self.state())

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot of this machine, or of one with the same memory map and gates.

        Not while `run` is active. Raises ValueError where writable memory was mapped since.
        """
        if self._active:
            raise RuntimeError("a machine that runs cannot be restored: stop it first")
        restore_memory(self.memory, self.cpu, snapshot.regions)
        self.set_state(snapshot.state)

    def set_state(self, state: MachineState) -> None:
        """Has all as in that state but memory, which somebody else has brought back."""
        self.linux.restore(state.process)
        self.scheduler.restore(state.slices)
        self.instructions = state.instructions
        tid = state.current
        self.scheduler.current = self._running = None if tid is None else self.threads[tid]
        self.live.forget()
        self._idle = 0

    def _advance(self, thread: Thread, limit: int, *, nested: bool = False) -> None:
        """Does what is to be done at this boundary, or runs code up to some later one."""
        rip = self.live.rip(thread)
        gate = self.gates.functions.get(rip)
        watched = self._range(rip) if gate is None else None
        inside = gate is not None or watched is not None
        if not nested and thread.inside is not inside and self._cross(thread, inside):
            return
        if gate is not None:
            self._call_gate(thread, gate)
        elif watched is not None:
            self._step(thread, limit, watched, rip, nested)
        else:
            self._execute(thread, limit, rip, nested)

    def _range(self, rip: int) -> tuple[int, int] | None:
        """The watched range that holds an address."""
        index = bisect.bisect_right(self._watched, (rip, FOREVER * 4)) - 1
        if index >= 0 and rip < self._watched[index][1]:
            return self._watched[index]
        return None

    def _cross(self, thread: Thread, inside: bool) -> bool:
        """Notes that the thread crosses into or out of watched code; whether anyone was told."""
        before, thread.inside = thread.inside, inside
        if before is None or self.observer is None:
            return False
        self.live.sync(thread)
        (self.observer.entered if inside else self.observer.left)(thread)
        return True

    def _call_gate(self, thread: Thread, function: GateFunction) -> None:
        self.live.sync(thread)
        self._no_progress(thread)
        thread.break_passed = None
        fault = self.gates.call(thread, function)
        if fault is not None:
            faults.raise_fault(self.linux, thread, fault, fatal=True)

    def _misplaced_return(self, thread: Thread) -> int | None:
        raise GuestStopped(
            "a return to Python without a call from there", thread.tid, thread.registers.copy()
        )

    def _no_progress(self, thread: Thread) -> None:
        """Something happens at a boundary; endlessly often at one boundary is a loop."""
        self._idle += 1
        if self._idle > STUCK:
            registers = self.registers(thread).copy()
            raise GuestStopped(
                f"{STUCK} stops without an instruction between them at {registers['RIP']:#x}",
                thread.tid,
                registers,
            )

    def _allowance(self, thread: Thread, limit: int) -> int:
        """How many instructions the thread may execute: at least one, or BudgetExhausted."""
        count = limit - thread.time
        if self.budget is not None:
            left = self.budget - self.instructions
            if left <= 0:
                registers = self.registers(thread).copy()
                raise BudgetExhausted(
                    f"the budget of {self.budget} instructions is used up at {registers['RIP']:#x}",
                    thread.tid,
                    registers,
                )
            count = min(count, left)
        return count

    def _step(
        self, thread: Thread, limit: int, watched: tuple[int, int], rip: int, nested: bool
    ) -> None:
        """Single-steps watched code."""
        run, where, observer, events = self.cpu.run, self.cpu.rip, self.observer, self.events
        live = self.live
        start, end = watched
        last = thread.time + self._allowance(thread, limit)
        thread.break_passed = None
        live.enter(thread)
        after: Registers | None = None  # the last instruction's, if nothing has changed them
        while True:
            if observer is not None:
                observer.stepping(thread, rip)
                if live.fresh:
                    live.enter(thread)
                    after = None
            before = (after or live.recorded()) if events.executed_wanted else None
            stop = run(1, armed=False)
            if stop.executed:
                thread.time += 1
                thread.instructions += 1
                self.instructions += 1
                if before is not None:
                    after = self._executed(thread, rip, before)
            if stop.reason is not StopReason.COUNT:
                self._idle = 0
                self._stopped(thread, stop, nested)
                return
            if live.fresh:  # a listener wanted the registers
                live.enter(thread)
                after = None
            rip = where()
            if not start <= rip < end or thread.time >= last or thread.sigpending or self._stopping:
                self._idle = 0
                return

    def _execute(self, thread: Thread, limit: int, rip: int, nested: bool) -> None:
        """Runs unwatched code: up to the timer, a breakpoint, a gate, watched code, the limit."""
        count = self._allowance(thread, limit)
        if self.timer is not None and not nested:
            due = self.timer.due(thread)
            if due is not None:
                if due <= 0:
                    self.live.sync(thread)
                    self._no_progress(thread)
                    self.timer.fire(thread)
                    return
                count = min(count, due)
        function, debugger = self.breakpoints.get(rip), self.debugger
        stops = debugger is not None and rip in debugger.breakpoints
        if (function is not None or stops) and thread.break_passed != rip:
            thread.break_passed = rip
            self.live.sync(thread)
            self._no_progress(thread)
            if function is not None:
                function(thread)
            if stops and thread.registers["RIP"] == rip:
                assert debugger is not None
                debugger.reached(thread)
            return
        thread.break_passed = None
        special = stops or function is not None
        if self.step_all or special:
            count = 1
        self.live.enter(thread)
        before = self.live.recorded() if self.step_all and self.events.executed_wanted else None
        stop = self.cpu.run(count, armed=not special)
        self._advanced(thread, stop, nested)
        if before is not None and stop.executed:
            self._executed(thread, rip, before)
        self._stopped(thread, stop, nested)

    def _advanced(self, thread: Thread, stop: Stop, nested: bool) -> None:
        """Counts what was executed of unwatched code."""
        if stop.executed:
            self.account(thread, stop.executed, nested=nested)
        else:
            self._no_progress(thread)

    def account(self, thread: Thread, executed: int, *, nested: bool = False) -> None:
        """Counts unwatched instructions of a thread, which somebody else may have executed."""
        self._idle = 0
        thread.time += executed
        thread.instructions += executed
        self.instructions += executed
        if not nested:
            thread.user_instructions += executed

    def _executed(self, thread: Thread, rip: int, before: Registers) -> Registers:
        """Emits the event of an instruction; returns the registers behind it."""
        index, after = self.instructions - 1, self.live.recorded()
        self.events.emit(Executed(tid=thread.tid, pc=rip, index=index, before=before, after=after))
        return after

    def _stopped(self, thread: Thread, stop: Stop, nested: bool) -> None:
        """Answers a system call or a fault; all other stops are seen at the next boundary."""
        fault = stop.fault
        if stop.reason is StopReason.GATE:
            rip = self.live.rip(thread)
            if rip not in self.gates.functions:
                fault = Fault(FaultKind.FETCH_PROTECTED, rip, rip, "not a gate, but between gates")
        if stop.reason is StopReason.SYSCALL:
            self.live.sync(thread)
            syscalls.dispatch(self.linux, thread)
            if nested and (
                thread.state is not ThreadState.RUNNABLE or self.linux.exit_status is not None
            ):
                raise GuestStopped(
                    "a system call waits or exits in a call from Python",
                    thread.tid,
                    thread.registers.copy(),
                )
        elif fault is not None:
            self.live.sync(thread)
            faults.raise_fault(self.linux, thread, fault, fatal=nested)
        if stop.access is not None and self.debugger is not None:
            self.live.sync(thread)
            self.debugger.accessed(thread, stop.access)
