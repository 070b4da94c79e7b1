"""Where every byte of a trampoline's state comes from: its instructions executed on symbols.

A state maps registers and memory to bytes, and a byte is what it was made of: byte i of the
register RBX at entry, of what asyncPreempt2 left in R9, of the sum of RSP at entry and -24, of what
an instruction computed from such. Nothing is assumed of the start: what holds for the symbols holds
for every value of registers, flags and memory. Instructions: Intel's SDM, volume 2.

What moves bytes is modelled exactly: MOV, MOVUPS and their kin, PUSH, POP, PUSHF, POPF, XCHG, LEA,
ADD and SUB of constants. What anything else writes (iced-x86 tells what) is a function of the
instruction and of all that it reads. What cannot be modelled so is an `UnknownError`.

Followed are the general registers, RFLAGS, XMM0 to XMM15 and MXCSR. What else AVX has is not.

Memory is what pointers of different origin point to: the goroutine's stack, g, m, p, the saved
vectors. They are distinct objects, and an access must lie inside of its object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from asm.rewrite import iced
from pushcall.trampoline.symbols import (
    GENERAL,
    WIDTHS,
    XMM,
    Byte,
    Bytes,
    Sum,
    UnknownError,
    bytes_of,
    constant,
    sum_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence


@dataclass
class State:
    """Registers and the memory that was written, as bytes; what was not is `unwritten`."""

    registers: dict[str, Bytes]
    memory: dict[Sum, Byte] = field(default_factory=dict)
    written: set[Sum] = field(default_factory=set)  # ever, by the code itself

    def copy(self) -> State:
        """An independent copy."""
        return State(dict(self.registers), dict(self.memory), set(self.written))

    def pointer(self, register: str) -> Sum:
        """A general register as a sum."""
        return sum_of(self.registers[register])


def entry() -> State:
    """Nothing is known of any register."""
    registers = {
        name: bytes_of(Sum(name, 0))
        if width == 8 and name != "RFLAGS"
        else tuple(Byte(name, n) for n in range(width))
        for name, width in WIDTHS.items()
    }
    return State(registers)


class Memory:
    """What a program may touch, and what lies there before it writes; to be overridden."""

    def unwritten(self, at: Sum) -> Byte:
        """What lies at an address that was never written. UnknownError if nothing may be read."""
        raise NotImplementedError

    def check_store(self, at: Sum) -> None:
        """UnknownError if the byte must not be written."""
        raise NotImplementedError

    def address(self, insn: Any) -> Sum | None:  # noqa: ARG002  # for those who know more
        """Where the instruction's memory operand lies; None: where the symbols say."""
        return None


