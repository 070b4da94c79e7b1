"""Random instructions on an engine and on the real processor, compared after each step."""

from __future__ import annotations

import ctypes
import math
import random
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import avx_forms
from instruction_forms import GROUPS, Instruction, edge, encode, undefined_flags

from emulator import extended
from emulator.disassembly import disassemble
from emulator.fault import FaultKind
from emulator.hooks import host_address
from emulator.memory import Memory, Prot
from emulator.native.cpu import NativeCpu
from emulator.registers import ARITHMETIC_FLAGS, GENERAL, SIZE, ST, XMM, Flags, Registers
from emulator.unicorn_cpu import UnicornCpu

if TYPE_CHECKING:
    from emulator.cpu import Stop, StopReason

CODE = 0x10_0000_0000
DATA = CODE + 0x10000
POINTER = DATA + 0x200  # RBX
STACK = DATA + 0x800  # RSP
USED = 0x1000
SEQUENCE = 8  # instructions
# Each lies in a slot of its own, which nothing leaves: an engine translates no further.
SLOT = 32
UD2 = b"\x0f\x0b"
_BLANK = bytes(SIZE)

FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, 3.0, 1e-310, 5e-324, 2.2250738585072014e-308,
    1.7976931348623157e308, float("inf"), float("-inf"), float("nan"), 2.0**31, -(2.0**31) - 1,
    2.0**63, -(2.0**63), 1e20, 0.1, 123456.789,
)  # fmt: skip
MXCSR_FLAGS = 0x3F
FSW_FLAGS = 0x82FF  # B, C1, ES, SF and the exception flags
FSW_CODES = 0x4500  # C3, C2, C0: undefined behind all that does not compare (SDM 1, 8.1.3)
COMPARING = re.compile(r"fu?com|ftst|fxam|fnst|fld[a-z]|fn|ff|fxch")
# SSE arithmetic: which of two NaNs comes out is not modelled (emulator.fence).
NAN_OPCODES = frozenset({0x51, 0x58, 0x59, 0x5A, 0x5C, 0x5E, 0x7C, 0x7D, 0xD0})


def slot(code: bytes) -> bytes:
    """An instruction and what fills its slot."""
    return (code + UD2 * SLOT)[:SLOT]


def forgive_nans(instruction: Instruction, mine: Registers, theirs: Registers) -> None:
    """Makes XMM lanes equal that are NaNs on both sides, behind arithmetic of floats."""
    opcode = instruction.form.opcode
    if instruction.form.size != "x" or (opcode[1] not in NAN_OPCODES and opcode[1] != 0x3A):
        return
    for name in XMM:
        if mine[name] != theirs[name]:
            for width, exponent in ((64, 0x7FF << 52), (32, 0xFF << 23)):
                mask = (1 << width - 1) - 1
                value = mine[name]
                for shift in range(0, 128, width):
                    lanes = [(v >> shift) & mask for v in (value, theirs[name])]
                    if min(lanes) > exponent:
                        lane = ((1 << width) - 1) << shift
                        value = value & ~lane | theirs[name] & lane
                if value == theirs[name]:
                    mine[name] = value


@dataclass
class Difference:
    """One instruction with its inputs, and what came out on both sides."""

    code: bytes
    text: str
    what: str
    before: Registers
    engine: Registers
    native: Registers

    def __str__(self) -> str:
        lines = [f"{self.code.hex()}  {self.text}: {self.what}"]
        lines += [
            f"  {name}: {self.before[name]:#x} -> engine {self.engine[name]:#x},"
            f" processor {self.native[name]:#x}"
            for name in self.engine.diff(self.native)
        ]
        return "\n".join(lines)


