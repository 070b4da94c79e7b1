"""Why a Unicorn engine has stopped, and how to go on where that is none of the caller's business.

Faults are told with the boundary before the instruction, and with the kinds of emulator.fault.
Exceptions by number: SDM volume 3, table 6-1.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from emulator import checks, cpuid, fence
from emulator.cpu import Stop, StopReason
from emulator.disassembly import disassemble
from emulator.fault import Fault, FaultKind
from emulator.fence import Special
from emulator.hooks import (
    Field,
    Mark,
    Reason,
)
from emulator.memory import PAGE, Memory, Prot
from emulator.operation import OperationFault
from emulator.page_tables import PageTables, denying
from emulator.register_batch import NUMBERS, RegisterBatch
from emulator.registers import ARITHMETIC_FLAGS, GENERAL, Flags, Registers
from emulator.unicorn_raw import (
    CTL_TB_FLUSH,
    MEM_FETCH,
    MEM_WRITE,
    Engine,
    Error,
    Register,
    UnicornError,
)
from emulator.witness import Witness

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from emulator.code_marks import CodeMarks
    from emulator.data_breakpoints import DataBreakpoints
    from emulator.observer import StepRecorder

_NOWHERE: Final = 2**64 - 1  # no instruction is there
_PHYSICAL: Final = 2**52 - 1
_GO_ON: Final = 0  # outcomes that are no stop: run on; let one fenced instruction through;
_LET_THROUGH: Final = -1  # or any address: run on until there

# Exceptions by number (SDM volume 3, table 6-1). Page faults come another way.
DEBUG: Final = 1
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
_CHECKED: Final = (Special.ALIGNED, Special.MXCSR, Special.X87)
_STOPPED_ON: Final = (
    (Mark.GATE, StopReason.GATE),
    (Mark.BREAK, StopReason.BREAK),
    (Mark.WATCH, StopReason.WATCH),
)


class ExplainedStops:
    """The part of a processor that reads the stops of its counting engine."""

    memory: Memory
    random: random.Random
    _marks: CodeMarks
    _refused: dict[int, str]
    _raised: BaseException | None
    _witness: Witness | None
    _rip: int
    _asked: int
    _words: memoryview[int]
    engine: Engine
    _handle: int
    _live: int
    _tables: PageTables
    _batch: RegisterBatch
    _recorder: StepRecorder | None
    _extended: bytes
    _after: Callable[[], None] | None
    _data: DataBreakpoints | None

    def load(self, registers: Registers) -> None:
        """See `emulator.cpu.Cpu.load`."""
        raise NotImplementedError

    def _enter(self, engine: Engine) -> None:
        raise NotImplementedError

    def save(self, registers: Registers) -> None:
        """See `emulator.cpu.Cpu.save`."""
        raise NotImplementedError

    def _cut(self) -> None:
        raise NotImplementedError

    def flush_code(self, start: int, size: int) -> None:
        """See `emulator.cpu.Cpu.flush_code`."""
        raise NotImplementedError

    def _explain(self, error: int) -> Stop:
        """What stopped the engine; goes on where that was none of the caller's business."""
        words = self._words
        while True:
            outcome = self._outcome(error)
            if isinstance(outcome, Stop):
                return outcome
            if words[Field.LEFT] == 0:
                return Stop(StopReason.COUNT, self._asked)
            words[Field.REASON] = 0
            if outcome == _LET_THROUGH:
                error = self._let_through()
                continue
            if outcome:
                # Blocks that exist go past the limit, and those that are made end there for ever.
                self.engine.control(CTL_TB_FLUSH)
            if self._live != self._handle:
                self._enter(self.engine)
            error = self.engine.start(self._rip, outcome)
            if outcome:
                self.engine.control(CTL_TB_FLUSH)
                self._close()
                if not error and not words[Field.REASON]:
                    self._rip = self.engine.read(Register.RIP)
                    error = self.engine.start(self._rip)

    def _outcome(self, error: int) -> Stop | int:
        """The stop, or how to go on."""
        words = self._words
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        reason = words[Field.REASON]
        if reason in (Reason.COUNT, Reason.MARK, Reason.LOST):
            self._rip = words[Field.RIP]
        else:
            self._rip = self.engine.read(Register.RIP)
        if reason == Reason.COUNT:
            return _GO_ON if words[Field.LEFT] else Stop(StopReason.COUNT, self._asked)
        if reason == Reason.MARK:
            return self._marked(Mark(words[Field.MARKS] & words[Field.MASK]))
        if reason == Reason.SYSCALL:
            return Stop(StopReason.SYSCALL, self._asked - words[Field.LEFT])
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
        if tried and self._recorder is not None:
            self._recorder.drop()
        executed = self._asked - self._words[Field.LEFT] - tried
        return Stop(StopReason.FAULT, executed, Fault(kind, self._rip, address, detail))

    def _marked(self, marks: Mark) -> Stop | int:
        for mark, reason in _STOPPED_ON:
            if marks & mark:
                return Stop(reason, self._asked - self._words[Field.LEFT])
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
        if special in _CHECKED:
            registers = Registers()
            self.save(registers)
            objection = checks.objection(special, code, registers, self.memory)
            if objection is None:
                return _LET_THROUGH
            kind, why = objection
            detail = f"{fence.name(code, self._rip)}: {why}"
            return self._fault(kind, detail=detail, tried=False)
        if special is Special.CMPXCHG:
            rax = self.engine.read(Register.RAX)
            if rax >> 32:
                self._after = partial(self._keep_accumulator, rax)
            return _LET_THROUGH
        if special is Special.CPUID:
            self._after = partial(self._tell, *map(self.engine.read, (Register.RAX, Register.RCX)))
            return _LET_THROUGH
        if special is Special.COMPUTED:
            return self._compute(code)
        if special is Special.RANDOM:
            self._draw(fence.random(code))
        elif special is Special.XGETBV:
            if self.engine.read(Register.RCX) & 0xFFFF_FFFF:
                detail = f"{fence.name(code, self._rip)}: ECX is not 0"
                return self._fault(FaultKind.PRIVILEGED, detail=detail, tried=False)
            self._instead({Register.RAX: cpuid.XCR0, Register.RDX: 0}, 3)
        else:
            self._marks.forget(self._rip, 1)  # other code was written there
        return _GO_ON

    def _let_through(self) -> int:
        """Executes the fenced instruction at RIP; returns the error."""
        words = self._words
        mask, left = words[Field.MASK], words[Field.LEFT]
        words[Field.MASK], words[Field.LEFT] = mask & ~int(Mark.FENCE), 1
        error = self.engine.start(self._rip)
        after, self._after = self._after, None
        if after is not None and words[Field.REASON] == Reason.COUNT and not error:
            after()
        words[Field.MASK] = mask
        words[Field.LEFT] += left - 1
        if self._data is not None and self._data.access is not None:
            self._cut()
        return error

    def _keep_accumulator(self, rax: int) -> None:
        """CMPXCHG: where the comparison holds RAX is not written; Unicorn clears its upper half."""
        if self.engine.read(Register.RFLAGS) & Flags.ZF:
            self.engine.write(Register.RAX, rax)

    def _tell(self, leaf: int, subleaf: int) -> None:
        """CPUID: EAX, EBX, ECX and EDX."""
        numbers = (Register.RAX, Register.RBX, Register.RCX, Register.RDX)
        eax, ebx, ecx, edx = map(self.engine.read, numbers)
        low = 0xFFFF_FFFF
        told = cpuid.told(leaf & low, subleaf & low, (eax, ebx, ecx, edx))
        for number, value in zip(numbers, told, strict=True):
            self.engine.write(number, value)

    def _draw(self, instruction: fence.Random) -> None:
        """Executes RDRAND or RDSEED: CF = 1, the other arithmetic flags 0 (SDM volume 2)."""
        engine, number = self.engine, NUMBERS[GENERAL[instruction.register]]
        value = self.random.getrandbits(instruction.bits)
        if instruction.bits == 16:
            value |= engine.read(number) & ~0xFFFF
        flags = engine.read(Register.RFLAGS) & ~ARITHMETIC_FLAGS
        self._instead({number: value, Register.RFLAGS: flags | Flags.CF}, instruction.size)

    def _instead(self, results: dict[int, int], size: int) -> None:
        """Executes the instruction at RIP, of that size, by writing its results."""
        if self._recorder is not None:
            self._recorder.note(self._handle, self._rip)
        for number, value in results.items():
            self.engine.write(number, value)
        self._rip += size
        self._words[Field.LEFT] -= 1
        self._words[Field.PREVIOUS] = _NOWHERE

    def _compute(self, code: bytes) -> Stop | int:
        """Executes an instruction of emulator.computed, or refuses it."""
        from emulator import computed  # some milliseconds, and most programs have none

        registers = Registers()
        self.save(registers)
        try:
            done = computed.execute(code, registers, self.memory)
        except OperationFault as fault:
            detail = fence.name(code, self._rip) + (f": {fault.detail}" if fault.detail else "")
            return self._fault(fault.kind, address=fault.address, detail=detail, tried=False)
        if done is None:
            detail = fence.name(code, self._rip)
            return self._fault(FaultKind.REFUSED, detail=detail, tried=False)
        size, stores = done
        if self._recorder is not None:
            self._recorder.note(self._handle, self._rip)
        for address, data in stores:
            self._write(address, data)
        registers["RIP"] += size
        self.load(registers)
        if self._recorder is not None:
            self._recorder.note_extended(self._extended)
        self._words[Field.LEFT] -= 1
        self._words[Field.PREVIOUS] = _NOWHERE
        return _GO_ON

    def _write(self, address: int, data: bytes) -> None:
        """A store that Python makes in the guest's name; it may go on in the next region."""
        while data:
            region = self.memory.find(address)
            assert region is not None
            part = data[: region.end - address]
            if self._recorder is not None:
                self._recorder.note_store(address, len(part))
            self.memory.write(address, part)
            if self._data is not None:
                self._data.accessed(address, len(part), write=True)
            if region.prot & Prot.EXEC:
                self.flush_code(address, len(part))
            address, data = address + len(part), data[len(part) :]

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
        pc = self._words[Field.PREVIOUS]
        if number == DEBUG:
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
        self.engine.restore_context()
        self._batch.write(self._handle)

    def _page_fault(self) -> Stop | int:
        page, access = self._words[Field.PAGE], self._words[Field.ACCESS]
        if access == MEM_FETCH:
            return self._fetch_fault(page)
        assert self._rip == self._words[Field.PREVIOUS], "a fault away from the boundary"
        address = self._accessed(page)
        assert address is not None, "a fault that did not come again"
        if not _is_canonical(page):
            # A general protection fault, which has no address (SDM volume 3, 6.15).
            detail = f"non-canonical address {page | address % PAGE:#x}"
            return self._fault(FaultKind.PRIVILEGED, detail=detail)
        # The witness sees a physical address, of which there are 52 bits.
        assert not (address ^ page) & _PHYSICAL & -PAGE, "a fault that came again elsewhere"
        address = page | address % PAGE
        if page in self._tables.code_pages:
            return self._write_code(address)
        mapped = self.memory.find(address) is not None
        if access == MEM_WRITE or self._writes(address):
            kind = FaultKind.WRITE_PROTECTED if mapped else FaultKind.WRITE
        else:
            kind = FaultKind.READ_PROTECTED if mapped else FaultKind.READ
        return self._fault(kind, address=address)

    def _writes(self, address: int) -> bool:
        """Whether the instruction at RIP, which may not read an address, would write it, too.

        The processor asks for both at once; Unicorn reads first.
        """
        from emulator.accesses import accesses  # rare, and some milliseconds

        registers = Registers()
        self.save(registers)
        code = self._marks.code(self._rip)
        return any(a.writes and a.covers(address) for a in accesses(code, registers))

    def _accessed(self, page: int) -> int | None:
        """Which address in `page` the instruction at RIP failed to access."""
        if self._witness is None:
            regions = self.memory.regions
            self._witness = Witness((region, denying(region.prot)) for region in regions)
        self._batch.read(self._handle)
        # A store across the page's start: in plain mode Unicorn writes what lies before it.
        before = self.memory.find(page - 1)
        kept = self.memory.read(page - _WIDEST, _WIDEST) if before is not None else b""
        address = self._witness.address(self._rip, self._batch)
        if kept:  # nothing has changed, so this is not for the journal
            view, offset = self.memory.locate(page - _WIDEST, _WIDEST)
            view[offset : offset + _WIDEST] = kept
        return address

    def _fetch_fault(self, page: int) -> Stop | int:
        if self._words[Field.LEFT] == 0:
            return Stop(StopReason.COUNT, self._asked)
        region = self.memory.find(page)
        if region is not None and Prot.EXEC | Prot.WRITE in region.prot:
            assert page not in self._tables.code_pages
            self._tables.code_pages.add(page)
            self._tables.tell()
            return _GO_ON
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
            return Stop(StopReason.GATE, self._asked - self._words[Field.LEFT])
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
        self._tables.open = {page, page + PAGE} & self._tables.code_pages
        self._tables.tell()
        self._words[Field.LEFT] += 1
        if self._recorder is not None:
            self._recorder.drop()
        return self._rip + instruction.size

    def _close(self) -> None:
        tables = self._tables
        for page in tables.open:
            self.flush_code(page, PAGE)
        if tables.open:
            tables.open = set()
            tables.tell()


def _is_canonical(address: int) -> bool:
    return (address + 2**47) % 2**64 < 2**48