class Machine:
    """Executes instructions, one after the other, on a state."""

    def __init__(self, state: State, memory: Memory) -> None:
        self.state = state
        self.memory = memory
        self.loaded: list[tuple[Sum, Byte]] = []  # what the latest instruction read, and where
        self.stored: list[Sum] = []  # where it wrote

    # Memory and registers.

    def load(self, at: Sum, size: int) -> Bytes:
        """Bytes of memory."""
        out = []
        for n in range(size):
            place = Sum(at.origin, (at.distance + n) % 2**64)
            known = self.state.memory.get(place)
            byte = self.memory.unwritten(place) if known is None else known
            self.loaded.append((place, byte))
            out.append(byte)
        return tuple(out)

    def store(self, at: Sum, data: Bytes) -> None:
        """Writes bytes of memory."""
        for n, byte in enumerate(data):
            place = Sum(at.origin, (at.distance + n) % 2**64)
            self.memory.check_store(place)
            self.state.memory[place] = byte
            self.state.written.add(place)
            self.stored.append(place)

    def read(self, register: int) -> Bytes:
        """A register, or a part of one."""
        name, offset, size = _part(register)
        return self.state.registers[name][offset : offset + size]

    def write(self, register: int, data: Bytes) -> None:
        """Sets a register or a part; 32 bits clear the upper half (SDM volume 1, 3.4.1.1)."""
        name, offset, size = _part(register)
        whole = self.state.registers[name]
        if name in GENERAL and size == 4:
            data, size = data + constant(0, 4), 8
        self.state.registers[name] = whole[:offset] + data + whole[offset + size :]

    def _operand_address(self, insn: Any) -> Sum:
        known = self.memory.address(insn)
        if known is not None:
            return known
        names = iced().Register
        if insn.memory_index != names.NONE or insn.has_lock_prefix:
            raise UnknownError(f"{insn}: an address with an index, or a locked access")
        if insn.is_ip_rel_memory_operand:
            found = Sum("RIP", insn.ip_rel_memory_address)
        elif insn.memory_segment in (names.FS, names.GS):
            if insn.memory_base != names.NONE:
                raise UnknownError(f"{insn}: a register and a segment in one address")
            segment = "FS_BASE" if insn.memory_segment == names.FS else "GS_BASE"
            found = Sum(segment, insn.memory_displacement)
        elif insn.memory_base == names.NONE:
            found = Sum("RIP", insn.memory_displacement)
        else:
            base = sum_of(self.read(insn.memory_base))
            found = Sum(base.origin, (base.distance + insn.memory_displacement) % 2**64)
        return found

    def operand(self, insn: Any, n: int) -> Bytes:
        """The bytes of an operand."""
        kinds = iced().OpKind
        kind = insn.op_kind(n)
        if kind == kinds.REGISTER:
            return self.read(insn.op_register(n))
        if kind == kinds.MEMORY:
            return self.load(self._operand_address(insn), _memory_size(insn))
        return constant(insn.immediate(n), 8)

    def set_operand(self, insn: Any, n: int, data: Bytes) -> None:
        """Writes an operand."""
        if insn.op_kind(n) == iced().OpKind.REGISTER:
            self.write(insn.op_register(n), data)
        else:
            self.store(self._operand_address(insn), data)

    # Instructions.

    def execute(self, insn: Any) -> None:
        """One instruction that does not branch."""
        self.loaded, self.stored = [], []
        rule = _rules().get(insn.mnemonic)
        if rule is None or not rule(self, insn):
            self._other(insn)

    def push(self, data: Bytes) -> None:
        """PUSH of these bytes."""
        rsp = self.state.pointer("RSP")
        rsp = Sum(rsp.origin, (rsp.distance - len(data)) % 2**64)
        self.state.registers["RSP"] = bytes_of(rsp)
        self.store(rsp, data)

    def pop(self, size: int) -> Bytes:
        """POP of so many bytes."""
        rsp = self.state.pointer("RSP")
        data = self.load(rsp, size)
        rsp = Sum(rsp.origin, (rsp.distance + size) % 2**64)
        self.state.registers["RSP"] = bytes_of(rsp)
        return data

    def _other(self, insn: Any) -> None:
        """Everything written is a function of the instruction and of everything read."""
        module = iced()
        name = str(insn.op_code().instruction_string)
        if insn.is_privileged or insn.is_string_instruction or name.startswith(_UNMODELLED):
            raise UnknownError(f"{insn}: not modelled")
        access = module.OpAccess
        reads = (access.READ, access.COND_READ, access.READ_WRITE, access.READ_COND_WRITE)
        writes = (access.WRITE, access.COND_WRITE, access.READ_WRITE, access.READ_COND_WRITE)
        conditional = (access.COND_WRITE, access.READ_COND_WRITE)
        info = module.InstructionInfoFactory().info(insn)
        inputs: list[Hashable] = [
            self.state.registers["MXCSR"],
            insn.code,
            *(insn.immediate(n) for n in _immediates(insn)),
        ]
        for used in info.used_registers():
            if used.register in (module.Register.RSP, module.Register.RBP) or _known(used.register):
                if used.access in reads or used.access in conditional:
                    inputs.append(self.read(used.register))
            elif used.access != access.NONE and not _segment(used.register):
                raise UnknownError(f"{insn}: uses a register that is not modelled")
        memory = list(info.used_memory())
        if memory and not _operands(insn, module.OpKind.MEMORY):
            raise UnknownError(f"{insn}: touches memory that is no operand")
        for place in memory:
            if _memory_size(insn) > 8:
                raise UnknownError(f"{insn}: may have to be aligned")
            if place.access not in (access.NONE, access.NO_MEM_ACCESS):
                inputs.append(self.load(self._operand_address(insn), _memory_size(insn)))
        if insn.rflags_read or insn.rflags_modified:
            inputs.append(self.state.registers["RFLAGS"])
        origin = _computed(tuple(inputs))
        for used in info.used_registers():
            if used.access in writes:
                name, _, size = _part(used.register)
                result = tuple(Byte((origin, name), n) for n in range(size))
                self.write(used.register, result)
        for place in memory:
            if place.access in writes:
                size = _memory_size(insn)
                result = tuple(Byte((origin, "memory"), n) for n in range(size))
                self.store(self._operand_address(insn), result)
        if insn.rflags_modified:
            self.state.registers["RFLAGS"] = tuple(Byte((origin, "RFLAGS"), n) for n in range(8))


# x87 and other state that is not followed, and what may fault for a reason of its own.
_UNMODELLED: Final = (
    "F", "XSAVE", "XRSTOR", "WAIT", "EMMS", "ENTER", "SYSCALL", "STD", "INT", "UD", "DIV", "IDIV",
    "V", "K", "MOVAPS", "MOVAPD", "MOVDQA",
)  # fmt: skip


_numbers: Final[dict[tuple[Hashable, ...], int]] = {}


