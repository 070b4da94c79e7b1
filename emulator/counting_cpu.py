"""A processor in user mode on Unicorn that looks at every instruction: exact counts, stops, faults.

Unicorn runs in its virtual TLB mode: there a fault unwinds to the boundary before the instruction
(in its plain mode a store that faults lets its instruction finish), and memory that is not
executable is written without a call. What emulator.hooks describes keeps the count. The engine
really is at CPL 3, with the selectors that Linux gives a 64-bit program, so POPFQ leaves IF and
IOPL alone and privileged instructions fault (SDM volume 3, 5.9).

Rejected: `count=` of uc_emu_start, which miscounts on blocks that another run translated and counts
a REP instruction once too often; protecting pages in Unicorn's own memory map, which loses the
boundary of the fault.
"""

from __future__ import annotations

import ctypes
import random
import struct
from ctypes import CFUNCTYPE, c_int, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Final

from emulator import checks
from emulator.code_marks import CodeMarks
from emulator.cpu import Stop, StopReason
from emulator.fault import Fault, FaultKind
from emulator.hooks import (
    ARMED,
    CODES,
    DISARMED,
    Control,
    Field,
    Mark,
    PythonHooks,
    Reason,
    machine_code_hooks,
)
from emulator.memory import Memory, Prot
from emulator.page_tables import PageTables
from emulator.register_batch import RegisterBatch
from emulator.registers import LAYOUT, USER_MXCSR, USER_RFLAGS, Registers, loadable_flags
from emulator.unicorn_raw import (
    CTL_TB_REMOVE_CACHE,
    CTL_TLB_TYPE,
    HOOK_CODE,
    HOOK_INSN,
    HOOK_INTR,
    HOOK_TLB_FILL,
    INS_RDTSC,
    INS_RDTSCP,
    INS_SYSCALL,
    TLB_VIRTUAL,
    Engine,
    Register,
    UnicornError,
    library,
)
from emulator.unicorn_stops import ExplainedStops
from emulator.user_mode import enter_user_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emulator.cpu import DataBreakpoint
    from emulator.data_breakpoints import DataBreakpoints
    from emulator.memory import Region
    from emulator.observer import StepRecorder
    from emulator.witness import Witness

_NOWHERE: Final = 2**64 - 1  # no instruction is there
_FOREVER: Final = 2**63 - 1

_RIP_OFFSET: Final = LAYOUT["RIP"][0]
_FLAGS_OFFSET: Final = LAYOUT["RFLAGS"][0]
_MXCSR: Final = slice(LAYOUT["MXCSR"][0], LAYOUT["MXCSR"][0] + 2)
_USER_MXCSR: Final = USER_MXCSR.to_bytes(2, "little")
_U64: Final = struct.Struct("<Q")

_LEFT: Final = int(Field.LEFT)
_RIP: Final = int(Field.RIP)
_REASON: Final = int(Field.REASON)
_MASK: Final = int(Field.MASK)
_PREVIOUS: Final = int(Field.PREVIOUS)
_COUNT: Final = int(Reason.COUNT)
_ONE: Final = Stop(StopReason.COUNT, 1)


