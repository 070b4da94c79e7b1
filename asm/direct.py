"""Our own encoder of the everyday instructions (Intel's manual, volume 2).

Where an instruction has several encodings the choice is the one of Go's assembler: register to
register by the store opcode (89, not 8B), immediates in the shortest form but for MOV.
"""

from __future__ import annotations

from asm import sse
from asm.intel import Imm, Insn, IntelOperand, Mem
from asm.machine import (
    REGISTER,
    SEGMENT_PREFIX,
    Address,
    CannotEncodeError,
    Encoded,
    address,
    legacy,
    register_operand,
)

_ALU = {"add": 0, "or": 1, "adc": 2, "sbb": 3, "and": 4, "sub": 5, "xor": 6, "cmp": 7}
_SHIFT = {"rol": 0, "ror": 1, "rcl": 2, "rcr": 3, "shl": 4, "shr": 5, "sar": 7}
_UNARY = {"not": 2, "neg": 3, "mul": 4, "imul": 5, "div": 6, "idiv": 7}
_CC = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
_CMOV = {f"cmov{cc}": 0x40 + n for n, cc in enumerate(_CC)}
_SET = {f"set{cc}": 0x90 + n for n, cc in enumerate(_CC)}
_BIT = {"bt": (4, 0xA3), "bts": (5, 0xAB), "btr": (6, 0xB3), "btc": (7, 0xBB)}
# reg, r/m of one width
_LOAD_GPR = {
    "bsf": (b"", b"\x0f\xbc"), "bsr": (b"", b"\x0f\xbd"), "lar": (b"", b"\x0f\x02"),
    "lsl": (b"", b"\x0f\x03"), "popcnt": (b"\xf3", b"\x0f\xb8"), "tzcnt": (b"\xf3", b"\x0f\xbc"),
    "lzcnt": (b"\xf3", b"\x0f\xbd"), "adcx": (b"\x66", b"\x0f\x38\xf6"),
    "adox": (b"\xf3", b"\x0f\x38\xf6"),
}  # fmt: skip
_FIXED = {
    "cbw": "6698", "cwd": "6699", "cwde": "98", "cdq": "99", "cdqe": "4898", "cqo": "4899",
    "clc": "f8", "stc": "f9", "cmc": "f5", "cld": "fc", "std": "fd", "cli": "fa", "sti": "fb",
    "hlt": "f4", "lahf": "9f", "sahf": "9e", "pause": "f390", "cpuid": "0fa2", "rdtsc": "0f31",
    "rdtscp": "0f01f9", "rdpmc": "0f33", "rdmsr": "0f32", "wrmsr": "0f30", "lfence": "0faee8",
    "mfence": "0faef0", "sfence": "0faef8", "syscall": "0f05", "sysenter": "0f34",
    "sysret": "0f07", "sysexit": "0f35", "swapgs": "0f01f8", "clts": "0f06", "invd": "0f08",
    "wbinvd": "0f09", "emms": "0f77", "ud2": "0f0b", "xgetbv": "0f01d0", "xsetbv": "0f01d1",
    "xend": "0f01d5", "xtest": "0f01d6", "monitor": "0f01c8", "mwait": "0f01c9", "clac": "0f01ca",
    "stac": "0f01cb", "rdpkru": "0f01ee", "wrpkru": "0f01ef", "rsm": "0faa", "int1": "f1",
    "wait": "9b", "sysenter64": "480f34", "sysexit64": "480f35", "xlatb": "d7",
    "endbr64": "f30f1efa", "leave": "c9", "pushfq": "9c",
    "popfq": "9d", "pushf": "669c", "popf": "669d", "iretd": "cf", "iret": "66cf",
    "iretq": "48cf", "vzeroupper": "c5f877", "vzeroall": "c5fc77", "nop": "90",
    "movsb": "a4", "movsw": "66a5", "movsd": "a5", "movsq": "48a5",
    "cmpsb": "a6", "cmpsw": "66a7", "cmpsd": "a7", "cmpsq": "48a7",
    "stosb": "aa", "stosw": "66ab", "stosd": "ab", "stosq": "48ab",
    "lodsb": "ac", "lodsw": "66ad", "lodsd": "ad", "lodsq": "48ad",
    "scasb": "ae", "scasw": "66af", "scasd": "af", "scasq": "48af",
    "insb": "6c", "insw": "666d", "insd": "6d", "outsb": "6e", "outsw": "666f", "outsd": "6f",
    "ret": "c3", "retf": "cb", "retfq": "48cb",
    "f2xm1": "d9f0", "fabs": "d9e1", "fchs": "d9e0", "fnclex": "dbe2", "fcos": "d9ff",
    "fdecstp": "d9f6", "fincstp": "d9f7", "fninit": "dbe3", "fld1": "d9e8", "fldl2e": "d9ea",
    "fldl2t": "d9e9", "fldlg2": "d9ec", "fldln2": "d9ed", "fldpi": "d9eb", "fldz": "d9ee",
    "fnop": "d9d0", "fpatan": "d9f3", "fprem": "d9f8", "fprem1": "d9f5", "fptan": "d9f2",
    "frndint": "d9fc", "fscale": "d9fd", "fsin": "d9fe", "fsincos": "d9fb", "fsqrt": "d9fa",
    "ftst": "d9e4", "fxam": "d9e5", "fxtract": "d9f4", "fyl2x": "d9f1", "fyl2xp1": "d9f9",
}  # fmt: skip
# One memory operand: opcode, extension, REX.W
_MEMORY = {
    "fldcw": (b"\xd9", 5, 0), "fnstcw": (b"\xd9", 7, 0), "fnstsw": (b"\xdd", 7, 0),
    "xrstors": (b"\x0f\xc7", 3, 0), "xrstors64": (b"\x0f\xc7", 3, 1), "xsavec": (b"\x0f\xc7", 4, 0),
    "xsavec64": (b"\x0f\xc7", 4, 1), "xsaves": (b"\x0f\xc7", 5, 0), "xsaves64": (b"\x0f\xc7", 5, 1),
    "xsaveopt": (b"\x0f\xae", 6, 0), "xsaveopt64": (b"\x0f\xae", 6, 1),
    "cldemote": (b"\x0f\x1c", 0, 0),
    "fldenv": (b"\xd9", 4, 0),
    "fnstenv": (b"\xd9", 6, 0), "ldmxcsr": (b"\x0f\xae", 2, 0), "stmxcsr": (b"\x0f\xae", 3, 0),
    "fxsave": (b"\x0f\xae", 0, 0), "fxsave64": (b"\x0f\xae", 0, 1), "fxrstor": (b"\x0f\xae", 1, 0),
    "fxrstor64": (b"\x0f\xae", 1, 1), "xsave": (b"\x0f\xae", 4, 0), "xsave64": (b"\x0f\xae", 4, 1),
    "xrstor": (b"\x0f\xae", 5, 0), "xrstor64": (b"\x0f\xae", 5, 1), "clflush": (b"\x0f\xae", 7, 0),
    "lgdt": (b"\x0f\x01", 2, 0), "lidt": (b"\x0f\x01", 3, 0), "sgdt": (b"\x0f\x01", 0, 0),
    "sidt": (b"\x0f\x01", 1, 0), "invlpg": (b"\x0f\x01", 7, 0),
    "prefetchnta": (b"\x0f\x18", 0, 0), "prefetcht0": (b"\x0f\x18", 1, 0),
    "prefetcht1": (b"\x0f\x18", 2, 0), "prefetcht2": (b"\x0f\x18", 3, 0),
    "cmpxchg8b": (b"\x0f\xc7", 1, 0), "cmpxchg16b": (b"\x0f\xc7", 1, 1),
}  # fmt: skip
_SYSTEM = {
    "sldt": (b"\x0f\x00", 0), "str": (b"\x0f\x00", 1), "lldt": (b"\x0f\x00", 2),
    "ltr": (b"\x0f\x00", 3), "verr": (b"\x0f\x00", 4), "verw": (b"\x0f\x00", 5),
    "smsw": (b"\x0f\x01", 4), "lmsw": (b"\x0f\x01", 6),
}  # fmt: skip
_SYSTEM_SIZED = frozenset({"sldt", "str", "smsw"})
_WAIT = {"tpause": b"\x66", "umonitor": b"\xf3", "umwait": b"\xf2"}
_LOAD_POINTER = {"lss": 0xB2, "lfs": 0xB4, "lgs": 0xB5}
_MEMORY_66 = {"clflushopt": (b"\x0f\xae", 7), "clwb": (b"\x0f\xae", 6)}
_FSBASE = {"rdfsbase": 0, "rdgsbase": 1, "wrfsbase": 2, "wrgsbase": 3}


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