def _computed(inputs: tuple[Hashable, ...]) -> tuple[str, int]:
    """A name for a function of these inputs: the same inputs have the same name, however deep."""
    return ("computed", _numbers.setdefault(inputs, len(_numbers)))


def is_computed(byte: Byte) -> bool:
    """Whether a byte is what some instruction computes, neither moved nor loaded."""
    value = byte.value
    while isinstance(value, tuple) and value and value[0] != "computed":
        value = value[0]
    return isinstance(value, tuple) and bool(value)


def _operands(insn: Any, kind: int) -> list[int]:
    return [n for n in range(insn.op_count) if insn.op_kind(n) == kind]


def _immediates(insn: Any) -> list[int]:
    kinds = iced().OpKind
    return [
        n for n in range(insn.op_count) if insn.op_kind(n) not in (kinds.REGISTER, kinds.MEMORY)
    ]


def _memory_size(insn: Any) -> int:
    size = int(iced().MemorySizeExt.size(insn.memory_size))
    if not size:
        raise UnknownError(f"{insn}: a memory operand of unknown size")
    return size


@cache
def _part(register: int) -> tuple[str, int, int]:
    """(whole register, offset, size) of a register that is modelled."""
    names = iced().Register
    for first, size in ((names.RAX, 8), (names.EAX, 4), (names.AX, 2)):
        if first <= register < first + 16:
            return GENERAL[register - first], 0, size
    if names.XMM0 <= register < names.XMM0 + 16:
        return XMM[register - names.XMM0], 0, 16
    for n, name in enumerate(("AL", "CL", "DL", "BL", "SPL", "BPL", "SIL", "DIL")):
        if register == getattr(names, name):
            return GENERAL[n], 0, 1
    if names.R8L <= register < names.R8L + 8:
        return GENERAL[8 + register - names.R8L], 0, 1
    for n, name in enumerate(("AH", "CH", "DH", "BH")):
        if register == getattr(names, name):
            return GENERAL[n], 1, 1
    raise UnknownError(f"register {register} is not modelled")


def _known(register: int) -> bool:
    try:
        _part(register)
    except UnknownError:
        return False
    return True


def _segment(register: int) -> bool:
    names = iced().Register
    return register in (names.DS, names.SS, names.ES, names.CS, names.FS, names.GS)


# Rules, by mnemonic. Each says whether it knew this form.


def _move(machine: Machine, insn: Any) -> bool:
    data = machine.operand(insn, 1)
    size = _size(insn, 0)
    if len(data) < size:
        return False
    machine.set_operand(insn, 0, data[:size])
    return True


def _size(insn: Any, n: int) -> int:
    if insn.op_kind(n) == iced().OpKind.REGISTER:
        return _part(insn.op_register(n))[2]
    return _memory_size(insn)


def _wide(machine: Machine, insn: Any) -> bool:
    """VMOVUPS and VMOVDQU of a YMM register to memory: its upper half is not followed."""
    names = iced().Register
    if insn.op_kind(0) != iced().OpKind.MEMORY or insn.has_op_mask:
        return False
    number = insn.op1_register - names.YMM0
    if not 0 <= number < 16:
        return False
    high = tuple(Byte(("upper half", number), n) for n in range(16))
    machine.set_operand(insn, 0, machine.read(names.XMM0 + number) + high)
    return True


def _scalar(machine: Machine, insn: Any) -> bool:
    """MOVQ, MOVSD, MOVSS: a load clears the rest, between registers only MOVQ does."""
    kinds = iced().OpKind
    size = 4 if insn.mnemonic == iced().Mnemonic.MOVSS else 8
    if insn.op_count != 2:
        return False
    if insn.op_kind(0) == kinds.MEMORY:
        machine.set_operand(insn, 0, machine.read(insn.op_register(1))[:size])
        return True
    if not _known(insn.op_register(0)) or _part(insn.op_register(0))[2] != 16:
        return False
    if insn.op_kind(1) == kinds.REGISTER and insn.mnemonic != iced().Mnemonic.MOVQ:
        whole = machine.read(insn.op_register(0))
        data = machine.read(insn.op_register(1))[:size] + whole[size:]
    else:
        data = machine.operand(insn, 1)[:size] + constant(0, 16 - size)
    machine.write(insn.op_register(0), data)
    return True


def _half(machine: Machine, insn: Any) -> bool:
    """MOVLPS, MOVHPS and their kin: eight bytes, the rest stays."""
    names, kinds = iced().Mnemonic, iced().OpKind
    high = insn.mnemonic in (names.MOVHPS, names.MOVHPD)
    part = slice(8, 16) if high else slice(0, 8)
    if insn.op_kind(0) == kinds.MEMORY:
        machine.set_operand(insn, 0, machine.read(insn.op_register(1))[part])
        return True
    if insn.op_kind(1) != kinds.MEMORY:
        return False
    whole, data = machine.read(insn.op_register(0)), machine.operand(insn, 1)[:8]
    machine.write(insn.op_register(0), whole[:8] + data if high else data + whole[8:])
    return True