@dataclass
class Differential:
    """Both processors, in memories with the same addresses and content."""

    seed: int
    groups: tuple[str, ...] = tuple(GROUPS)
    steps: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.memories = [Memory() for _ in range(2)]
        for memory in self.memories:
            memory.map("code", CODE, 0x1000, Prot.RX)
            memory.map("constants", DATA - 0x1000, 0x1000, Prot.READ)
            memory.map("data", DATA, 0x1000, Prot.RW)
        self.engine = UnicornCpu(self.memories[0])
        self.native = NativeCpu(self.memories[1])
        self.forms = {
            group: [
                form
                for form in GROUPS[group]
                if form.kind != "avx" or not avx_forms.needs(form.code) & ~self.native.features
            ]
            for group in self.groups
        }
        # By name what this processor has not got.
        self.missing = sorted(
            avx_forms.NAMES[form.code]
            for group in self.groups
            for form in GROUPS[group]
            if form not in self.forms[group]
        )
        self.groups = tuple(group for group in self.groups if self.forms[group])
        self.states = [self.state() for _ in range(128)]
        self.contents = [self.content() for _ in range(32)]
        self.data = [memory.locate(DATA, USED)[0][:USED] for memory in self.memories]
        self._places = [host_address(view) for view in self.data]
        self._memcmp = ctypes.CDLL(None).memcmp
        self._memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

    def close(self) -> None:
        self.native.close()

    def run(self, steps: int, *, limit: int = 20) -> None:
        """Executes so many instructions, or stops after `limit` differences."""
        while self.steps < steps and len(self.differences) < limit:
            self.sequence()

    def random_float(self) -> bytes:
        rng = self.rng
        value = rng.choice(FLOATS) if rng.random() < 0.7 else rng.uniform(-1e3, 1e3)
        if rng.random() < 0.5:
            return struct.pack("<d", value)
        with_single = [1.0 if 3e38 < abs(value) < math.inf else value, rng.uniform(-9, 9)]
        rng.shuffle(with_single)
        return struct.pack("<ff", *with_single)

    def content(self) -> bytes:
        """What the data starts as."""
        rng = self.rng
        return b"".join(
            self.random_float() if rng.random() < 0.5 else edge(rng, 64).to_bytes(8, "little")
            for _ in range(0x500 // 8)
        )

    def state(self) -> Registers:
        """Random registers; the general ones and the numbers are at edges half of the time."""
        rng = self.rng
        registers = Registers()
        for name in GENERAL:
            registers[name] = edge(rng, 64)
        for name in XMM:
            if rng.random() < 0.5:
                pair = self.random_float() + self.random_float()
                registers[name] = int.from_bytes(pair, "little")
            else:
                registers[name] = rng.getrandbits(128)
        registers["RFLAGS"] = 0x202 | rng.getrandbits(12) & int(ARITHMETIC_FLAGS)
        registers["MXCSR"] = 0x1F80 | rng.randrange(4) << 13
        registers["FCW"] = 0x7F | rng.choice((0, 2, 3, 3, 3)) << 8 | rng.randrange(4) << 10
        if "x87" in self.groups:
            top = rng.randrange(8)
            depth = rng.randrange(6)
            registers["FSW"] = top << 11
            tags = 0xFFFF
            for i in range(depth):
                number = (top + i) % 8
                exponent = rng.choice(
                    (16383, 16384, 16382, 16383 + rng.randrange(-70, 70), 0, 0x7FFF)
                )
                mantissa = 1 << 63 | rng.getrandbits(63) if exponent else 0
                if exponent == 0x7FFF:
                    mantissa = 1 << 63 | rng.choice((0, 1 << 62))
                tags &= ~(3 << 2 * number)
                tags |= (1 if exponent == 0 else 2 if exponent == 0x7FFF else 0) << 2 * number
                registers[ST[number]] = rng.randrange(2) << 79 | exponent << 64 | mantissa
            registers["FTW"] = tags
        if self.native.features and rng.random() < 0.9:
            state = rng.randbytes(extended.SIZE)
            registers.extended = extended.only(state, self.native.features & extended.FEATURES)
            for i in range(8 if self.native.features & extended.OPMASK else 0):
                registers[f"K{i}"] = edge(rng, 64)
            registers["FS_BASE"], registers["GS_BASE"] = 32, 0x48
        registers["RBX"] = POINTER
        registers["RSP"] = STACK
        registers["RIP"] = CODE
        return registers

    def mixed(self) -> Registers:
        """The general registers of one prepared state with the others of a second one."""
        first, second = self.rng.choices(self.states, k=2)
        mixed = first.copy()
        mixed.block[:128] = second.block[:128]
        return mixed

    def draw(self) -> list[Instruction]:
        rng = self.rng
        group = rng.choice(self.groups)
        form = rng.choice(self.forms[group])
        instruction = encode(form, rng)
        setup: list[bytes] = []
        if form.kind == "string":
            ahead = [rng.randrange(0x80, 0x180) for _ in range(2)]
            setup = [
                b"\x48\x8d\xb3" + ahead[0].to_bytes(4, "little"),  # LEA RSI, [RBX + …]
                b"\x48\x8d\xbb" + ahead[1].to_bytes(4, "little"),  # LEA RDI, [RBX + …]
                b"\xb9" + rng.choice((0, 1, 2, 5)).to_bytes(4, "little"),  # MOV ECX, …
            ]
        elif form.kind == "leave":
            setup = [b"\x48\x8d\x6b\x40"]  # LEA RBP, [RBX + 64]
        elif form.kind == "mxcsr":
            value = 0x1F80 | rng.randrange(4) << 13
            setup = [b"\xc7\x43" + instruction.code[-1:] + value.to_bytes(4, "little")]
        elif form.kind == "fldcw":
            value = 0x7F | rng.choice((0, 2, 3)) << 8 | rng.randrange(4) << 10
            setup = [b"\x66\xc7\x43" + instruction.code[-1:] + value.to_bytes(2, "little")]
        plain = GROUPS["integer"][0]
        return [*(Instruction(code, plain, 0) for code in setup), instruction]

    def sequence(self) -> None:
        """Draws a sequence and steps through it."""
        listed: list[Instruction] = []
        while len(listed) < SEQUENCE:
            listed += self.draw()
        code = b"".join(slot(instruction.code) for instruction in listed)
        content = self.rng.choice(self.contents)
        for memory in self.memories:
            memory.write(CODE, code)
            memory.write(DATA, bytes(USED))
            memory.write(DATA + 0x180, content)
        self.engine.flush_code(CODE, len(code))
        self.native.flush_code(CODE, len(code))
        before = self.mixed()
        self.engine.load(before)
        self.native.load(before)
        for number, instruction in enumerate(listed):
            start = CODE + SLOT * number
            while before["RIP"] == start:  # again for each iteration of a string instruction
                before = self.step(instruction, before)

    def step(self, instruction: Instruction, before: Registers) -> Registers:
        """Steps both and compares; returns the state that both go on from, at the next slot."""
        start = before["RIP"]
        stop = self.engine.run(1, armed=False)
        after = Registers(_BLANK)
        self.engine.save(after)
        if stop.fault is not None and stop.fault.kind is FaultKind.REFUSED:
            self.refused[stop.fault.detail.split()[0]] += 1
            return self.skip(before)
        other = self.native.run(1, armed=False)
        theirs = Registers(_BLANK)
        self.native.save(theirs)
        self.steps += 1
        faulted = stop.fault is not None or other.fault is not None
        what = ""
        if self.outcome(stop) != self.outcome(other):
            what = f"engine {stop}, processor {other}"
        undefined = undefined_flags(instruction, before["RCX"] & 0xFF)
        if undefined:
            kept = theirs["RFLAGS"] & undefined
            after["RFLAGS"] = after["RFLAGS"] & ~undefined | kept
        iterates = theirs["RIP"] == start and not faulted
        if iterates and instruction.form.kind == "string":
            # Between iterations of REPE CMPS the processor shows the flags from before the first.
            theirs["RFLAGS"] = after["RFLAGS"]
        after["MXCSR"] = after["MXCSR"] & ~MXCSR_FLAGS | theirs["MXCSR"] & MXCSR_FLAGS
        if instruction.form.kind == "scan" and theirs["RFLAGS"] & Flags.ZF:
            after.block[:128] = theirs.block[:128]  # of zero: the destination is undefined
        ignore = FSW_FLAGS
        if instruction.form.size == "f":
            decoded = disassemble(instruction.code, 0, 1)
            ignore |= 0 if decoded and COMPARING.match(decoded[0].mnemonic) else FSW_CODES
        after["FSW"] = after["FSW"] & ~ignore | theirs["FSW"] & ignore
        if after.block != theirs.block:
            forgive_nans(instruction, after, theirs)
        different = after != theirs
        memory = self._memcmp(*self._places, USED) != 0
        if different or memory or what:
            code = self.memories[0].read(before["RIP"], 15)
            decoded = disassemble(code, before["RIP"], 1)
            if decoded:
                code = code[: decoded[0].size]
            text = decoded[0].text if decoded else ""
            what = what or ("memory" if memory and not different else "registers")
            if not what.startswith("registers") or after.diff(theirs):
                self.differences.append(Difference(code, text, what, before, after, theirs.copy()))
            self.data[0][:] = self.data[1]
        if faulted:
            return self.skip(theirs)
        if not iterates:
            theirs["RIP"] = start + SLOT
            self.native.load(theirs)
        self.engine.load(theirs)
        return theirs

    def outcome(self, stop: Stop) -> tuple[StopReason, FaultKind | None, int | None]:
        """What both must say of a step; where the fault is an exception, which one is not told."""
        fault = stop.fault
        if fault is None:
            return stop.reason, None, None
        return stop.reason, fault.kind, fault.address

    def skip(self, state: Registers) -> Registers:
        """Goes on behind the instruction at RIP."""
        state["RIP"] += SLOT
        self.engine.load(state)
        self.native.load(state)
        return state