def rm_operand(operand: IntelOperand) -> Address:
    """The ModRM part of a register or memory operand."""
    if isinstance(operand, Mem):
        return address(operand)
    if isinstance(operand, str):
        return register_operand(REGISTER[operand].number)
    raise CannotEncodeError("an immediate does not go here")


def _gpr(operand: IntelOperand) -> int:
    """The number of a general register, or -1."""
    if isinstance(operand, str):
        register = REGISTER[operand]
        if register.kind in "gh":
            return register.number
    return -1


def _width(operand: IntelOperand) -> int:
    return REGISTER[operand].width if isinstance(operand, str) else getattr(operand, "width", 0)


def _is_rm(operand: IntelOperand) -> bool:
    return isinstance(operand, Mem) or _gpr(operand) >= 0


def encode(insn: Insn) -> Encoded | None:
    """Encodes the instruction, or returns None if it is not one of ours.

    Raises:
        CannotEncodeError: these operands do not go together.
    """
    name, operands = insn.mnemonic, insn.operands
    if not operands:
        fixed = _FIXED.get(name)
        return Encoded(bytes.fromhex(fixed)) if fixed else None
    kinds = {REGISTER[o].kind for o in operands if isinstance(o, str)}
    if kinds & set("yzkcdsf"):
        return _move_special(insn) if name == "mov" else _stack_segment(insn)
    if kinds & set("xm") or (name in _BESIDE_VECTORS and kinds):
        return _vector(insn)
    match len(operands):
        case 1:
            return _one(name, operands[0])
        case 2:
            return _two(insn, operands[0], operands[1])
        case 3:
            return _three(name, operands[0], operands[1], operands[2])
    return None


