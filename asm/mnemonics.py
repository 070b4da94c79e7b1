"""Go's instruction names for amd64 and what Intel calls them (cmd/internal/obj/x86/anames.go).

A row says the Intel name, the width in bits of each operand in Go's order, and whether the
operands stand in Intel's order already (CMPx, and what has but one).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from asm import avx, x87
from asm.sse import SSE_WIDTHS

if TYPE_CHECKING:
    from collections.abc import Collection


class Spec(NamedTuple):
    """How one Go mnemonic translates; a single width holds for all operands."""

    intel: str
    widths: tuple[int, ...] = ()
    intel_order: bool = False


# Go's name of a condition, its other names, Intel's suffix as Capstone prints it.
CONDITIONS: dict[str, str] = {}
for _names, _suffix in (
    ("OS O", "o"),
    ("OC NO", "no"),
    ("CS B C LO NAE", "b"),
    ("CC AE HS NB NC", "ae"),
    ("EQ E Z", "e"),
    ("NE NZ", "ne"),
    ("LS BE NA", "be"),
    ("HI A NBE", "a"),
    ("MI S", "s"),
    ("PL NS", "ns"),
    ("PS P PE", "p"),
    ("PC NP PO", "np"),
    ("LT L NGE", "l"),
    ("GE NL", "ge"),
    ("LE NG", "le"),
    ("GT G NLE", "g"),
):
    for _name in _names.split():
        CONDITIONS[_name] = _suffix

_WIDTH = {"B": 8, "W": 16, "L": 32, "Q": 64}

# JMP and CALL are translated apart: they may go to a label, a symbol, a register, memory.
JUMPS = {f"J{name}": f"j{suffix}" for name, suffix in CONDITIONS.items()} | {
    "JMP": "jmp",
    "CALL": "call",
    "JCXZL": "jecxz",
    "JCXZQ": "jrcxz",
    "LOOP": "loop",
    "LOOPEQ": "loope",
    "LOOPNE": "loopne",
    "XBEGIN": "xbegin",
}

# Statements that give bytes and not an instruction, by the width of what they take.
RAW = {"BYTE": 1, "WORD": 2, "LONG": 4, "QUAD": 8}
# Prefixes are statements of their own in Go and belong to the instruction that follows.
PREFIXES = {"LOCK": 0xF0, "REP": 0xF3, "REPN": 0xF2, "XACQUIRE": 0xF2, "XRELEASE": 0xF3}

_PLAIN = {
    "CBW": "cbw", "CWD": "cwd", "CDQ": "cdq", "CWDE": "cwde", "CDQE": "cdqe", "CQO": "cqo",
    "CLC": "clc", "STC": "stc", "CMC": "cmc", "CLD": "cld", "STD": "std", "CLI": "cli",
    "STI": "sti", "HLT": "hlt", "LAHF": "lahf", "SAHF": "sahf", "PAUSE": "pause",
    "CPUID": "cpuid", "RDTSC": "rdtsc", "RDTSCP": "rdtscp", "RDPMC": "rdpmc", "RDMSR": "rdmsr",
    "WRMSR": "wrmsr", "LFENCE": "lfence", "MFENCE": "mfence", "SFENCE": "sfence",
    "SYSCALL": "syscall", "SYSENTER": "sysenter", "SYSENTER64": "sysenter64",
    "SYSRET": "sysret", "SYSEXIT": "sysexit", "SYSEXIT64": "sysexit64",
    "SWAPGS": "swapgs", "CLTS": "clts",
    "INVD": "invd", "WBINVD": "wbinvd", "EMMS": "emms", "UD1": "ud1", "UD2": "ud2", "UNDEF": "ud2",
    "XGETBV": "xgetbv", "XSETBV": "xsetbv", "XEND": "xend", "XTEST": "xtest",
    "MONITOR": "monitor", "MWAIT": "mwait", "CLAC": "clac", "STAC": "stac",
    "RDPKRU": "rdpkru", "WRPKRU": "wrpkru", "RSM": "rsm", "ICEBP": "int1", "WAIT": "wait",
    "XLAT": "xlatb", "ENDBR64": "endbr64", "LEAVEQ": "leave", "PUSHFQ": "pushfq",
    "POPFQ": "popfq", "PUSHFW": "pushf", "POPFW": "popf", "LEAVEW": "leave16",
    "IRETL": "iretd", "IRETW": "iret", "IRETQ": "iretq",
    "RETFL": "retf", "RETFQ": "retfq", "RETFW": "retf16",
}  # fmt: skip
_X87_NAMES = """F2XM1 FABS FCHS FCOS FDECSTP FINCSTP FLD1 FLDL2E FLDL2T FLDLG2 FLDLN2 FLDPI FLDZ
 FNOP FPATAN FPREM FPREM1 FPTAN FRNDINT FSCALE FSIN FSINCOS FSQRT FTST FXAM FXTRACT FYL2X FYL2XP1"""
_X87 = {name: name.lower() for name in _X87_NAMES.split()} | {"FCLEX": "fnclex", "FINIT": "fninit"}
_STRING = {"MOVS": "movs", "STOS": "stos", "LODS": "lods", "SCAS": "scas", "CMPS": "cmps"}
_INTEL_LETTER = {"B": "b", "W": "w", "L": "d", "Q": "q"}

# Packed and scalar instructions whose Go name is not Intel's in capitals.
_GO_SSE = {
    "MOVO": "movdqa", "MOVOA": "movdqa", "MOVOU": "movdqu", "MOVNTO": "movntdq",
    "MASKMOVOU": "maskmovdqu", "MOVQOZX": "movq2dq",
    "PSLLO": "pslldq", "PSRLO": "psrldq", "PSLLDQ": "pslldq", "PSRLDQ": "psrldq",
    "PSLLL": "pslld", "PSRLL": "psrld", "PSRAL": "psrad", "PADDL": "paddd", "PADDD": "paddd",
    "PSUBL": "psubd", "PSHUFL": "pshufd", "PSHUFD": "pshufd", "PMULULQ": "pmuludq",
    "PCMPEQL": "pcmpeqd", "PCMPGTL": "pcmpgtd", "PACKSSLW": "packssdw", "PMADDWL": "pmaddwd",
    "PUNPCKHLQ": "punpckhdq", "PUNPCKHWL": "punpckhwd", "PUNPCKLLQ": "punpckldq",
    "PUNPCKLWL": "punpcklwd", "CVTPL2PS": "cvtdq2ps", "CVTPL2PD": "cvtdq2pd",
    "CVTPD2PL": "cvtpd2dq", "CVTPS2PL": "cvtps2dq", "CVTTPD2PL": "cvttpd2dq",
    "CVTTPS2PL": "cvttps2dq", "MASKMOVDQU": "maskmovdqu", "MOVNTDQ": "movntdq",
}  # fmt: skip


def _integer() -> dict[str, Spec]:
    table: dict[str, Spec] = {}
    for suffix, width in _WIDTH.items():
        for name in ("ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "TEST", "XCHG", "XADD"):
            table[name + suffix] = Spec(name.lower(), (width,))
        table["CMPXCHG" + suffix] = Spec("cmpxchg", (width,))
        table["CMP" + suffix] = Spec("cmp", (width,), intel_order=True)
        for name in ("INC", "DEC", "NEG", "NOT", "MUL", "DIV", "IDIV"):
            table[name + suffix] = Spec(name.lower(), (width,))
        for name in ("ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAR"):
            table[name + suffix] = Spec(name.lower(), (8, width))
        table["SAL" + suffix] = Spec("shl", (8, width))
        table["IMUL" + suffix] = Spec("imul", (width,))
        for name, intel in _STRING.items():
            table[name + suffix] = Spec(intel + _INTEL_LETTER[suffix])
        if suffix != "Q":
            for name in ("INS", "OUTS"):
                table[name + suffix] = Spec(name.lower() + _INTEL_LETTER[suffix])
            table["IN" + suffix] = Spec("in", (width,))
            table["OUT" + suffix] = Spec("out", (width,))
        if suffix != "B":
            table["IMUL3" + suffix] = Spec("imul", (width,))
            table["LEA" + suffix] = Spec("lea", (0, width))
            for name in ("BT", "BTC", "BTR", "BTS", "BSF", "BSR", "POPCNT", "LZCNT", "TZCNT"):
                table[name + suffix] = Spec(name.lower(), (width,))
            for name in ("SLDT", "STR", "SMSW"):
                table[name + suffix] = Spec(name.lower(), (width,))
            for name in ("LAR", "LSL"):
                table[name + suffix] = Spec(name.lower(), (min(width, 32), width))
            for name in ("LFS", "LGS", "LSS"):
                table[name + suffix] = Spec(name.lower(), (0, width))
            for condition, intel in CONDITIONS.items():
                # Only Go's own names here; the aliases are for jumps.
                if condition in _OWN_CONDITIONS:
                    table[f"CMOV{suffix}{condition}"] = Spec(f"cmov{intel}", (width,))
            table["NOP" + suffix] = Spec("nop", (width,))
            for name in ("RDRAND", "RDSEED"):
                table[name + suffix] = Spec(name.lower(), (width,))
        if suffix in "LQ":
            table["BSWAP" + suffix] = Spec("bswap", (width,))
            table["ADCX" + suffix] = Spec("adcx", (width,))
            table["ADOX" + suffix] = Spec("adox", (width,))
        crc = 64 if suffix == "Q" else 32
        table["CRC32" + suffix] = Spec("crc32", (width, crc))
    del table["NOPQ"]
    for condition in _OWN_CONDITIONS:
        table[f"SET{condition}"] = Spec(f"set{CONDITIONS[condition]}", (8,))
    return table


_OWN_CONDITIONS = (
    "OS", "OC", "CS", "CC", "EQ", "NE", "LS", "HI", "MI", "PL", "PS", "PC", "LT", "GE", "LE", "GT",
)  # fmt: skip


def _moves() -> dict[str, Spec]:
    table = {f"MOV{suffix}": Spec("mov", (width,)) for suffix, width in _WIDTH.items()} | {
        "MOVD": Spec("mov", (64,)),
        "MOVDQ2Q": Spec("mov", (64,)),
    }
    for name, intel, source, destination in (
        ("MOVBWSX", "movsx", 8, 16), ("MOVBLSX", "movsx", 8, 32), ("MOVBQSX", "movsx", 8, 64),
        ("MOVWLSX", "movsx", 16, 32), ("MOVWQSX", "movsx", 16, 64), ("MOVLQSX", "movsxd", 32, 64),
        ("MOVBWZX", "movzx", 8, 16), ("MOVBLZX", "movzx", 8, 32), ("MOVBQZX", "movzx", 8, 64),
        ("MOVWLZX", "movzx", 16, 32), ("MOVWQZX", "movzx", 16, 64), ("MOVLQZX", "mov", 32, 32),
        ("MOVQL", "mov", 32, 32), ("MOVSWW", "movsx", 16, 16), ("MOVZWW", "movzx", 16, 16),
        ("MOVBEWW", "movbe", 16, 16), ("MOVBELL", "movbe", 32, 32), ("MOVBEQQ", "movbe", 64, 64),
        ("MOVBEW", "movbe", 16, 16), ("MOVBEL", "movbe", 32, 32), ("MOVBEQ", "movbe", 64, 64),
        ("MOVNTIL", "movnti", 32, 32), ("MOVNTIQ", "movnti", 64, 64),
    ):  # fmt: skip
        table[name] = Spec(intel, (source, destination))
    return table


def _other() -> dict[str, Spec]:
    return {
        "PUSHQ": Spec("push", (64,)),
        "PUSHW": Spec("push", (16,)),
        "POPQ": Spec("pop", (64,)),
        "POPW": Spec("pop", (16,)),
        "ADJSP": Spec("adjsp", (64,)),
        "INT": Spec("int", (8,)),
        "RET": Spec("ret", (16,)),
        "NOP": Spec("nop"),
        "CMPXCHG8B": Spec("cmpxchg8b", (64,)),
        "CMPXCHG16B": Spec("cmpxchg16b", (128,)),
        "CLFLUSH": Spec("clflush", (8,)),
        "CLFLUSHOPT": Spec("clflushopt", (8,)),
        "CLWB": Spec("clwb", (8,)),
        "INVLPG": Spec("invlpg", (8,)),
        "PREFETCHT0": Spec("prefetcht0", (8,)),
        "PREFETCHT1": Spec("prefetcht1", (8,)),
        "PREFETCHT2": Spec("prefetcht2", (8,)),
        "PREFETCHNTA": Spec("prefetchnta", (8,)),
        "LDMXCSR": Spec("ldmxcsr", (32,)),
        "STMXCSR": Spec("stmxcsr", (32,)),
        "FXSAVE": Spec("fxsave", (0,)),
        "FXSAVE64": Spec("fxsave64", (0,)),
        "FXRSTOR": Spec("fxrstor", (0,)),
        "FXRSTOR64": Spec("fxrstor64", (0,)),
        "XSAVE": Spec("xsave", (0,)),
        "XSAVE64": Spec("xsave64", (0,)),
        "XRSTOR": Spec("xrstor", (0,)),
        "XRSTOR64": Spec("xrstor64", (0,)),
        "XRSTORS": Spec("xrstors", (0,)),
        "XRSTORS64": Spec("xrstors64", (0,)),
        "XSAVEC": Spec("xsavec", (0,)),
        "XSAVEC64": Spec("xsavec64", (0,)),
        "XSAVEOPT": Spec("xsaveopt", (0,)),
        "XSAVEOPT64": Spec("xsaveopt64", (0,)),
        "XSAVES": Spec("xsaves", (0,)),
        "XSAVES64": Spec("xsaves64", (0,)),
        "INVPCID": Spec("invpcid", (128, 64)),
        "FLDCW": Spec("fldcw", (16,)),
        "FSTCW": Spec("fnstcw", (16,)),
        "FLDENV": Spec("fldenv", (0,)),
        "FSTENV": Spec("fnstenv", (0,)),
        "LGDT": Spec("lgdt", (0,)),
        "LIDT": Spec("lidt", (0,)),
        "SGDT": Spec("sgdt", (0,)),
        "SIDT": Spec("sidt", (0,)),
        "RDFSBASEQ": Spec("rdfsbase", (64,)),
        "RDGSBASEQ": Spec("rdgsbase", (64,)),
        "WRFSBASEQ": Spec("wrfsbase", (64,)),
        "WRGSBASEQ": Spec("wrgsbase", (64,)),
        "RDFSBASEL": Spec("rdfsbase", (32,)),
        "RDGSBASEL": Spec("rdgsbase", (32,)),
        "WRFSBASEL": Spec("wrfsbase", (32,)),
        "WRGSBASEL": Spec("wrgsbase", (32,)),
        "CVTSL2SD": Spec("cvtsi2sd", (32, 128)),
        "CVTSQ2SD": Spec("cvtsi2sd", (64, 128)),
        "CVTSL2SS": Spec("cvtsi2ss", (32, 128)),
        "CVTSQ2SS": Spec("cvtsi2ss", (64, 128)),
        "CVTSD2SL": Spec("cvtsd2si", (64, 32)),
        "CVTSD2SQ": Spec("cvtsd2si", (64, 64)),
        "CVTSS2SL": Spec("cvtss2si", (32, 32)),
        "CVTSS2SQ": Spec("cvtss2si", (32, 64)),
        "CVTTSD2SL": Spec("cvttsd2si", (64, 32)),
        "CVTTSD2SQ": Spec("cvttsd2si", (64, 64)),
        "CVTTSS2SL": Spec("cvttss2si", (32, 32)),
        "CVTTSS2SQ": Spec("cvttss2si", (32, 64)),
        "PINSRB": Spec("pinsrb", (8, 8, 128)),
        "PINSRW": Spec("pinsrw", (8, 16, 128)),
        "PINSRD": Spec("pinsrd", (8, 32, 128)),
        "PINSRQ": Spec("pinsrq", (8, 64, 128)),
        "PEXTRB": Spec("pextrb", (8, 128, 8)),
        "PEXTRW": Spec("pextrw", (8, 128, 16)),
        "PEXTRD": Spec("pextrd", (8, 128, 32)),
        "PEXTRQ": Spec("pextrq", (8, 128, 64)),
        "EXTRACTPS": Spec("extractps", (8, 128, 32)),
        "BLENDVPS": Spec("blendvps", (128,)),
        "BLENDVPD": Spec("blendvpd", (128,)),
        "PBLENDVB": Spec("pblendvb", (128,)),
        "SHA256RNDS2": Spec("sha256rnds2", (128,)),
        "PSHUFW": Spec("pshufw", (0,)),
        "MASKMOVQ": Spec("maskmovq", (0,)),
        "MOVNTQ": Spec("movntq", (64,)),
        "CLDEMOTE": Spec("cldemote", (8,)),
        "TPAUSE": Spec("tpause", (32,)),
        "UMONITOR": Spec("umonitor", (64,)),
        "UMWAIT": Spec("umwait", (32,)),
        "RDPID": Spec("rdpid", (64,)),
        "FSTSW": Spec("fnstsw", (16,)),
        "LTR": Spec("ltr", (16,)),
        "VERR": Spec("verr", (16,)),
        "VERW": Spec("verw", (16,)),
        "LMSW": Spec("lmsw", (16,)),
        "LLDT": Spec("lldt", (16,)),
        "XABORT": Spec("xabort", (8,)),
        "PMOVMSKB": Spec("pmovmskb", (128, 32)),
        "MOVMSKPS": Spec("movmskps", (128, 32)),
        "MOVMSKPD": Spec("movmskpd", (128, 32)),
        "CMPPS": Spec("cmpps", (128,)),
        "CMPPD": Spec("cmppd", (128,)),
        "CMPSS": Spec("cmpss", (32,)),
        "CMPSD": Spec("cmpsd", (64,)),
    }


# What the processor does not have in 64-bit mode.
NOT_IN_64_BIT_MODE = frozenset(
    """AAA AAD AAM AAS ARPL BOUNDL BOUNDW DAA DAS INTO LEAVEL POPAL POPAW POPFL POPL PUSHAL
    PUSHAW PUSHFL PUSHL""".split()  # noqa: SIM905
)


@cache
def specs() -> dict[str, Spec]:
    """Every mnemonic that names an instruction with ordinary operands."""
    table = _integer() | _moves() | _other()
    table |= {name: Spec(intel) for name, intel in (_PLAIN | _X87).items()}
    renamed = set(_GO_SSE.values())
    for intel, width in SSE_WIDTHS.items():
        if intel not in renamed and intel.upper() not in table:
            table[intel.upper()] = Spec(intel, (width,))
    for name, intel in _GO_SSE.items():
        table[name] = Spec(intel, (SSE_WIDTHS[intel],))
    return table


def is_jump(op: str) -> bool:
    """Whether a bare name as operand is a label."""
    return op in JUMPS


def mnemonic_exists(op: str) -> bool:
    """Whether Go's assembler for amd64 has this statement."""
    return any(op in names for names in _all_names())


def known_mnemonics() -> tuple[str, ...]:
    """All names, for near misses."""
    return tuple(name for names in _all_names() for name in names)


@cache
def _all_names() -> tuple[Collection[str], ...]:
    return (specs(), JUMPS, RAW, PREFIXES, avx.names(), x87.names())