class CountingCpu(ExplainedStops):
    """One processor, an `emulator.cpu.Cpu`.

    Instructions are counted by hooks in machine code, or in Python where the host forbids that or
    the constructor is asked for it: `counting` says which. `time_stamp` is the time-stamp counter
    that RDTSC and RDTSCP read, `processor` RDTSCP's ECX; `seed` starts what RDRAND and RDSEED give.
    Address 0 may not be mapped.
    """

    def __init__(self, memory: Memory, *, counting: str | None = None, seed: int = 0) -> None:
        self.memory = memory
        self.time_stamp: Callable[[], int] = lambda: 0
        self.processor = 0
        self.random = random.Random(seed)  # noqa: S311  # must be the same each time
        self._marks = CodeMarks(memory)
        self._refused: dict[int, str] = {}
        self._raised: BaseException | None = None
        self._objection: Fault | None = None  # to all that the loaded registers would do
        self._witness: Witness | None = None
        self._rip = 0
        self._extended = b""  # the state of emulator.extended
        self._after: Callable[[], None] | None = None  # corrects what is let through
        self._asked = 0  # instructions that the current run will have completed when LEFT is 0
        self._live = 0  # the engine that holds the registers, or 0: they are in the batch
        # Runs of so many instructions are left to _run_otherwise.
        self._unwatched = self._blocks_from = _FOREVER + 1
        self._recorder: StepRecorder | None = None
        self._data: DataBreakpoints | None = None
        self._calls: list[tuple[int, int, int]] = []  # arguments of call_before
        self.control = Control()
        self._words = self.control.words
        self.engine = Engine()
        self._handle = self.engine.handle
        enter_user_mode(self.engine)
        self._kept: list[object] = []
        self._addresses: dict[str, int] = {}  # of the hooks
        self._tables = PageTables(self.control, self._marks, memory)
        self.counting = self._add_hooks(counting)
        self.name = f"unicorn, {self.counting} counting"
        self._batch = RegisterBatch()
        self.load(Registers())
        self._enter(self.engine)
        self.engine.keep_context()
        self._tables.add_engine(self.engine)
        self._tables.tell()
        for region in memory.regions:
            self.attach(region)

    def _add_hooks(self, counting: str | None) -> str:
        examine = CFUNCTYPE(c_uint64, c_uint64, c_uint32)(self._examine)
        self._words[Field.EXAMINE] = _address(examine)
        machine = machine_code_hooks(CODES) if counting != "python" else None
        if machine is not None:
            page, self._addresses = machine
            self._kept += [examine, page]
        elif counting in (None, "python"):
            hooks = PythonHooks(self.control, self._examine)
            self._addresses = hooks.addresses
            self._kept += [examine, hooks]
        else:
            raise UnicornError("this host does not allow hooks in machine code")
        engine, data = self.engine, self.control.address
        self._hook(engine)
        engine.hook(HOOK_CODE, self._addresses["CODE"], data)
        for number, action in ((INS_RDTSC, self._on_rdtsc), (INS_RDTSCP, self._on_rdtscp)):
            callback = CFUNCTYPE(c_int, c_void_p, c_void_p)(action)
            self._kept.append(callback)
            engine.hook(HOOK_INSN, _address(callback), data, number)
        return "python" if machine is None else "machine-code"

    def _hook(self, engine: Engine) -> None:
        """Adds the hooks that every engine needs."""
        data = self.control.address
        engine.control(CTL_TLB_TYPE, c_int(TLB_VIRTUAL))
        engine.hook(HOOK_TLB_FILL, self._addresses["TLB"], data)
        engine.hook(HOOK_INTR, self._addresses["INTR"], data)
        engine.hook(HOOK_INSN, self._addresses["SYSCALL"], data, INS_SYSCALL)

    def attach(self, region: Region) -> None:
        """Makes a region of `memory` visible to the processor."""
        if region.start == 0:
            raise ValueError("address 0 cannot be mapped: Unicorn ends a run there")
        if region.prot & Prot.EXEC:
            self._marks.attach(region)
        self._tables.attach(region)
        self._witness = None

    def remap(self) -> None:
        """Takes notice that regions of `memory` were unmapped or have another protection."""
        for region in self.memory.regions:
            if region.prot & Prot.EXEC and self._marks.find(region.start) is None:
                self._marks.attach(region)
        self._tables.tell()
        self._witness = None

    def load(self, registers: Registers) -> None:
        """Sets all registers. Raises ValueError for flags that no user program can have."""
        block = self._batch.block
        block[:] = registers.block
        self._extended = registers.extended
        self._rip = _U64.unpack_from(block, _RIP_OFFSET)[0]
        flags = _U64.unpack_from(block, _FLAGS_OFFSET)[0]
        if flags != USER_RFLAGS:
            _U64.pack_into(block, _FLAGS_OFFSET, loadable_flags(flags))
        self._objection = None
        if block[_MXCSR] != _USER_MXCSR:
            why = checks.mxcsr_objection(registers["MXCSR"])
            if why is not None:
                self._objection = Fault(FaultKind.REFUSED, self._rip, None, why)
        self._live = 0

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""
        if self._live:
            self._batch.read(self._live)
        _U64.pack_into(self._batch.block, _RIP_OFFSET, self._rip)
        registers.block[:] = self._batch.block
        registers.extended = self._extended

    def _enter(self, engine: Engine) -> None:
        """Brings the registers into an engine, from the one where they are."""
        if self._live:
            self._batch.read(self._live)
        self._live = engine.handle
        self._batch.write(self._live)

    def rip(self) -> int:
        """The current RIP, without saving the rest."""
        return self._rip

    def add_gates(self, start: int, end: int) -> None:
        """Declares `[start, end)` to be gates; it need not be mapped."""
        self._marks.add(start, end, Mark.GATE)

    def add_watch(self, start: int, end: int) -> None:
        """Declares `[start, end)` to be watched."""
        self._marks.add(start, end, Mark.WATCH)

    def add_breakpoint(self, address: int) -> None:
        """Stops armed runs before the instruction at `address`."""
        if not self._marks.has(address, Mark.BREAK):
            self._marks.add(address, address + 1, Mark.BREAK)

    def remove_breakpoint(self, address: int) -> None:
        """Takes a breakpoint back."""
        self._marks.remove(address, Mark.BREAK)

    def watch_data(self, breakpoints: tuple[DataBreakpoint, ...]) -> None:
        """Has exactly these data breakpoints from now on; meanwhile instructions run singly."""
        if self._data is not None:
            self._data.close()
        self._data = None
        if breakpoints:
            from emulator.data_breakpoints import DataBreakpoints

            self._data = DataBreakpoints(self.engine, breakpoints, self._cut)
        self._choose()

    def refuse(self, address: int, detail: str) -> None:
        """Makes the instruction at `address` a REFUSED fault, armed or not."""
        self._refused[address] = detail
        self._marks.add(address, address + 1, Mark.REFUSED)

    def call_before(self, address: int, function: int, data: int) -> None:
        """Calls machine code before each execution of the instruction at `address`.

        `function` and `data` are host addresses, the arguments those of a CODE hook; registers must
        be left alone. The code there must not have been executed yet.
        """
        self._calls.append((address, function, data))
        for engine in self._tables.engines:
            engine.hook(HOOK_CODE, function, data, at=address)

    def flush_code(self, start: int, size: int) -> None:
        """Forgets translations of code that Python has changed."""
        self._marks.forget(start, size)
        for engine in self._tables.engines:
            engine.control(CTL_TB_REMOVE_CACHE, c_uint64(start), c_uint64(start + size))

    def load_code(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """Examines instructions, given with their addresses, before they are reached."""
        for address, _ in instructions:
            self._marks.examine(address, 0)

    def executed(self) -> int:
        """Inside a callback: instructions that the current run has completed before this one."""
        return self._asked - self._words[_LEFT] - 1

    def run(self, count: int, *, armed: bool = True) -> Stop:
        """Executes at most `count` instructions: see `emulator.cpu.Cpu.run`.

        A run that ends for its count says so, whatever is special about the next instruction.
        """
        if count <= 0:
            return Stop(StopReason.COUNT, 0)
        if self._live != self._handle:
            if self._objection is not None:
                return Stop(StopReason.FAULT, 0, self._objection)
            if count < self._blocks_from:
                self._enter(self.engine)
        if count >= self._blocks_from:
            return self._run_otherwise(min(count, _FOREVER), armed)
        words = self._words
        words[_LEFT] = self._asked = count
        words[_MASK] = ARMED if armed else DISARMED
        words[_REASON] = 0
        words[_PREVIOUS] = _NOWHERE
        error = library.uc_emu_start(self._handle, self._rip, 0, 0, 0)
        if words[_REASON] == _COUNT and not error and self._raised is None:
            self._rip = words[_RIP]
            return _ONE if count == 1 else Stop(StopReason.COUNT, count)
        return self._explain(error)

    def record(self, recorder: StepRecorder | None) -> None:
        """Has everything that is executed recorded, or nothing any more; a recorder calls this."""
        if recorder is not None and self._recorder is not None:
            raise RuntimeError("this processor is being recorded already")
        self._recorder = recorder
        self._choose()

    def _choose(self) -> None:
        """Whether all runs are left to _run_otherwise."""
        watching = self._recorder is not None or self._data is not None
        self._blocks_from = 0 if watching else self._unwatched

    def _run_otherwise(self, count: int, armed: bool) -> Stop:
        """A run that watches data, or is recorded, in as many pieces as the recorder needs."""
        self._words[_MASK] = ARMED if armed else DISARMED
        recorder = self._recorder
        if recorder is None:
            return self._run_singly(0, count) or Stop(StopReason.COUNT, count)
        recorder.note_extended(self._extended)
        done = 0
        while True:
            if not recorder.room:
                recorder.collect()
            stop = self._run_singly(done, min(count - done, recorder.room))
            if stop is not None:
                return stop
            done = self._asked
            if done == count:
                return Stop(StopReason.COUNT, count)

    def _run_singly(self, done: int, count: int) -> Stop | None:
        """Executes up to `count` instructions after `done` others; None if it did."""
        words = self._words
        words[_LEFT] = count
        words[_REASON] = 0
        words[_PREVIOUS] = _NOWHERE
        self._asked = done + count
        if self._live != self._handle:
            self._enter(self.engine)
        error = self.engine.start(self._rip)
        if words[_REASON] == _COUNT and not error and self._raised is None:
            self._rip = words[_RIP]
            return None if self._data is None else self._data.stop(None, self._asked)
        stop = self._explain(error)
        if self._data is not None:
            return self._data.stop(stop, self._asked)
        return None if stop.reason is StopReason.COUNT else stop

    def _cut(self) -> None:
        """In a run: the instruction that is being executed is its last one."""
        self._asked -= self._words[_LEFT]
        self._words[_LEFT] = 0

    # Callbacks of the engine. What they raise is kept and raised when the run has ended.

    def _examine(self, address: int, size: int) -> int:
        try:
            return self._marks.examine(address, size)
        except BaseException as error:  # noqa: BLE001  # ctypes would print and lose it
            return self._keep(error)

    def _on_rdtsc(self, _engine: int, _data: int) -> int:
        try:
            value = self.time_stamp() & 0xFFFF_FFFF_FFFF_FFFF
        except BaseException as error:  # noqa: BLE001  # ctypes would print and lose it
            return self._keep(error)
        self.engine.write(Register.RAX, value & 0xFFFF_FFFF)
        self.engine.write(Register.RDX, value >> 32)
        return 1

    def _on_rdtscp(self, engine: int, data: int) -> int:
        self.engine.write(Register.RCX, self.processor & 0xFFFF_FFFF)
        return self._on_rdtsc(engine, data)

    def _keep(self, error: BaseException) -> int:
        self._raised = error
        library.uc_emu_stop(self._handle)
        return 1


def _address(callback: object) -> int:
    return ctypes.cast(callback, c_void_p).value or 0  # type: ignore[arg-type]