# These may have a general register and memory only.
_BESIDE_VECTORS = frozenset(sse.EXTRACT) | frozenset(sse.CONVERT)


def _one(name: str, operand: IntelOperand) -> Encoded | None:
    context = _Operands((operand,))
    width = _width(operand)
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
            case "int":
                if not 0 <= value <= 255:
                    raise CannotEncodeError("an interrupt number is 0 to 255")
                return Encoded(bytes((0xCD, value)))
            case "ret":
                if not 0 <= value < 1 << 16:
                    raise CannotEncodeError("RET takes 0 to 65535")
                return Encoded(b"\xc2" + _little(value, 16))
        return None
    if name in _UNARY and _is_rm(operand):
        return context.emit(b"\xf6" if small else b"\xf7", _UNARY[name], operand)
    if name in {"inc", "dec"}:
        return context.emit(b"\xfe" if small else b"\xff", int(name == "dec"), operand)
    if name in _SET:
        return context.emit(bytes((0x0F, _SET[name])), 0, operand)
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
    if name in _FSBASE and _gpr(operand) >= 0:
        return context.emit(b"\x0f\xae", _FSBASE[name], operand, lead=b"\xf3")
    if name in _SYSTEM and _is_rm(operand):
        opcode, extension = _SYSTEM[name]
        if name not in _SYSTEM_SIZED:
            context.set_width(0)
        return context.emit(opcode, extension, operand)
    if name in _WAIT and _gpr(operand) >= 0:
        context.set_width(0)
        return context.emit(b"\x0f\xae", 6, operand, lead=_WAIT[name])
    if name == "rdpid" and _gpr(operand) >= 0:
        context.set_width(0)
        return context.emit(b"\x0f\xc7", 7, operand, lead=b"\xf3")
    if name == "fnstsw" and operand == "ax":
        return Encoded(b"\xdf\xe0")
    if isinstance(operand, Mem):
        if name in _MEMORY:
            opcode, extension, w = _MEMORY[name]
            context.set_width(64 if w else 0)
            return context.emit(opcode, extension, operand)
        if name in _MEMORY_66:
            opcode, extension = _MEMORY_66[name]
            context.set_width(0)
            return context.emit(opcode, extension, operand, lead=b"\x66")
    return None


