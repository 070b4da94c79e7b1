"""The real processor as an engine: x86-64 Linux, one instruction at a time, in a fenced child.

Each step is ptrace(2)'s, so the count is exact; a REP instruction steps by iterations. Long runs
of a program's code go at full speed in a copy that counts (emulator.native.counted). What the
Unicorn engine's fence refuses is simply executed. What no run could repeat, or what would not be
the guest's own, is done here or refused by name:
- SYSCALL, and gates, are never executed; INT 0x80 and SYSENTER are refused;
- RDTSC and RDTSCP show virtual time; RDRAND and RDSEED give the numbers of a seed;
- PUSHF does not store the trap flag that stepping sets;
- loads of segment registers, far transfers and INT1 would leave what a step tells; what reads the
  kernel's tables or its number of the processor would tell of the host.

CPUID and XGETBV tell of this processor. A child has the memory as it was mapped when it was made;
where that changes the next run makes a new one.
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator import fence
from emulator.accesses import accesses
from emulator.cpu import Stop, StopReason
from emulator.fault import Fault, FaultKind
from emulator.host_cpuid import NativeUnavailableError
from emulator.memory import Prot
from emulator.native.counted import FullSpeed
from emulator.native.fenced_child import FencedChild
from emulator.native.kinds import Kind, classify
from emulator.native.ptrace import STEPPED, Halt
from emulator.registers import ARITHMETIC_FLAGS, GENERAL, Flags, Registers, loadable_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from emulator.cpu import DataBreakpoint
    from emulator.memory import Memory, Region
    from emulator.recording import Recorder

_SIGILL, _SIGBUS, _SIGFPE, _SIGSEGV = 4, 7, 8, 11
_FPE_INTDIV, _BUS_ADRALN, _SEGV_MAPERR, _SEGV_ACCERR = 1, 1, 1, 2
_U64: Final = 2**64 - 1
_TF: Final = int(Flags.TF)
PATIENCE: Final = 1000  # instructions between two chances for Python to see a Ctrl-C
FREELY: Final = 1 << 24  # the same, at full speed
WORTH: Final = 256  # instructions from which on that is worth its start
_INTERRUPTS_US: Final = (signal.SIGINT, signal.SIGALRM)


@dataclass(frozen=True, slots=True)
class _Place:
    """What there is to know about an address that is about to be executed."""

    kind: Kind
    gate: bool = False
    armed: StopReason | None = None  # why an armed run stops there
    objection: Fault | None = None  # why nobody executes it


_PLAIN: Final = (_Place(Kind.PLAIN), _Place(Kind.PUSHF))  # at full speed there is no trap flag


class NativeCpu:
    """One processor, an `emulator.cpu.Cpu`; raises NativeUnavailableError where there is none.

    Use it from one thread only: ptrace insists on that. `time_stamp` is the time-stamp counter
    that RDTSC and RDTSCP read, `processor` RDTSCP's ECX; `seed` starts what RDRAND and RDSEED give.
    """

    def __init__(self, memory: Memory, *, seed: int = 0) -> None:
        self.memory = memory
        memory.shared = True
        self.name = "native, each instruction counted"
        self.time_stamp: Callable[[], int] = lambda: 0
        self.processor = 0
        self.random = random.Random(seed)  # noqa: S311  # must be the same each time
        self._child: FencedChild | None = FencedChild(memory)
        self.features = self._child.features
        self._state = Registers()
        self._inside = False  # whether the child has the registers
        self._fresh = True  # whether `_state` has them
        self._recorder: Recorder | None = None
        self._rip = 0
        self._flags = 0
        self._done = 0  # instructions of the current run
        self._gates: list[tuple[int, int]] = []
        self._watched: list[tuple[int, int]] = []
        self._breakpoints: set[int] = set()
        self._refused: dict[int, str] = {}
        self._known: dict[int, _Place] = {}
        self._fast = FullSpeed(memory)

    def close(self) -> None:
        """Ends the child; the next run makes another one."""
        if self._child is not None:
            self._bring()
            self._child.close()
            self._child, self._inside = None, False
        self._fast.close()

    # Memory and code.

    def attach(self, region: Region) -> None:  # noqa: ARG002  # the child gets all that there is
        """See `emulator.cpu.Cpu.attach`."""
        self.remap()

    def remap(self) -> None:
        """See `emulator.cpu.Cpu.remap`."""
        self._known.clear()
        self.close()

    def load_code(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """See `emulator.cpu.Cpu.load_code`: it can be run at full speed."""
        self._fast.load(instructions)

    def flush_code(self, start: int, size: int) -> None:  # noqa: ARG002  # little is lost
        """See `emulator.cpu.Cpu.flush_code`."""
        self._special()

    def _special(self, *addresses: int) -> None:
        """Something has become special about these addresses, or about any."""
        for address in addresses or tuple(self._known):
            self._known.pop(address, None)
        self._fast.forget(*addresses)

    def add_gates(self, start: int, end: int) -> None:
        """See `emulator.cpu.Cpu.add_gates`."""
        self._gates.append((start, end))
        self._special()

    def add_watch(self, start: int, end: int) -> None:
        """See `emulator.cpu.Cpu.add_watch`."""
        self._watched.append((start, end))
        self._special()

    def add_breakpoint(self, address: int) -> None:
        """See `emulator.cpu.Cpu.add_breakpoint`."""
        self._breakpoints.add(address)
        self._special(address)

    def remove_breakpoint(self, address: int) -> None:
        """See `emulator.cpu.Cpu.remove_breakpoint`."""
        self._breakpoints.discard(address)
        self._special(address)

    def watch_data(self, breakpoints: tuple[DataBreakpoint, ...]) -> None:
        """See `emulator.cpu.Cpu.watch_data`: none can be had here."""
        if breakpoints:
            raise NativeUnavailableError("the real processor is not given data breakpoints")

    def refuse(self, address: int, detail: str) -> None:
        """See `emulator.cpu.Cpu.refuse`."""
        self._refused[address] = detail
        self._special(address)

    # Registers.

    def load(self, registers: Registers) -> None:
        """Sets all registers. Raises ValueError for flags that no user program can have."""
        flags = loadable_flags(registers["RFLAGS"])
        self._state = registers.copy()
        self._state["RFLAGS"] = self._flags = flags
        self._rip = registers["RIP"]
        self._inside, self._fresh = False, True

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""
        self._bring()
        registers.block[:] = self._state.block
        registers.extended = self._state.extended

    def _bring(self) -> None:
        """Brings the registers from the child, if they are only there."""
        if not self._fresh:
            assert self._child is not None
            self._child.save(self._state)
            self._state["RFLAGS"] &= ~int(Flags.RF)
            self._fresh = True

    def _enter(self) -> FencedChild:
        """Brings the registers into the child, unless they are there."""
        child = self._child
        if child is None:
            child = self._child = FencedChild(self.memory)
        if not self._inside:
            child.load(self._state)
            self._inside = True
        return child

    def rip(self) -> int:
        """The current RIP, without saving the rest."""
        return self._rip

    # Execution.

    def executed(self) -> int:
        """Instructions that the current run has completed."""
        return self._done

    def run(self, count: int, *, armed: bool = True) -> Stop:
        """Executes at most `count` instructions: see `emulator.cpu.Cpu.run`.

        A run that ends for its count says so, whatever is special about the next instruction.
        A Ctrl-C waits until the child has stopped: before that nobody can ask it anything.
        """
        self._done = 0
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS_US)
        try:
            while True:
                few = PATIENCE
                if self._recorder is None and count - self._done >= WORTH:
                    few = self._run_freely(min(count - self._done, FREELY))
                stop = self._run(min(count, self._done + few), armed)
                if stop.reason is not StopReason.COUNT or self._done >= count:
                    return stop
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS_US)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run_freely(self, count: int) -> int:
        """Executes what it can at full speed; returns how many to step before it tries again."""
        fast = self._fast
        if not fast.loaded:
            return PATIENCE
        if self._flags & _TF or not fast.begins_at(self._rip, self._is_plain):
            return 1
        self._bring()
        self._done += fast.run(self._state, count)
        self._inside = False
        self._rip, self._flags = self._state["RIP"], self._state["RFLAGS"]
        return fast.rest

    def _is_plain(self, address: int) -> bool:
        """Whether no run stops at an address, and only we can change what is there."""
        place = self._look(address)
        return place in _PLAIN and address in self._known

    def _run(self, count: int, armed: bool) -> Stop:
        known = self._known
        while self._done < count:
            place = known.get(self._rip) or self._look(self._rip)
            if place.gate:
                return Stop(StopReason.GATE, self._done)
            if place.armed is not None and armed:
                return Stop(place.armed, self._done)
            if place.objection is not None:
                return Stop(StopReason.FAULT, self._done, place.objection)
            if place.kind is Kind.SYSCALL:
                if self._recorder is not None:
                    self._note(self._recorder)
                self._instead({})
                return Stop(StopReason.SYSCALL, self._done)
            if self._recorder is not None:
                self._note(self._recorder)
            trapped = self._flags & _TF
            fault = self._execute(place.kind)
            if fault is not None:
                if self._recorder is not None:
                    self._recorder.drop()
                return Stop(StopReason.FAULT, self._done, fault)
            if trapped:
                # A trap, not a fault: the instruction before RIP was executed.
                fault = Fault(FaultKind.EXCEPTION, self._rip, None, "single-step trap")
                return Stop(StopReason.FAULT, self._done, fault)
        return Stop(StopReason.COUNT, self._done)

    def _execute(self, kind: Kind) -> Fault | None:
        """One instruction that may be executed; the fault, if it does."""
        if kind in (Kind.TIME, Kind.TIME_AND_PROCESSOR):
            now = self.time_stamp() & _U64
            results = {"RAX": now & 0xFFFF_FFFF, "RDX": now >> 32}
            if kind is Kind.TIME_AND_PROCESSOR:
                results["RCX"] = self.processor & 0xFFFF_FFFF
            self._instead(results)
            return None
        if kind is Kind.RANDOM:
            self._draw()
            return None
        child = self._enter()
        self._fresh = False
        halt = child.step()
        if halt is not STEPPED:
            return self._fault(halt)
        self._rip, self._flags = child.rip(), child.flags()
        self._done += 1
        if kind is Kind.PUSHF:
            self._hide_trap_flag()
        elif kind is Kind.POPF:
            child.settle()
        return None

    def record(self, recorder: Recorder | None) -> None:
        """Has everything that is executed recorded, or nothing any more; a recorder calls this."""
        if recorder is not None and self._recorder is not None:
            raise RuntimeError("this processor is being recorded already")
        self._recorder = recorder

    def _note(self, recorder: Recorder) -> None:
        """Records the instruction at RIP, and what it may overwrite."""
        if not recorder.room:
            recorder.collect()
        self._bring()
        recorder.note_registers(self._state)
        for access in accesses(self.memory.read_some(self._rip, fence.MAX_LENGTH), self._state):
            if access.writes:
                for start, size in self._writable(access.address, access.size):
                    recorder.note_store(start, size)

    def _writable(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that can be written."""
        while size > 0:
            region = self.memory.find(address)
            part = min(size, region.end - address) if region is not None else 1
            if region is not None and region.prot & Prot.WRITE:
                yield address, part
            address, size = address + part, size - part

    def _look(self, rip: int) -> _Place:
        """Finds out about an address, and keeps it where it is not the guest's to change."""
        for start, end in self._gates:
            if start <= rip < end:
                return _Place(Kind.PLAIN, gate=True)
        reason = None
        if rip in self._breakpoints:
            reason = StopReason.BREAK
        elif any(start <= rip < end for start, end in self._watched):
            reason = StopReason.WATCH
        region = self.memory.find(rip)
        if region is None or not region.prot & Prot.EXEC:
            nature = FaultKind.FETCH if region is None else FaultKind.FETCH_PROTECTED
            return _Place(Kind.PLAIN, armed=reason, objection=Fault(nature, rip, rip))
        code = self.memory.read_some(rip, fence.MAX_LENGTH)
        kind = classify(code)
        objection = None
        if rip in self._refused:
            objection = Fault(FaultKind.REFUSED, rip, None, self._refused[rip])
        elif kind is Kind.REFUSED:
            detail = fence.name(code, rip)
            detail += ": a 32-bit system call" if b"\xcd\x80" in code[:4] else ""
            objection = Fault(FaultKind.REFUSED, rip, None, detail)
        elif kind is Kind.BREAKPOINT:
            objection = Fault(FaultKind.BREAKPOINT, rip)
        place = _Place(kind, armed=reason, objection=objection)
        if not region.prot & Prot.WRITE:
            self._known[rip] = place
        return place

    def _instead(self, results: dict[str, int]) -> None:
        """Executes the instruction at RIP by writing its results."""
        from emulator.disassembly import disassemble

        size = disassemble(self.memory.read_some(self._rip, fence.MAX_LENGTH), self._rip, 1)[0].size
        self._bring()
        self._inside = False
        for name, value in results.items():
            self._state[name] = value
        self._rip = self._state["RIP"] = self._rip + size
        self._flags = self._state["RFLAGS"]
        self._done += 1

    def _draw(self) -> None:
        """Executes RDRAND or RDSEED: CF = 1, the other arithmetic flags 0 (SDM volume 2)."""
        instruction = fence.random(self.memory.read_some(self._rip, fence.MAX_LENGTH))
        self._bring()
        name = GENERAL[instruction.register]
        value = self.random.getrandbits(instruction.bits)
        if instruction.bits == 16:
            value |= self._state[name] & ~0xFFFF
        flags = self._state["RFLAGS"] & ~int(ARITHMETIC_FLAGS)
        self._instead({name: value, "RFLAGS": flags | Flags.CF})

    def _hide_trap_flag(self) -> None:
        """What PUSHF has stored has TF set, which stepping does: it is ours, not the guest's."""
        if self._flags & _TF:
            return
        self._bring()
        view, offset = self.memory.locate(self._state["RSP"], 2)
        view[offset + 1] &= ~(_TF >> 8)  # the processor's store, not Python's

    # Faults.

    def _fault(self, halt: Halt) -> Fault:
        """What an instruction has raised, by the signal that Linux makes of it."""
        rip, signo, code = self._rip, halt.signo, halt.code
        if signo == _SIGILL:
            return Fault(FaultKind.INVALID, rip)
        if signo == _SIGFPE:
            if code == _FPE_INTDIV:
                return Fault(FaultKind.DIVIDE, rip)
            return Fault(FaultKind.EXCEPTION, rip, None, f"floating-point exception, code {code}")
        if signo == _SIGBUS and code == _BUS_ADRALN:
            return Fault(FaultKind.EXCEPTION, rip, None, "alignment check")
        if signo == _SIGSEGV and code in (_SEGV_MAPERR, _SEGV_ACCERR):
            return self._page_fault(halt.address)
        if signo in (_SIGSEGV, _SIGBUS):
            return Fault(FaultKind.PRIVILEGED, rip, None, self._name())
        return Fault(FaultKind.EXCEPTION, rip, None, f"signal {signo}, code {code}")

    def _name(self) -> str:
        """The instruction at RIP, with the addresses of its operands that are in memory."""
        self._bring()
        code = self.memory.read_some(self._rip, fence.MAX_LENGTH)
        places = ", ".join(f"{each.address:#x}" for each in accesses(code, self._state))
        return fence.name(code, self._rip) + (f": at {places}" if places else "")

    def _page_fault(self, address: int) -> Fault:
        self._bring()
        rip, region = self._rip, self.memory.find(address)
        code = self.memory.read_some(rip, fence.MAX_LENGTH)
        executable = region is not None and region.prot & Prot.EXEC
        if rip <= address < rip + fence.MAX_LENGTH and not executable:
            kind = FaultKind.FETCH if region is None else FaultKind.FETCH_PROTECTED
            return Fault(kind, rip, address)
        found = [access for access in accesses(code, self._state) if access.covers(address)]
        # Where it reads and writes the processor asks for both at once.
        writes = any(access.writes for access in found)
        if region is None:
            return Fault(FaultKind.WRITE if writes else FaultKind.READ, rip, address)
        kind = FaultKind.WRITE_PROTECTED if writes else FaultKind.READ_PROTECTED
        return Fault(kind, rip, address)
