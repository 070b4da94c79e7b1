"""Our own encoder of the everyday instructions (Intel's manual, volume 2).

Where an instruction has several encodings the choice is the one of Go's assembler: register to
register by the store opcode (89, not 8B), immediates in the shortest form but for MOV.
"""

from __future__ import annotations

from asm import opcodes as op
from asm import vector
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.machine import (
    REGISTER,
    SEGMENT_PREFIX,
    CannotEncodeError,
    Encoded,
    legacy,
    rm_operand,
    width_of,
)


def _signed(value: int, width: int) -> int:
    """The immediate as a signed number of so many bits, if it fits signed or unsigned."""
    if not -(1 << (width - 1)) <= value < 1 << width:
        raise CannotEncodeError(f"{value:#x} does not fit in {width} bits")
    return value - (1 << width) if value >= 1 << (width - 1) else value


def _little(value: int, width: int) -> bytes:
    return (value & ((1 << width) - 1)).to_bytes(width // 8, "little")


class _Operands:
    """What the encoders ask of an instruction: its width and the prefixes that follow."""

    def __init__(self, operands: tuple[IntelOperand, ...], width: int = 0) -> None:
        self.width = width
        self.rex = 0
        self.prefix = b""
        high = False
        for operand in operands:
            if isinstance(operand, Mem):
                if operand.segment:
                    self.prefix = bytes((SEGMENT_PREFIX[operand.segment],))
                self.width = self.width or operand.width
            elif isinstance(operand, str):
                register = REGISTER[operand]
                if register.kind == "h":
                    high = True
                elif register.kind == "g" and register.width == 8 and 4 <= register.number < 8:
                    # Numbers 4-7 mean AH CH DH BH without a REX prefix.
                    self.rex = 0x40
        if high and self.rex:
            raise CannotEncodeError("AH, BH, CH, DH do not go with a register that needs REX")
        self._high = high

    def set_width(self, width: int) -> None:
        self.width = width

    def emit(
        self,
        opcode: bytes,
        reg: int,
        rm: IntelOperand,
        immediate: bytes = b"",
        *,
        lead: bytes = b"",
    ) -> Encoded:
        prefix = self.prefix + (b"\x66" if self.width == 16 else b"") + lead
        encoded = legacy(
            opcode,
            reg,
            rm_operand(rm),
            prefix=prefix,
            w=int(self.width == 64),
            rex=self.rex,
            immediate=immediate,
        )
        if self._high and 0x40 <= encoded.data[len(prefix)] < 0x50:
            raise CannotEncodeError("AH, BH, CH, DH do not go with a register that needs REX")
        return encoded


def _gpr(operand: IntelOperand) -> int:
    """The number of a general register, or -1."""
    if isinstance(operand, str):
        register = REGISTER[operand]
        if register.kind in "gh":
            return register.number
    return -1


def _is_rm(operand: IntelOperand) -> bool:
    return isinstance(operand, Mem) or _gpr(operand) >= 0


def encode(insn: Insn) -> Encoded | None:
    """Encodes the instruction, or returns None if it is not one of ours.

    Raises:
        CannotEncodeError: these operands do not go together.
    """
    name, operands = insn.mnemonic, insn.operands
    if not operands:
        fixed = op.FIXED.get(name)
        return Encoded(bytes.fromhex(fixed)) if fixed else None
    kinds = {REGISTER[o].kind for o in operands if isinstance(o, str)}
    if kinds & set("yzkcdsf"):
        return _move_special(insn) if name == "mov" else _stack_segment(insn)
    if kinds & set("xm") or (name in vector.BESIDE and kinds):
        return vector.encode(insn)
    match len(operands):
        case 1:
            return _one(name, operands[0])
        case 2:
            return _two(insn, operands[0], operands[1])
        case 3:
            return _three(name, operands[0], operands[1], operands[2])
    return None


def _one(name: str, operand: IntelOperand) -> Encoded | None:
    context = _Operands((operand,))
    width = width_of(operand)
    small = width == 8
    context.set_width(width)
    if isinstance(operand, Imm):
        value = operand.value
        match name:
            case "push":
                short = -128 <= value <= 127
                if not -(1 << 31) <= value < 1 << 31:
                    raise CannotEncodeError(f"{value:#x} does not fit in 32 bits, sign-extended")
                return Encoded(
                    b"\x6a" + _little(value, 8) if short else b"\x68" + _little(value, 32)
                )
            case "pushw":
                short = -128 <= value <= 127
                lead = b"\x66\x6a" if short else b"\x66\x68"
                return Encoded(lead + _little(_signed(value, 16), 8 if short else 16))
            case "int" | "xabort":
                if not 0 <= value <= 255:
                    raise CannotEncodeError(f"{name.upper()} takes 0 to 255")
                return Encoded((b"\xcd" if name == "int" else b"\xc6\xf8") + _little(value, 8))
            case _ if name in op.RETURN:
                if not 0 <= value < 1 << 16:
                    raise CannotEncodeError("a return takes 0 to 65535")
                return Encoded(op.RETURN[name] + _little(value, 16))
        return None
    if name in op.UNARY and _is_rm(operand):
        return context.emit(b"\xf6" if small else b"\xf7", op.UNARY[name], operand)
    if name in {"inc", "dec"}:
        return context.emit(b"\xfe" if small else b"\xff", int(name == "dec"), operand)
    if name in op.SET:
        return context.emit(bytes((0x0F, op.SET[name])), 0, operand)
    if name in {"push", "pop"}:
        number = _gpr(operand)
        if width not in {16, 64}:
            raise CannotEncodeError("only 16 or 64 bits can be pushed")
        if number >= 0:
            lead = (b"\x66" if width == 16 else b"") + (b"\x41" if number > 7 else b"")
            return Encoded(lead + bytes(((0x50 if name == "push" else 0x58) | number & 7,)))
        context.set_width(0 if width == 64 else 16)
        return context.emit(
            b"\xff" if name == "push" else b"\x8f", 6 if name == "push" else 0, operand
        )
    if name in {"jmp", "call"}:
        context.set_width(0)
        return context.emit(b"\xff", 4 if name == "jmp" else 2, operand)
    if name == "bswap" and _gpr(operand) >= 0:
        number = _gpr(operand)
        rex = (8 if width == 64 else 0) | number >> 3
        head = bytes((0x40 | rex,)) if rex else b""
        return Encoded(head + bytes((0x0F, 0xC8 | number & 7)))
    if name == "nop":
        return context.emit(b"\x0f\x1f", 0, operand)
    if name in {"rdrand", "rdseed"} and _gpr(operand) >= 0:
        return context.emit(b"\x0f\xc7", 6 if name == "rdrand" else 7, operand)
    if name in op.FSBASE and _gpr(operand) >= 0:
        return context.emit(b"\x0f\xae", op.FSBASE[name], operand, lead=b"\xf3")
    if name in op.SYSTEM and _is_rm(operand):
        opcode, extension = op.SYSTEM[name]
        if name not in op.SYSTEM_SIZED:
            context.set_width(0)
        return context.emit(opcode, extension, operand)
    if name in op.WAIT and _gpr(operand) >= 0:
        context.set_width(0)
        return context.emit(b"\x0f\xae", 6, operand, lead=op.WAIT[name])
    if name == "rdpid" and _gpr(operand) >= 0:
        context.set_width(0)
        return context.emit(b"\x0f\xc7", 7, operand, lead=b"\xf3")
    if name == "fnstsw" and operand == "ax":
        return Encoded(b"\xdf\xe0")
    if isinstance(operand, Mem):
        if name in op.MEMORY:
            opcode, extension, w = op.MEMORY[name]
            context.set_width(64 if w else 0)
            return context.emit(opcode, extension, operand)
        if name in op.MEMORY_66:
            opcode, extension = op.MEMORY_66[name]
            context.set_width(0)
            return context.emit(opcode, extension, operand, lead=b"\x66")
    return None


def _two(insn: Insn, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    name = insn.mnemonic
    context = _Operands((first, second))
    width = width_of(first)
    small = width == 8
    context.set_width(width)
    if isinstance(first, Imm):
        return None
    if name in op.SHIFT:
        return _shift(context, op.SHIFT[name], first, second)
    if name == "mov":
        return _mov(context, insn, first, second)
    if isinstance(second, Imm):
        return _two_immediate(context, insn, first, second.value)
    if name in op.ALU:
        base = op.ALU[name] << 3
        return _load_store(
            context, base | (0 if small else 1), base | (2 if small else 3), first, second
        )
    number, from_number = _gpr(first), _gpr(second)
    if name == "lea" and isinstance(second, Mem) and number >= 0:
        return context.emit(b"\x8d", number, second)
    if name == "test":
        if from_number >= 0:
            return context.emit(b"\x84" if small else b"\x85", from_number, first)
        if number < 0:
            return None
        return context.emit(b"\x84" if small else b"\x85", number, second)
    if name == "xchg":
        if not small and 0 in {number, from_number} and min(number, from_number) >= 0:
            if number == from_number and width == 32:
                raise CannotEncodeError("this would be NOP, which does not clear the upper half")
            # XCHG with the accumulator has one byte.
            other = from_number if number == 0 else number
            rex = (8 if width == 64 else 0) | other >> 3
            lead = b"\x66" if width == 16 else b""
            return Encoded(
                lead + (bytes((0x40 | rex,)) if rex else b"") + bytes((0x90 | other & 7,))
            )
        return _load_store(context, 0x86 if small else 0x87, 0x86 if small else 0x87, first, second)
    if name in {"movzx", "movsx"} and number >= 0:
        source = width_of(second)
        extend = (0xB6 if name == "movzx" else 0xBE) | (0 if source == 8 else 1)
        if insn.variant and 4 <= from_number < 8:
            context.rex = 0x40
        return context.emit(bytes((0x0F, extend)), number, second)
    if name == "movsxd" and number >= 0:
        return context.emit(b"\x63", number, second)
    if name in op.CMOV and number >= 0:
        return context.emit(bytes((0x0F, op.CMOV[name])), number, second)
    if name == "imul" and number >= 0:
        return context.emit(b"\x0f\xaf", number, second)
    if name in op.LOAD_GPR and number >= 0:
        lead, opcode = op.LOAD_GPR[name]
        return context.emit(opcode, number, second, lead=lead)
    if name in {"xadd", "cmpxchg"} and from_number >= 0:
        locked = (0xC0 if name == "xadd" else 0xB0) | (0 if small else 1)
        return context.emit(bytes((0x0F, locked)), from_number, first)
    if name in op.BIT and from_number >= 0:
        return context.emit(bytes((0x0F, op.BIT[name][1])), from_number, first)
    if name in op.LOAD_POINTER and number >= 0 and isinstance(second, Mem):
        return context.emit(bytes((0x0F, op.LOAD_POINTER[name])), number, second)
    if name == "invpcid" and number >= 0 and isinstance(second, Mem):
        context.set_width(0)
        return context.emit(b"\x0f\x38\x82", number, second, lead=b"\x66")
    if name == "movbe":
        if number >= 0 and isinstance(second, Mem):
            return context.emit(b"\x0f\x38\xf0", number, second)
        if from_number >= 0 and isinstance(first, Mem):
            return context.emit(b"\x0f\x38\xf1", from_number, first)
    if name == "movnti" and from_number >= 0 and isinstance(first, Mem):
        return context.emit(b"\x0f\xc3", from_number, first)
    if name == "crc32" and number >= 0:
        source = width_of(second)
        context.set_width(16 if source == 16 else 64 if source == 64 else 32)
        return context.emit(
            b"\x0f\x38\xf0" if source == 8 else b"\x0f\x38\xf1", number, second, lead=b"\xf2"
        )
    return None


def _load_store(
    context: _Operands, store: int, load: int, first: IntelOperand, second: IntelOperand
) -> Encoded | None:
    if _gpr(second) >= 0 and _is_rm(first):
        return context.emit(bytes((store,)), _gpr(second), first)
    if _gpr(first) >= 0 and isinstance(second, Mem):
        return context.emit(bytes((load,)), _gpr(first), second)
    return None


def _two_immediate(
    context: _Operands, insn: Insn, first: IntelOperand, value: int
) -> Encoded | None:
    name = insn.mnemonic
    width = context.width
    number = _gpr(first)
    if name in op.ALU or name == "test":
        if width < 64:
            _signed(value, width)
        elif not -(1 << 31) <= value < 1 << 31:
            raise CannotEncodeError(f"{value:#x} does not fit in 32 bits, sign-extended")
    if name in op.ALU:
        extension = op.ALU[name]
        if width == 8:
            if number == 0 and not insn.variant:
                return Encoded(bytes((extension << 3 | 4,)) + _little(value, 8))
            return context.emit(b"\x80", extension, first, _little(value, 8))
        # The byte form is for what is written as a small number: 0xffffffff is not -1 to Go.
        if -128 <= value <= 127:
            return context.emit(b"\x83", extension, first, _little(value, 8))
        immediate = _little(value, min(width, 32))
        if number == 0:
            lead = {16: b"\x66", 32: b"", 64: b"\x48"}[width]
            return Encoded(lead + bytes((extension << 3 | 5,)) + immediate)
        return context.emit(b"\x81", extension, first, immediate)
    if name == "test":
        immediate = _little(value, min(width, 32))
        if number == 0 and not insn.variant:
            lead = {8: b"", 16: b"\x66", 32: b"", 64: b"\x48"}[width]
            return Encoded(lead + (b"\xa8" if width == 8 else b"\xa9") + immediate)
        return context.emit(b"\xf6" if width == 8 else b"\xf7", 0, first, immediate)
    if name in op.BIT:
        if not -128 <= value <= 127:
            raise CannotEncodeError("a bit number is -128 to 127 here")
        return context.emit(b"\x0f\xba", op.BIT[name][0], first, _little(value, 8))
    return None


def _shift(
    context: _Operands, extension: int, first: IntelOperand, second: IntelOperand
) -> Encoded | None:
    small = context.width == 8
    if second == "cl":
        return context.emit(b"\xd2" if small else b"\xd3", extension, first)
    if isinstance(second, Imm):
        if not 0 <= second.value <= 255:
            raise CannotEncodeError("a shift count is 0 to 255")
        if second.value == 1:
            return context.emit(b"\xd0" if small else b"\xd1", extension, first)
        return context.emit(b"\xc0" if small else b"\xc1", extension, first, bytes((second.value,)))
    raise CannotEncodeError("a shift count is an immediate or CL")


def _mov(
    context: _Operands, insn: Insn, first: IntelOperand, second: IntelOperand
) -> Encoded | None:
    width = context.width
    small = width == 8
    if insn.variant:
        return context.emit(b"\x8b", _gpr(first), second)
    if not isinstance(second, Imm):
        return _load_store(context, 0x88 if small else 0x89, 0x8A if small else 0x8B, first, second)
    value = second.value
    number = _gpr(first)
    if width == 64:
        # The translation has decided: a 64-bit destination is C7 or, beyond 32 bits, B8.
        if -(1 << 31) <= value < 1 << 31:
            return context.emit(b"\xc7", 0, first, _little(value, 32))
        if number < 0:
            raise CannotEncodeError(f"{value:#x} does not fit in 32 bits, sign-extended")
        rex = 0x48 | number >> 3
        return Encoded(bytes((rex, 0xB8 | number & 7)) + _little(value, 64))
    immediate = _little(_signed(value, width), width)
    if number < 0:
        return context.emit(b"\xc6" if small else b"\xc7", 0, first, immediate)
    rex = context.rex | (0x41 if number > 7 else 0)
    lead = (b"\x66" if width == 16 else b"") + (bytes((rex,)) if rex else b"")
    return Encoded(lead + bytes(((0xB0 if small else 0xB8) | number & 7,)) + immediate)


def _three(
    name: str, first: IntelOperand, second: IntelOperand, third: IntelOperand
) -> Encoded | None:
    context = _Operands((first, second, third))
    width = width_of(first)
    context.set_width(width)
    if name == "imul" and isinstance(third, Imm) and _gpr(first) >= 0:
        value = third.value
        if -128 <= value <= 127:
            return context.emit(b"\x6b", _gpr(first), second, _little(value, 8))
        if width < 64:
            value = _signed(value, width)
        if not -(1 << 31) <= value < 1 << 31:
            raise CannotEncodeError(f"{value:#x} does not fit in 32 bits, sign-extended")
        return context.emit(b"\x69", _gpr(first), second, _little(value, min(width, 32)))
    if name in {"shld", "shrd"} and _gpr(second) >= 0:
        opcode = 0xA4 if name == "shld" else 0xAC
        if third == "cl":
            return context.emit(bytes((0x0F, opcode + 1)), _gpr(second), first)
        if isinstance(third, Imm) and -128 <= third.value <= 127:
            return context.emit(bytes((0x0F, opcode)), _gpr(second), first, _little(third.value, 8))
    return None


def _move_special(insn: Insn) -> Encoded | None:
    """MOV to and from control, debug and segment registers."""
    if len(insn.operands) != 2:
        raise CannotEncodeError("no encoding: MOV takes two operands")
    first, second = insn.operands
    for special, other, to in ((first, second, True), (second, first, False)):
        if not isinstance(special, str):
            continue
        register = REGISTER[special]
        if register.kind in "cd":
            opcode = (0x20 if register.kind == "c" else 0x21) + (2 if to else 0)
            if _gpr(other) < 0:
                raise CannotEncodeError("a control or debug register goes only to a register")
            if width_of(other) != 64:
                raise CannotEncodeError("a control or debug register has 64 bits")
            return legacy(bytes((0x0F, opcode)), register.number, rm_operand(other))
        if register.kind == "s":
            context = _Operands((other,))
            if to and special == "cs":
                raise CannotEncodeError("CS cannot be loaded")
            if not _is_rm(other) or width_of(other) == 8:
                raise CannotEncodeError("no encoding for these operands")
            if isinstance(other, Mem) and other.width not in {0, 16}:
                raise CannotEncodeError("a segment register has 16 bits in memory")
            context.set_width(0 if isinstance(other, Mem) or to else width_of(other))
            return context.emit(b"\x8e" if to else b"\x8c", register.number, other)
    return None


def _stack_segment(insn: Insn) -> Encoded | None:
    """PUSH and POP of FS and GS."""
    if insn.mnemonic in {"push", "pop"} and insn.operands in {("fs",), ("gs",)}:
        base = 0xA0 if insn.operands[0] == "fs" else 0xA8
        return Encoded(bytes((0x0F, base + (insn.mnemonic == "pop"))))
    return None