def _two(insn: Insn, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    name = insn.mnemonic
    context = _Operands((first, second))
    width = _width(first)
    small = width == 8
    context.set_width(width)
    if isinstance(first, Imm):
        return None
    if name in _SHIFT:
        return _shift(context, _SHIFT[name], first, second)
    if name == "mov":
        return _mov(context, insn, first, second)
    if isinstance(second, Imm):
        return _two_immediate(context, insn, first, second.value)
    if name in _ALU:
        base = _ALU[name] << 3
        return _load_store(
            context, base | (0 if small else 1), base | (2 if small else 3), first, second
        )
    number, from_number = _gpr(first), _gpr(second)
    if name == "lea" and isinstance(second, Mem) and number >= 0:
        return context.emit(b"\x8d", number, second)
    if name == "test":
        if from_number >= 0:
            return context.emit(b"\x84" if small else b"\x85", from_number, first)
        return context.emit(b"\x84" if small else b"\x85", number, second)
    if name == "xchg":
        if not small and 0 in {number, from_number} and min(number, from_number) >= 0:
            # XCHG with the accumulator has one byte; XCHG EAX, EAX would be NOP: it stays so.
            other = from_number if number == 0 else number
            rex = (8 if width == 64 else 0) | other >> 3
            lead = b"\x66" if width == 16 else b""
            return Encoded(
                lead + (bytes((0x40 | rex,)) if rex else b"") + bytes((0x90 | other & 7,))
            )
        return _load_store(context, 0x86 if small else 0x87, 0x86 if small else 0x87, first, second)
    if name in {"movzx", "movsx"} and number >= 0:
        source = _width(second)
        extend = (0xB6 if name == "movzx" else 0xBE) | (0 if source == 8 else 1)
        return context.emit(bytes((0x0F, extend)), number, second)
    if name == "movsxd" and number >= 0:
        return context.emit(b"\x63", number, second)
    if name in _CMOV and number >= 0:
        return context.emit(bytes((0x0F, _CMOV[name])), number, second)
    if name == "imul" and number >= 0:
        return context.emit(b"\x0f\xaf", number, second)
    if name in _LOAD_GPR and number >= 0:
        lead, opcode = _LOAD_GPR[name]
        return context.emit(opcode, number, second, lead=lead)
    if name in {"xadd", "cmpxchg"} and from_number >= 0:
        locked = (0xC0 if name == "xadd" else 0xB0) | (0 if small else 1)
        return context.emit(bytes((0x0F, locked)), from_number, first)
    if name in _BIT and from_number >= 0:
        return context.emit(bytes((0x0F, _BIT[name][1])), from_number, first)
    if name in _LOAD_POINTER and number >= 0 and isinstance(second, Mem):
        return context.emit(bytes((0x0F, _LOAD_POINTER[name])), number, second)
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
        source = _width(second)
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
    if name in _ALU or name == "test":
        if width < 64:
            _signed(value, width)
        elif not -(1 << 31) <= value < 1 << 31:
            raise CannotEncodeError(f"{value:#x} does not fit in 32 bits, sign-extended")
    if name in _ALU:
        extension = _ALU[name]
        if width == 8:
            if number == 0:
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
        if number == 0:
            lead = {8: b"", 16: b"\x66", 32: b"", 64: b"\x48"}[width]
            return Encoded(lead + (b"\xa8" if width == 8 else b"\xa9") + immediate)
        return context.emit(b"\xf6" if width == 8 else b"\xf7", 0, first, immediate)
    if name in _BIT:
        if not -128 <= value <= 127:
            raise CannotEncodeError("a bit number is -128 to 127 here")
        return context.emit(b"\x0f\xba", _BIT[name][0], first, _little(value, 8))
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
    if insn.load:
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
    width = _width(first)
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
    first, second = insn.operands
    for special, other, to in ((first, second, True), (second, first, False)):
        if not isinstance(special, str):
            continue
        register = REGISTER[special]
        if register.kind in "cd":
            opcode = (0x20 if register.kind == "c" else 0x21) + (2 if to else 0)
            if _gpr(other) < 0:
                raise CannotEncodeError("a control or debug register goes only to a register")
            return legacy(bytes((0x0F, opcode)), register.number, rm_operand(other))
        if register.kind == "s":
            context = _Operands((other,))
            context.set_width(0 if isinstance(other, Mem) or to else _width(other))
            return context.emit(b"\x8e" if to else b"\x8c", register.number, other)
    return None


def _stack_segment(insn: Insn) -> Encoded | None:
    """PUSH and POP of FS and GS."""
    if insn.mnemonic in {"push", "pop"} and insn.operands[0] in {"fs", "gs"}:
        base = 0xA0 if insn.operands[0] == "fs" else 0xA8
        return Encoded(bytes((0x0F, base + (insn.mnemonic == "pop"))))
    return None


def _emit_vector(
    opcode: sse.Opcode, reg: int, rm: IntelOperand, *, w: int = 0, mmx: bool = False, imm: int = -1
) -> Encoded:
    prefix = b""
    if isinstance(rm, Mem) and rm.segment:
        prefix = bytes((SEGMENT_PREFIX[rm.segment],))
    if opcode.prefix and not mmx:
        prefix += bytes((opcode.prefix,))
    return legacy(
        opcode.escape + bytes((opcode.opcode,)),
        reg,
        rm_operand(rm),
        prefix=prefix,
        w=w,
        immediate=b"" if imm < 0 else bytes((imm,)),
    )


def _vector(insn: Insn) -> Encoded | None:
    name, operands = insn.mnemonic, insn.operands
    immediate = -1
    if isinstance(operands[-1], Imm):
        value = operands[-1].value
        if not -128 <= value <= 255:
            raise CannotEncodeError(f"{value} is not an 8-bit immediate")
        immediate = value & 0xFF
        operands = operands[:-1]
    if len(operands) == 1:
        if name in sse.SHIFT_IMM and immediate >= 0 and isinstance(operands[0], str):
            register = REGISTER[operands[0]]
            if register.kind == "m" and name in {"pslldq", "psrldq"}:
                return None
            return _emit_vector(
                sse.SHIFT_IMM[name],
                sse.SHIFT_EXTENSION[name],
                operands[0],
                mmx=register.kind == "m",
                imm=immediate,
            )
        return None
    if len(operands) == 3 and operands[2] == "xmm0" and immediate < 0:
        return _implicit_xmm0(name, operands[0], operands[1])
    if len(operands) != 2:
        return None
    first, second = operands
    one = REGISTER[first] if isinstance(first, str) else None
    two = REGISTER[second] if isinstance(second, str) else None
    if (one and one.number > 15) or (two and two.number > 15):
        raise CannotEncodeError("registers above 15 need EVEX")
    if name in {"movq", "movd", "movq2dq", "movdq2q"}:
        return None if immediate >= 0 else _movq(name, first, second)
    if name in sse.CONVERT and immediate < 0 and one:
        wide = (one.kind == "g" and one.width == 64) or (
            _width(second) == 64 and one.kind == "x" and name.startswith("cvtsi")
        )
        mmx = two is not None and two.kind == "m"
        if name == "pmovmskb":
            wide = False
        return _emit_vector(sse.CONVERT[name], one.number, second, w=int(wide), mmx=mmx)
    if name in sse.INSERT and immediate >= 0 and one and one.kind == "x":
        return _emit_vector(
            sse.INSERT[name], one.number, second, w=int(name == "pinsrq"), imm=immediate
        )
    if name in sse.EXTRACT and immediate >= 0 and two and two.kind == "x":
        if name == "pextrw" and one:
            # The register form has an opcode of its own from before SSE4.
            return _emit_vector(sse.Opcode(0x66, b"\x0f", 0xC5), one.number, second, imm=immediate)
        return _emit_vector(
            sse.EXTRACT[name], two.number, first, w=int(name == "pextrq"), imm=immediate
        )
    table = sse.LOAD if immediate < 0 else sse.LOAD_IMM
    if name in table and one and (two is None or two.kind == one.kind):
        if one.kind == "x":
            return _emit_vector(table[name], one.number, second, imm=immediate)
        if one.kind == "m" and name in sse.MMX and immediate < 0:
            return _emit_vector(table[name], one.number, second, mmx=True)
    if name == "pshufw" and one and one.kind == "m" and immediate >= 0:
        return _emit_vector(sse.Opcode(0, b"\x0f", 0x70), one.number, second, imm=immediate)
    if name == "maskmovq" and one and two and one.kind == two.kind == "m":
        return _emit_vector(sse.Opcode(0, b"\x0f", 0xF7), one.number, second)
    if name == "movntq" and two and two.kind == "m" and isinstance(first, Mem):
        return _emit_vector(sse.Opcode(0, b"\x0f", 0xE7), two.number, first)
    if name in sse.REGISTERS_ONLY and one and two and one.kind == two.kind == "x":
        return _emit_vector(sse.REGISTERS_ONLY[name], one.number, second)
    if name in sse.STORE and two and two.kind == "x" and immediate < 0 and isinstance(first, Mem):
        return _emit_vector(sse.STORE[name], two.number, first)
    return None


def _implicit_xmm0(name: str, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    opcode = {
        "blendvps": sse.Opcode(0x66, b"\x0f\x38", 0x14),
        "blendvpd": sse.Opcode(0x66, b"\x0f\x38", 0x15),
        "pblendvb": sse.Opcode(0x66, b"\x0f\x38", 0x10),
        "sha256rnds2": sse.Opcode(0, b"\x0f\x38", 0xCB),
    }.get(name)
    if opcode is None or not isinstance(first, str):
        return None
    return _emit_vector(opcode, REGISTER[first].number, second)


def _movq(name: str, first: IntelOperand, second: IntelOperand) -> Encoded | None:
    """MOVD and MOVQ among vector registers, general registers and memory, as Go chooses."""
    one = REGISTER[first] if isinstance(first, str) else None
    two = REGISTER[second] if isinstance(second, str) else None
    kinds = (one.kind if one else "", two.kind if two else "")
    wide = int(name == "movq")
    escape = b"\x0f"
    if name == "movq2dq" and one and kinds == ("x", "m"):
        return _emit_vector(sse.Opcode(0xF3, escape, 0xD6), one.number, second)
    if name == "movdq2q" and one and kinds == ("m", "x"):
        return _emit_vector(sse.Opcode(0xF2, escape, 0xD6), one.number, second)
    if wide and one and kinds in {("x", "x"), ("x", "")}:
        return _emit_vector(sse.Opcode(0xF3, escape, 0x7E), one.number, second)
    if wide and two and kinds == ("", "x"):
        return _emit_vector(sse.Opcode(0x66, escape, 0xD6), two.number, first)
    if wide and one and kinds == ("m", ""):
        return _emit_vector(sse.Opcode(0, escape, 0x6F), one.number, second)
    if wide and two and kinds == ("", "m"):
        return _emit_vector(sse.Opcode(0, escape, 0x7F), two.number, first)
    if one and one.kind in "xm" and kinds[1] in {"g", ""}:
        opcode = sse.Opcode(0x66, escape, 0x6E)
        return _emit_vector(opcode, one.number, second, w=wide, mmx=one.kind == "m")
    if two and two.kind in "xm" and kinds[0] in {"g", ""}:
        opcode = sse.Opcode(0x66, escape, 0x7E)
        return _emit_vector(opcode, two.number, first, w=wide, mmx=two.kind == "m")
    return None
