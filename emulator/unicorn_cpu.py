"""A processor in user mode on Unicorn: exact counts, exact stops, exact faults.

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
import re
import struct
from ctypes import CFUNCTYPE, c_int, c_uint64, c_void_p
from typing import TYPE_CHECKING, Final

from emulator import checks, fence
from emulator.code_marks import CodeMarks
from emulator.cpu import Stop, StopReason
from emulator.disassembly import disassemble
from emulator.fault import Fault, FaultKind
from emulator.fence import Special
from emulator.hooks import (
    ARMED,
    DISARMED,
    Control,
    Field,
    Mark,
    PythonHooks,
    Reason,
    host_address,
    machine_code_hooks,
)
from emulator.memory import PAGE, Memory, Prot, Region
from emulator.register_batch import NUMBERS, RegisterBatch
from emulator.registers import ARITHMETIC_FLAGS, GENERAL, LAYOUT, USER_MXCSR, Flags, Registers
from emulator.unicorn_raw import (
    CTL_TB_FLUSH,
    CTL_TB_REMOVE_CACHE,
    CTL_TLB_FLUSH,
    CTL_TLB_TYPE,
    HOOK_CODE,
    HOOK_INSN,
    HOOK_INTR,
    HOOK_TLB_FILL,
    INS_RDTSC,
    INS_RDTSCP,
    INS_SYSCALL,
    MEM_FETCH,
    MEM_WRITE,
    TLB_VIRTUAL,
    Engine,
    Error,
    Register,
    UnicornError,
    library,
)
from emulator.user_mode import enter_user_mode
from emulator.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NOWHERE: Final = 2**64 - 1  # no instruction is there
_PHYSICAL: Final = 2**52 - 1
_FOREVER: Final = 2**63 - 1

# What a user program can have in RFLAGS. RF is dropped: its first instruction clears it.
_USER_FLAGS: Final = (
    int(ARITHMETIC_FLAGS | Flags.TF | Flags.DF | Flags.AC | Flags.ID) | 1 << 14  # NT
)
_ALWAYS_FLAGS: Final = int(Flags.IF | Flags.RESERVED)

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
_GO_ON: Final = 0  # outcomes that are no stop: run on; let one fenced instruction through;
_LET_THROUGH: Final = -1  # or any address: run on until there

# Exceptions by number (SDM volume 3, table 6-1). Page faults come another way.
_DEBUG: Final = 1
_BREAKPOINT: Final = 3
_LINUX_32: Final = 0x80
_EXCEPTIONS: Final = {
    0: (FaultKind.DIVIDE, ""),
    13: (FaultKind.PRIVILEGED, ""),
    16: (FaultKind.EXCEPTION, "x87 floating-point error"),
    17: (FaultKind.EXCEPTION, "alignment check"),
    19: (FaultKind.EXCEPTION, "SIMD floating-point exception"),
}

_WIDTHS: Final = {"byte": 1, "word": 2, "dword": 4, "qword": 8, "xword": 10, "xmmword": 16}
_WIDEST: Final = 16  # bytes that one store writes
_STOPPED_ON: Final = (
    (Mark.GATE, StopReason.GATE),
    (Mark.BREAK, StopReason.BREAK),
    (Mark.WATCH, StopReason.WATCH),
)


class UnicornCpu:
    """One processor, an `emulator.cpu.Cpu`.

    `counting` says how instructions are counted: "machine-code", or "python" where the host
    forbids that or the constructor is asked for it; the results are the same. `time_stamp` is the
    time-stamp counter that RDTSC and RDTSCP read, `processor` RDTSCP's ECX; `seed` starts what
    RDRAND and RDSEED give. Address 0 may not be mapped.
    """

    def __init__(self, memory: Memory, *, counting: str | None = None, seed: int = 0) -> None:
        self.memory = memory
        self.time_stamp: Callable[[], int] = lambda: 0
        self.processor = 0
        self._random = random.Random(seed)  # noqa: S311  # must be the same each time
        self._marks = CodeMarks(memory)
        self._refused: dict[int, str] = {}
        self._regions: list[Region] = []
        self._raised: BaseException | None = None
        self._objection: Fault | None = None  # to all that the loaded registers would do
        self._witness: Witness | None = None
        self._code_pages: set[int] = set()  # pages that the guest can write, and has executed
        self._open: set[int] = set()  # those that the next instruction may write
        self._rip = 0
        self._asked = 0
        self._control = Control()
        self._words = self._control.words
        self._engine = Engine()
        self._handle = self._engine.handle
        enter_user_mode(self._engine)
        self._kept: list[object] = []
        self.counting = self._add_hooks(counting)
        self.name = f"unicorn, {self.counting} counting"
        self._batch = RegisterBatch()
        self.load(Registers())
        self._engine.keep_context()
        self._tell_hooks()
        for region in memory.regions:
            self.attach(region)

    def _add_hooks(self, counting: str | None) -> str:
        examine = CFUNCTYPE(c_uint64, c_uint64)(self._examine)
        self._words[Field.EXAMINE] = _address(examine)
        machine = machine_code_hooks() if counting != "python" else None
        if machine is not None:
            page, addresses = machine
            self._kept += [examine, page]
        elif counting == "machine-code":
            raise UnicornError("this host does not allow hooks in machine code")
        else:
            hooks = PythonHooks(self._control, self._examine)
            addresses = hooks.addresses
            self._kept += [examine, hooks]
        engine, data = self._engine, self._control.address
        engine.control(CTL_TLB_TYPE, c_int(TLB_VIRTUAL))
        engine.hook(HOOK_TLB_FILL, addresses["TLB"], data)
        engine.hook(HOOK_CODE, addresses["CODE"], data)
        engine.hook(HOOK_INTR, addresses["INTR"], data)
        engine.hook(HOOK_INSN, addresses["SYSCALL"], data, INS_SYSCALL)
        for number, action in ((INS_RDTSC, self._on_rdtsc), (INS_RDTSCP, self._on_rdtscp)):
            callback = CFUNCTYPE(c_int, c_void_p, c_void_p)(action)
            self._kept.append(callback)
            engine.hook(HOOK_INSN, _address(callback), data, number)
        return "python" if machine is None else "machine-code"

    def attach(self, region: Region) -> None:
        """Makes a region of `memory` visible to the processor."""
        if region.start == 0:
            raise ValueError("address 0 cannot be mapped: Unicorn ends a run there")
        self._engine.map(region.start, region.view)
        self._regions.append(region)
        if region.prot & Prot.EXEC:
            self._marks.attach(region)
        self._tell_hooks()
        self._witness = None

    def _tell_hooks(self) -> None:
        """Writes the tables of what is mapped and of where the marks are."""
        rows: list[int] = []
        for page in self._code_pages:
            rows += [page, PAGE, Prot.RX | (Prot.WRITE if page in self._open else 0)]
        for region in self._regions:
            reach = _reach(region.prot)
            rows += [region.start, region.size, Prot.RW if reach & Prot.WRITE else reach]
        pages = (c_uint64 * (len(rows) + 3))(*rows)
        rows = []
        for marked in self._marks.regions:
            start = marked.region.start
            rows += [start, marked.region.size, (host_address(marked.marks) - start) % 2**64]
        ranges = (c_uint64 * (len(rows) + 3))(*rows)
        self._tables = (pages, ranges)
        self._words[Field.PAGES] = ctypes.addressof(pages)
        self._words[Field.RANGES] = ctypes.addressof(ranges)
        self._words[Field.SIZE] = 0
        self._engine.control(CTL_TLB_FLUSH)

    def load(self, registers: Registers) -> None:
        """Sets all registers. Raises ValueError for flags that no user program can have."""
        block = self._batch.block
        block[:] = registers.block
        self._rip = _U64.unpack_from(block, _RIP_OFFSET)[0]
        flags = _U64.unpack_from(block, _FLAGS_OFFSET)[0]
        if flags & ~_USER_FLAGS != _ALWAYS_FLAGS:
            if flags & ~(_USER_FLAGS | Flags.RF) != _ALWAYS_FLAGS:
                raise ValueError(f"RFLAGS {flags:#x} is not a user program's")
            _U64.pack_into(block, _FLAGS_OFFSET, flags & ~Flags.RF)
        self._objection = None
        if block[_MXCSR] != _USER_MXCSR:
            why = checks.mxcsr_objection(registers["MXCSR"])
            if why is not None:
                self._objection = Fault(FaultKind.REFUSED, self._rip, None, why)
        self._batch.write(self._handle)

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""
        self._batch.read(self._handle)
        _U64.pack_into(self._batch.block, _RIP_OFFSET, self._rip)
        registers.block[:] = self._batch.block

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

    def refuse(self, address: int, detail: str) -> None:
        """Makes the instruction at `address` a REFUSED fault, armed or not."""
        self._refused[address] = detail
        self._marks.add(address, address + 1, Mark.REFUSED)

    def flush_code(self, start: int, size: int) -> None:
        """Forgets translations of code that Python has changed."""
        self._marks.forget(start, size)
        end = c_uint64(start + size)
        self._engine.control(CTL_TB_REMOVE_CACHE, c_uint64(start), end)

    def load_code(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """Examines instructions, given with their addresses, before they are reached."""
        for address, _ in instructions:
            self._marks.examine(address)

    def executed(self) -> int:
        """Inside a callback: instructions that the current run has completed before this one."""
        return self._asked - self._words[_LEFT] - 1

    def run(self, count: int, *, armed: bool = True) -> Stop:
        """Executes at most `count` instructions: see `emulator.cpu.Cpu.run`.

        A run that ends for its count says so, whatever is special about the next instruction.
        """
        if count <= 0:
            return Stop(StopReason.COUNT, 0)
        if self._objection is not None:
            return Stop(StopReason.FAULT, 0, self._objection)
        words = self._words
        words[_LEFT] = self._asked = min(count, _FOREVER)
        words[_MASK] = ARMED if armed else DISARMED
        words[_REASON] = 0
        words[_PREVIOUS] = _NOWHERE
        error = library.uc_emu_start(self._handle, self._rip, 0, 0, 0)
        if words[_REASON] == _COUNT and not error:
            self._rip = words[_RIP]
            return _ONE if count == 1 else Stop(StopReason.COUNT, count)
        return self._explain(error)

    def _explain(self, error: int) -> Stop:
        """What stopped the engine; goes on where that was none of the caller's business."""
        words = self._words
        while True:
            outcome = self._outcome(error)
            if isinstance(outcome, Stop):
                return outcome
            if words[_LEFT] == 0:
                return Stop(StopReason.COUNT, self._asked)
            words[_REASON] = 0
            if outcome == _LET_THROUGH:
                error = self._let_through()
                continue
            if outcome:
                # Blocks that exist go past the limit, and those that are made end there for ever.
                self._engine.control(CTL_TB_FLUSH)
            error = self._engine.start(self._rip, outcome)
            if outcome:
                self._engine.control(CTL_TB_FLUSH)
                self._close()
                if not error and not words[_REASON]:
                    self._rip = self._engine.read(Register.RIP)
                    error = self._engine.start(self._rip)

    def _outcome(self, error: int) -> Stop | int:
        """The stop, or how to go on."""
        words = self._words
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        reason = words[_REASON]
        if reason in (Reason.COUNT, Reason.MARK, Reason.LOST):
            self._rip = words[_RIP]
        else:
            self._rip = self._engine.read(Register.RIP)
        if reason == Reason.COUNT:
            return _GO_ON if words[_LEFT] else Stop(StopReason.COUNT, self._asked)
        if reason == Reason.MARK:
            return self._marked(Mark(words[Field.MARKS] & words[_MASK]))
        if reason == Reason.SYSCALL:
            return Stop(StopReason.SYSCALL, self._asked - words[_LEFT])
        if reason == Reason.INTERRUPT:
            return self._exception(words[Field.NUMBER])
        if error == Error.INSN_INVALID:
            return self._invalid()
        if error == Error.EXCEPTION:
            return self._page_fault()
        raise UnicornError(f"Unicorn ended a run at {self._rip:#x}, error {error}, reason {reason}")

    def _fault(
        self, kind: FaultKind, *, address: int | None = None, detail: str = "", tried: bool = True
    ) -> Stop:
        """A fault of the instruction at RIP; `tried` if it was let through and so counted."""
        executed = self._asked - self._words[_LEFT] - tried
        return Stop(StopReason.FAULT, executed, Fault(kind, self._rip, address, detail))

    def _marked(self, marks: Mark) -> Stop | int:
        for mark, reason in _STOPPED_ON:
            if marks & mark:
                return Stop(reason, self._asked - self._words[_LEFT])
        if marks & Mark.REFUSED:
            detail = self._refused[self._rip]
            return self._fault(FaultKind.REFUSED, detail=detail, tried=False)
        code = self._marks.code(self._rip)
        special = fence.classify(code)
        if special is Special.FOREIGN:
            name = fence.name(code, self._rip)
            return self._fault(FaultKind.REFUSED, detail=name, tried=False)
        if special is Special.PORT:
            name = fence.name(code, self._rip)
            return self._fault(FaultKind.PRIVILEGED, detail=name, tried=False)
        if special in (Special.ALIGNED, Special.MXCSR, Special.X87):
            registers = Registers()
            self.save(registers)
            objection = checks.objection(special, code, registers, self.memory)
            if objection is None:
                return _LET_THROUGH
            kind, why = objection
            detail = f"{fence.name(code, self._rip)}: {why}"
            return self._fault(kind, detail=detail, tried=False)
        if special is Special.RANDOM:
            self._draw(fence.random(code))
        else:
            self._marks.forget(self._rip, 1)  # other code was written there
        return _GO_ON

    def _let_through(self) -> int:
        """Executes the fenced instruction at RIP; returns the error."""
        words = self._words
        mask, left = words[_MASK], words[_LEFT]
        words[_MASK], words[_LEFT] = mask & ~int(Mark.FENCE), 1
        error = self._engine.start(self._rip)
        words[_MASK] = mask
        words[_LEFT] += left - 1
        return error

    def _draw(self, instruction: fence.Random) -> None:
        """Executes RDRAND or RDSEED: CF = 1, the other arithmetic flags 0 (SDM volume 2)."""
        engine, number = self._engine, NUMBERS[GENERAL[instruction.register]]
        value = self._random.getrandbits(instruction.bits)
        if instruction.bits == 16:
            value |= engine.read(number) & ~0xFFFF
        engine.write(number, value)
        flags = engine.read(Register.RFLAGS) & ~ARITHMETIC_FLAGS
        engine.write(Register.RFLAGS, flags | Flags.CF)
        self._rip += instruction.size
        self._words[_LEFT] -= 1
        self._words[_PREVIOUS] = _NOWHERE

    def _invalid(self) -> Stop:
        code = self._marks.code(self._rip)
        if fence.is_undefined(code):
            return self._fault(FaultKind.INVALID)
        decoded = disassemble(code, self._rip, 1)
        if decoded:
            return self._fault(FaultKind.REFUSED, detail=decoded[0].text)
        return self._fault(FaultKind.INVALID, detail=fence.name(code, self._rip))

    def _exception(self, number: int) -> Stop:
        self._forget_exception()
        pc = self._words[_PREVIOUS]
        if number == _DEBUG:
            # RFLAGS.TF: a trap, the instruction before RIP was executed.
            detail = "single-step trap"
            return self._fault(FaultKind.EXCEPTION, detail=detail, tried=False)
        if self._rip == pc:
            kind, detail = _EXCEPTIONS.get(number, (FaultKind.EXCEPTION, f"exception {number}"))
            return self._fault(kind, detail=detail)
        # A software interrupt, which Unicorn reports from behind it.
        self._rip = pc
        if number == _BREAKPOINT:
            return self._fault(FaultKind.BREAKPOINT)
        detail = f"int {number:#x}"
        if number == _LINUX_32:
            return self._fault(FaultKind.REFUSED, detail=f"{detail}: a 32-bit system call")
        return self._fault(FaultKind.PRIVILEGED, detail=detail)

    def _forget_exception(self) -> None:
        """Unicorn never ends an exception: the next one would be a double fault to it."""
        self._batch.read(self._handle)
        self._engine.restore_context()
        self._batch.write(self._handle)

    def _page_fault(self) -> Stop | int:
        page, access = self._words[Field.PAGE], self._words[Field.ACCESS]
        if access == MEM_FETCH:
            return self._fetch_fault(page)
        assert self._rip == self._words[_PREVIOUS], "a fault away from the boundary"
        address = self._accessed(page)
        assert address is not None, "a fault that did not come again"
        if not _is_canonical(page):
            # A general protection fault, which has no address (SDM volume 3, 6.15).
            detail = f"non-canonical address {page | address % PAGE:#x}"
            return self._fault(FaultKind.PRIVILEGED, detail=detail)
        # The witness sees a physical address, of which there are 52 bits.
        assert not (address ^ page) & _PHYSICAL & -PAGE, "a fault that came again elsewhere"
        address = page | address % PAGE
        if page in self._code_pages:
            return self._write_code(address)
        mapped = self.memory.find(address) is not None
        if access == MEM_WRITE:
            kind = FaultKind.WRITE_PROTECTED if mapped else FaultKind.WRITE
        else:
            kind = FaultKind.READ_PROTECTED if mapped else FaultKind.READ
        return self._fault(kind, address=address)

    def _accessed(self, page: int) -> int | None:
        """Which address in `page` the instruction at RIP failed to access."""
        if self._witness is None:
            self._witness = Witness((region, _denying(region.prot)) for region in self._regions)
        self._batch.read(self._handle)
        # A store across the page's start: in plain mode Unicorn writes what lies before it.
        before = self.memory.find(page - 1)
        kept = self.memory.read(page - _WIDEST, _WIDEST) if before is not None else b""
        address = self._witness.address(self._rip, self._batch)
        if kept:
            self.memory.write(page - _WIDEST, kept)
        return address

    def _fetch_fault(self, page: int) -> Stop | int:
        if self._words[_LEFT] == 0:
            return Stop(StopReason.COUNT, self._asked)
        region = self.memory.find(page)
        if region is not None and Prot.EXEC | Prot.WRITE in region.prot:
            assert page not in self._code_pages
            self._code_pages.add(page)
            self._tell_hooks()
            return 0
        address = self._rip
        if address & -PAGE != page:
            # Unicorn translates ahead, here into a page that it cannot have. Until the jump that
            # may come before that page, one instruction is translated at a time.
            code = self._marks.code(address)[: page - address]
            decoded = disassemble(code, address, 1)
            if decoded:
                return address + decoded[0].size
            address = page
        elif self._marks.has(address, Mark.GATE):
            return Stop(StopReason.GATE, self._asked - self._words[_LEFT])
        mapped = self.memory.find(address) is not None
        kind = FaultKind.FETCH_PROTECTED if mapped else FaultKind.FETCH
        return self._fault(kind, address=address, tried=False)

    def _write_code(self, address: int) -> Stop | int:
        """Lets one instruction write to a page that has been executed.

        Unicorn would notice the write, too, but where the written code is in the block that writes
        it starts the instruction anew, and it would count twice.
        """
        decoded = disassemble(self._marks.code(self._rip), self._rip, 1)
        if not decoded:
            return self._fault(FaultKind.REFUSED, detail="self-modifying code")
        instruction = decoded[0]
        operand = re.search(r"(\w+) ptr", instruction.text)
        width = _WIDTHS.get(operand[1], 1024) if operand else 8  # FXSAVE; PUSH and CALL
        if self._rip - width < address < self._rip + instruction.size:
            return self._fault(FaultKind.REFUSED, detail=f"{instruction.text} writes over itself")
        page = address & -PAGE
        self._open = {page, page + PAGE} & self._code_pages
        self._tell_hooks()
        self._words[_LEFT] += 1
        return self._rip + instruction.size

    def _close(self) -> None:
        for page in self._open:
            self._marks.forget(page, PAGE)
        if self._open:
            self._open = set()
            self._tell_hooks()

    # Callbacks of the engine. What they raise is kept and raised when the run has ended.

    def _examine(self, address: int) -> int:
        try:
            return self._marks.examine(address)
        except BaseException as error:  # noqa: BLE001  # ctypes would print and lose it
            return self._keep(error)

    def _on_rdtsc(self, _engine: int, _data: int) -> int:
        try:
            value = self.time_stamp() & 0xFFFF_FFFF_FFFF_FFFF
        except BaseException as error:  # noqa: BLE001  # ctypes would print and lose it
            return self._keep(error)
        self._engine.write(Register.RAX, value & 0xFFFF_FFFF)
        self._engine.write(Register.RDX, value >> 32)
        return 1

    def _on_rdtscp(self, engine: int, data: int) -> int:
        self._engine.write(Register.RCX, self.processor & 0xFFFF_FFFF)
        return self._on_rdtsc(engine, data)

    def _keep(self, error: BaseException) -> int:
        self._raised = error
        library.uc_emu_stop(self._handle)
        return 1


def _address(callback: object) -> int:
    return ctypes.cast(callback, c_void_p).value or 0  # type: ignore[arg-type]


def _is_canonical(address: int) -> bool:
    return (address + 2**47) % 2**64 < 2**48


def _denying(protection: Prot) -> int:
    """What the witness lets through: no write that can be one to code."""
    reach = _reach(protection)
    return reach & ~Prot.WRITE if reach & Prot.EXEC else reach


def _reach(protection: Prot) -> int:
    """What a page allows: on x86 whatever can be written or executed can be read."""
    return int(protection | Prot.READ) if protection else 0
