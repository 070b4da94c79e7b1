"""The registers as gdb numbers them: its target description of x86-64 with SSE, on Linux.

Features and the order of registers: "Debugging with GDB", Standard Target Features, i386 Features.
Values are those that ptrace(2) gives: segment selectors are Linux's for a 64-bit program, orig_rax
is -1, as outside of a system call.
"""

from __future__ import annotations

from typing import Final

from emulator import fxsave
from emulator.linux.signal_frame import USER_CS, USER_SS
from emulator.registers import XMM, Flags, Registers

_GENERAL: Final = (
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP",
    "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15", "RIP",
)  # fmt: skip
_X87: Final = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_SELECTORS: Final = {"cs": USER_CS, "ss": USER_SS, "ds": 0, "es": 0, "fs": 0, "gs": 0}
_FLAGS: Final = (
    ("CF", 0, 0), ("", 1, 1), ("PF", 2, 2), ("AF", 4, 4), ("ZF", 6, 6), ("SF", 7, 7),
    ("TF", 8, 8), ("IF", 9, 9), ("DF", 10, 10), ("OF", 11, 11), ("NT", 14, 14), ("RF", 16, 16),
    ("AC", 18, 18), ("ID", 21, 21),
)  # fmt: skip

# What ptrace lets a debugger change (FLAG_MASK of arch/x86/kernel/ptrace.c); RF is not kept here.
_CHANGEABLE: Final = int(
    Flags.CF | Flags.PF | Flags.AF | Flags.ZF | Flags.SF | Flags.TF | Flags.DF | Flags.OF | Flags.AC
) | 1 << 14  # fmt: skip

# (gdb's name, bytes, type), in gdb's order.
_CORE: Final = (
    *((name.lower(), 8, "int64") for name in _GENERAL[:6]),
    *((name.lower(), 8, "data_ptr") for name in _GENERAL[6:8]),
    *((name.lower(), 8, "int64") for name in _GENERAL[8:16]),
    ("rip", 8, "code_ptr"),
    ("eflags", 4, "i386_eflags"),
    *((name, 4, "int32") for name in _SELECTORS),
    *((f"st{i}", 10, "i387_ext") for i in range(8)),
    *((name, 4, "int") for name in _X87),
)
_SSE: Final = (*((name.lower(), 16, "vec128") for name in XMM), ("mxcsr", 4, "i386_mxcsr"))
_LINUX: Final = (("orig_rax", 8, "int"),)
_SEGMENTS: Final = (("fs_base", 8, "int"), ("gs_base", 8, "int"))
REGISTERS: Final = tuple((name, size) for name, size, _ in (*_CORE, *_SSE, *_LINUX, *_SEGMENTS))

_VEC128: Final = """\
<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>\
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>\
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>\
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>\
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>\
<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>\
<field name="uint128" type="uint128"/></union>"""
_MXCSR: Final = (
    "IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM",
)  # fmt: skip


def _flags_type(name: str, bits: tuple[tuple[str, int, int], ...]) -> str:
    fields = "".join(f'<field name="{f}" start="{low}" end="{high}"/>' for f, low, high in bits)
    return f'<flags id="{name}" size="4">{fields}</flags>'


def _feature(name: str, types: str, registers: tuple[tuple[str, int, str], ...]) -> str:
    lines = "".join(
        f'<reg name="{register}" bitsize="{8 * size}" type="{kind}"/>'
        for register, size, kind in registers
    )
    return f'<feature name="org.gnu.gdb.i386.{name}">{types}{lines}</feature>'


def description() -> bytes:
    """target.xml."""
    mxcsr = (*((name, i, i) for i, name in enumerate(_MXCSR)), ("FZ", 15, 15))
    return "".join(
        (
            '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>',
            "<architecture>i386:x86-64</architecture><osabi>GNU/Linux</osabi>",
            _feature("core", _flags_type("i386_eflags", _FLAGS), _CORE),
            _feature("sse", _VEC128 + _flags_type("i386_mxcsr", mxcsr), _SSE),
            _feature("linux", "", _LINUX),
            _feature("segments", "", _SEGMENTS),
            "</target>",
        )
    ).encode()


def read(registers: Registers) -> list[bytes]:
    """The value of each of REGISTERS, in the target's byte order."""
    image = fxsave.store(registers)
    words = {
        "eflags": registers["RFLAGS"],
        "fctrl": registers["FCW"],
        "fstat": registers["FSW"],
        "ftag": registers["FTW"],
        "mxcsr": registers["MXCSR"],
        "orig_rax": 2**64 - 1,
        **_SELECTORS,
        **dict.fromkeys(_X87[3:], 0),  # the last instruction's, which are not modelled
    }
    found = []
    for name, size in REGISTERS:
        if name.startswith("st"):
            at = fxsave.ST.start + 16 * int(name[2:])
            found.append(bytes(image[at : at + size]))
        else:
            value = words[name] if name in words else registers[name.upper()]
            found.append(value.to_bytes(size, "little"))
    return found


def write(registers: Registers, number: int, data: bytes) -> bool:
    """Changes one of REGISTERS; False where it cannot have that value."""
    name, size = REGISTERS[number]
    if len(data) != size:
        return False
    if read(registers)[number] == data:
        return True
    value = int.from_bytes(data, "little")
    if name == "eflags":
        registers["RFLAGS"] = registers["RFLAGS"] & ~_CHANGEABLE | value & _CHANGEABLE
    elif name.startswith("st"):
        top = registers["FSW"] >> 11
        registers[f"ST{(top + int(name[2:])) & 7}"] = value
    elif name in ("fctrl", "fstat", "ftag"):
        if value >> 16:
            return False
        registers[{"fctrl": "FCW", "fstat": "FSW", "ftag": "FTW"}[name]] = value
    elif name == "mxcsr":
        if value >> 16:  # reserved: #GP (SDM volume 1, 10.2.3)
            return False
        registers["MXCSR"] = value
    elif (
        name.upper() in _GENERAL
        or name.startswith("xmm")
        or (name.endswith("_base") and value < 1 << 47)
    ):
        registers[name.upper()] = value
    else:
        return False
    return True
