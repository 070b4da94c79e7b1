"""Opcodes of the general instructions, as data (Intel's manual, volume 2)."""

from __future__ import annotations

ALU = {"add": 0, "or": 1, "adc": 2, "sbb": 3, "and": 4, "sub": 5, "xor": 6, "cmp": 7}
SHIFT = {"rol": 0, "ror": 1, "rcl": 2, "rcr": 3, "shl": 4, "shr": 5, "sar": 7}
UNARY = {"not": 2, "neg": 3, "mul": 4, "imul": 5, "div": 6, "idiv": 7}
CC = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
CMOV = {f"cmov{cc}": 0x40 + n for n, cc in enumerate(CC)}
SET = {f"set{cc}": 0x90 + n for n, cc in enumerate(CC)}
BIT = {"bt": (4, 0xA3), "bts": (5, 0xAB), "btr": (6, 0xB3), "btc": (7, 0xBB)}
# reg, r/m of one width
LOAD_GPR = {
    "bsf": (b"", b"\x0f\xbc"), "bsr": (b"", b"\x0f\xbd"), "lar": (b"", b"\x0f\x02"),
    "lsl": (b"", b"\x0f\x03"), "popcnt": (b"\xf3", b"\x0f\xb8"), "tzcnt": (b"\xf3", b"\x0f\xbc"),
    "lzcnt": (b"\xf3", b"\x0f\xbd"), "adcx": (b"\x66", b"\x0f\x38\xf6"),
    "adox": (b"\xf3", b"\x0f\x38\xf6"),
}  # fmt: skip
FIXED = {
    "cbw": "6698", "cwd": "6699", "cwde": "98", "cdq": "99", "cdqe": "4898", "cqo": "4899",
    "clc": "f8", "stc": "f9", "cmc": "f5", "cld": "fc", "std": "fd", "cli": "fa", "sti": "fb",
    "hlt": "f4", "lahf": "9f", "sahf": "9e", "pause": "f390", "cpuid": "0fa2", "rdtsc": "0f31",
    "rdtscp": "0f01f9", "rdpmc": "0f33", "rdmsr": "0f32", "wrmsr": "0f30", "lfence": "0faee8",
    "mfence": "0faef0", "sfence": "0faef8", "syscall": "0f05", "sysenter": "0f34",
    "sysret": "0f07", "sysexit": "0f35", "swapgs": "0f01f8", "clts": "0f06", "invd": "0f08",
    "wbinvd": "0f09", "emms": "0f77", "ud2": "0f0b", "xgetbv": "0f01d0", "xsetbv": "0f01d1",
    "xend": "0f01d5", "xtest": "0f01d6", "monitor": "0f01c8", "mwait": "0f01c9", "clac": "0f01ca",
    "stac": "0f01cb", "rdpkru": "0f01ee", "wrpkru": "0f01ef", "rsm": "0faa", "int1": "f1",
    "wait": "9b", "int3": "cc", "sysenter64": "480f34", "sysexit64": "480f35", "xlatb": "d7",
    "endbr64": "f30f1efa", "leave": "c9", "pushfq": "9c",
    "popfq": "9d", "pushf": "669c", "popf": "669d", "iretd": "cf", "iret": "66cf",
    "iretq": "48cf", "vzeroupper": "c5f877", "vzeroall": "c5fc77", "nop": "90",
    "movsb": "a4", "movsw": "66a5", "movsd": "a5", "movsq": "48a5",
    "cmpsb": "a6", "cmpsw": "66a7", "cmpsd": "a7", "cmpsq": "48a7",
    "stosb": "aa", "stosw": "66ab", "stosd": "ab", "stosq": "48ab",
    "lodsb": "ac", "lodsw": "66ad", "lodsd": "ad", "lodsq": "48ad",
    "scasb": "ae", "scasw": "66af", "scasd": "af", "scasq": "48af",
    "insb": "6c", "insw": "666d", "insd": "6d", "outsb": "6e", "outsw": "666f", "outsd": "6f",
    "ret": "c3", "retf": "cb", "retfq": "48cb", "retf16": "66cb", "leave16": "66c9",
    "f2xm1": "d9f0", "fabs": "d9e1", "fchs": "d9e0", "fnclex": "dbe2", "fcos": "d9ff",
    "fdecstp": "d9f6", "fincstp": "d9f7", "fninit": "dbe3", "fld1": "d9e8", "fldl2e": "d9ea",
    "fldl2t": "d9e9", "fldlg2": "d9ec", "fldln2": "d9ed", "fldpi": "d9eb", "fldz": "d9ee",
    "fnop": "d9d0", "fpatan": "d9f3", "fprem": "d9f8", "fprem1": "d9f5", "fptan": "d9f2",
    "frndint": "d9fc", "fscale": "d9fd", "fsin": "d9fe", "fsincos": "d9fb", "fsqrt": "d9fa",
    "ftst": "d9e4", "fxam": "d9e5", "fxtract": "d9f4", "fyl2x": "d9f1", "fyl2xp1": "d9f9",
}  # fmt: skip
# With the number of bytes to drop
RETURN = {"ret": b"\xc2", "retf": b"\xca", "retfq": b"\x48\xca", "retf16": b"\x66\xca"}
# One memory operand: opcode, extension, REX.W
MEMORY = {
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
SYSTEM = {
    "sldt": (b"\x0f\x00", 0), "str": (b"\x0f\x00", 1), "lldt": (b"\x0f\x00", 2),
    "ltr": (b"\x0f\x00", 3), "verr": (b"\x0f\x00", 4), "verw": (b"\x0f\x00", 5),
    "smsw": (b"\x0f\x01", 4), "lmsw": (b"\x0f\x01", 6),
}  # fmt: skip
SYSTEM_SIZED = frozenset({"sldt", "str", "smsw"})
WAIT = {"tpause": b"\x66", "umonitor": b"\xf3", "umwait": b"\xf2"}
LOAD_POINTER = {"lss": 0xB2, "lfs": 0xB4, "lgs": 0xB5}
MEMORY_66 = {"clflushopt": (b"\x0f\xae", 7), "clwb": (b"\x0f\xae", 6)}
FSBASE = {"rdfsbase": 0, "rdgsbase": 1, "wrfsbase": 2, "wrgsbase": 3}