def _lea(machine: Machine, insn: Any) -> bool:
    names = iced().Register
    if insn.memory_index != names.NONE or insn.memory_base == names.NONE:
        return False
    if insn.is_ip_rel_memory_operand:
        found = Sum("RIP", insn.ip_rel_memory_address)
    else:
        base = sum_of(machine.read(insn.memory_base))
        found = Sum(base.origin, (base.distance + insn.memory_displacement) % 2**64)
    machine.write(insn.op_register(0), bytes_of(found)[: _size(insn, 0)])
    return True


def _add(machine: Machine, insn: Any) -> bool:
    """ADD and SUB of a constant to 64 bits of a register; the flags are some function of both."""
    module = iced()
    constant_ = insn.op_kind(1) in (module.OpKind.IMMEDIATE8TO64, module.OpKind.IMMEDIATE32TO64)
    if not constant_ or insn.op_kind(0) != module.OpKind.REGISTER:
        return False
    before = sum_of(machine.read(insn.op_register(0)))
    amount = insn.immediate(1) * (-1 if insn.mnemonic == module.Mnemonic.SUB else 1)
    after = Sum(before.origin, (before.distance + amount) % 2**64)
    machine.write(insn.op_register(0), bytes_of(after))
    origin = _computed(("flags", insn.mnemonic, before, insn.immediate(1)))
    machine.state.registers["RFLAGS"] = tuple(Byte(origin, n) for n in range(8))
    return True


def _push(machine: Machine, insn: Any) -> bool:
    size = -insn.stack_pointer_increment
    data = machine.operand(insn, 0)  # PUSH RSP pushes what it was
    machine.push(data[:size])
    return True


def _pop(machine: Machine, insn: Any) -> bool:
    machine.set_operand(insn, 0, machine.pop(insn.stack_pointer_increment))
    return True


def _pushf(machine: Machine, insn: Any) -> bool:
    machine.push(machine.state.registers["RFLAGS"][: -insn.stack_pointer_increment])
    return True


def _popf(machine: Machine, insn: Any) -> bool:
    data = machine.pop(insn.stack_pointer_increment)
    whole = machine.state.registers["RFLAGS"]
    machine.state.registers["RFLAGS"] = data + whole[len(data) :]
    return True


def _exchange(machine: Machine, insn: Any) -> bool:
    one, other = machine.operand(insn, 0), machine.operand(insn, 1)
    machine.set_operand(insn, 0, other)
    machine.set_operand(insn, 1, one)
    return True


def _stmxcsr(machine: Machine, insn: Any) -> bool:
    machine.set_operand(insn, 0, machine.state.registers["MXCSR"])
    return True


def _ldmxcsr(machine: Machine, insn: Any) -> bool:
    machine.state.registers["MXCSR"] = machine.operand(insn, 0)
    return True


def _leave(machine: Machine, insn: Any) -> bool:
    del insn
    machine.state.registers["RSP"] = machine.state.registers["RBP"]
    machine.state.registers["RBP"] = machine.pop(8)
    return True


def _nop(machine: Machine, insn: Any) -> bool:
    del machine, insn
    return True


@cache
def _rules() -> dict[int, Callable[[Machine, Any], bool]]:
    rules: dict[str, Callable[[Machine, Any], bool]] = {
        "MOV": _move, "LEA": _lea, "ADD": _add, "SUB": _add, "NOP": _nop, "XCHG": _exchange,
        "PUSH": _push, "POP": _pop, "PUSHFQ": _pushf, "PUSHF": _pushf, "POPFQ": _popf,
        "POPF": _popf, "LEAVE": _leave, "STMXCSR": _stmxcsr, "LDMXCSR": _ldmxcsr,
        "MOVQ": _scalar, "MOVSD": _scalar, "MOVSS": _scalar,
        "MOVLPS": _half, "MOVLPD": _half, "MOVHPS": _half, "MOVHPD": _half,
    }  # fmt: skip
    rules |= dict.fromkeys(("VMOVUPS", "VMOVDQU"), _wide)
    rules |= dict.fromkeys(("MOVUPS", "MOVUPD", "MOVDQU"), _move)
    return {getattr(iced().Mnemonic, name): rule for name, rule in rules.items()}


def same(one: State, other: State) -> bool:
    """Whether two states agree in all registers and all memory that either wrote."""
    return not differences(one, other)


def differences(one: State, other: State) -> Sequence[str | Sum]:
    """Registers, by name, and bytes of memory in which two states differ."""
    places = one.memory.keys() | other.memory.keys()
    return [
        *(name for name in WIDTHS if one.registers[name] != other.registers[name]),
        *(place for place in places if one.memory.get(place) != other.memory.get(place)),
    ]
