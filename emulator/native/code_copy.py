"""A copy of a program's code, with something of ours before every instruction.

Instructions are copied as they are; relative ones are encoded anew, branches lead to the copies,
CALL pushes the address that it has in the program. Of some instructions there is no copy: a system
call, a string instruction with REP, x87, an indirect branch, other code. The child stops before
them.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Final

from emulator.memory import PAGE
from emulator.native.probe import (
    CODE,
    CONTROL,
    DISPATCH,
    ENTER,
    LEAVE,
    PROBE,
    STACK,
    TARGET,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_STUBS: Final = PAGE

_SAVE_RSP: Final = b"\x48\x89\x24\x25" + CONTROL.to_bytes(4, "little")  # MOV [RSP word], RSP
_OWN_STACK: Final = b"\x48\xc7\xc4" + STACK.to_bytes(4, "little")  # MOV RSP, STACK
_POP_TARGET: Final = b"\x8f\x04\x25" + (CONTROL + 8 * TARGET).to_bytes(4, "little")
PUSH: Final = b"\x68"
_CALL: Final = b"\xe8"
JUMP: Final = b"\xe9"
_RET: Final = b"\xc3"

# What is copied: instructions of these sets of features, but for a few.
PLAIN: Final = frozenset((
    "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CMOV", "SSE", "SSE2",
    "SSE3", "SSSE3", "SSE4_1", "SSE4_2", "POPCNT", "CX8", "CX16", "MULTIBYTENOP", "ADX",
))  # fmt: skip
_OTHERS: Final = frozenset((
    "POPFQ", "POPF", "INSB", "INSW", "INSD", "OUTSB", "OUTSW", "OUTSD", "IN", "OUT", "CPUID",
    "LAR", "LSL", "VERR", "VERW", "SGDT", "SIDT", "SLDT", "SMSW", "STR", "FXSAVE", "FXRSTOR",
    "FXSAVE64", "FXRSTOR64", "ENTER", "XLATB", "RSM",
))  # fmt: skip
_SEGMENTS: Final = frozenset(("ES", "CS", "SS", "DS", "FS", "GS"))


class _Iced:
    """iced-x86, and its names; loaded when the first program is copied."""

    def __init__(self) -> None:
        import iced_x86

        self.iced = iced_x86
        self.mnemonics = _names(iced_x86.Mnemonic)
        self.registers = _names(iced_x86.Register)
        self.features = _names(iced_x86.CpuidFeature)


def _names(of: object) -> dict[int, str]:
    return {value: name for name, value in vars(of).items() if isinstance(value, int)}


class Copy:
    """The copy of a program's code: its bytes from CODE on, and where each instruction stands.

    `stubs` stand before it; `features` are the sets of instructions that it has copies of.
    """

    def __init__(
        self, instructions: Iterable[tuple[int, bytes]], features: frozenset[str], stubs: bytes
    ) -> None:
        self._iced = _Iced()
        self._features = features
        self.made = bytearray(stubs)
        self.places: dict[int, int] = {}  # by PC
        self.behind_calls: set[int] = set()  # PCs
        self._branches: list[tuple[int, int]] = []  # where a displacement stands, and its PC
        following = None
        for pc, code in instructions:
            if following is not None and pc != following:
                self._branch(JUMP, following)
            self.places[pc] = CODE + len(self.made)
            self._instruction(pc, code)
            following = pc + len(code)
        if following is not None:
            self._branch(JUMP, following)
        self._end()
        for pc in sorted({pc for _, pc in self._branches} - self.places.keys()):
            self.places[pc] = CODE + len(self.made)
            self._leave(pc)
        for at, pc in self._branches:
            self._displace(at, self.places[pc])
        self._sorted = sorted((place, pc) for pc, place in self.places.items())

    # What a copy is for: pieces of code.

    def _enter(self, pc: int) -> None:
        """Stands before the copy of an instruction."""
        raise NotImplementedError

    def _leave(self, pc: int) -> None:
        """Stands in the place of an instruction that has no copy."""
        raise NotImplementedError

    def _return(self, pc: int) -> None:
        """Stands in the place of RET."""
        raise NotImplementedError

    def _end(self) -> None:
        """Stands behind all instructions."""

    def pc(self, place: int) -> int:
        """The PC whose copy holds an address."""
        return self._sorted[bisect.bisect_right(self._sorted, (place, 1 << 64)) - 1][1]

    def _displace(self, at: int, place: int) -> None:
        self.made[at : at + 4] = (place - CODE - at - 4).to_bytes(4, "little", signed=True)

    def _branch(self, opcode: bytes, pc: int) -> None:
        self.made += opcode + bytes(4)
        self._branches.append((len(self.made) - 4, pc))

    def _instruction(self, pc: int, code: bytes) -> None:
        iced = self._iced.iced
        instruction = iced.Decoder(64, code, ip=pc).decode()
        flow, kind = instruction.flow_control, iced.FlowControl
        if flow == kind.NEXT and self._is_copied(instruction):
            self._enter(pc)
            if instruction.is_ip_rel_memory_operand:
                encoder = iced.Encoder(64)
                encoder.encode(instruction, CODE + len(self.made))
                code = encoder.take_buffer()
            self.made += code
        elif flow == kind.CONDITIONAL_BRANCH and (condition := _condition(code)) is not None:
            self._enter(pc)
            self._branch(bytes((0x0F, 0x80 | condition)), instruction.near_branch_target)
        elif flow == kind.UNCONDITIONAL_BRANCH and code[0] in (0xE9, 0xEB):
            self._enter(pc)
            self._branch(JUMP, instruction.near_branch_target)
        elif flow == kind.CALL and code[0] == 0xE8:
            self._enter(pc)
            self.behind_calls.add(pc + len(code))
            self.made += PUSH + (pc + len(code)).to_bytes(4, "little", signed=True)
            self._branch(JUMP, instruction.near_branch_target)
        elif flow == kind.RETURN and code == _RET:
            self._enter(pc)
            self._return(pc)
        else:
            self._leave(pc)

    def _is_copied(self, instruction: Any) -> bool:
        iced = self._iced
        name = iced.mnemonics[instruction.mnemonic]
        registers = {
            iced.registers[instruction.op_register(i)] for i in range(instruction.op_count)
        }
        return (
            {iced.features[feature] for feature in instruction.cpuid_features()} <= self._features
            and name not in _OTHERS
            and not instruction.has_rep_prefix
            and not instruction.has_repne_prefix
            and not instruction.is_privileged
            and not registers & _SEGMENTS
            and not any(register.startswith(("MM", "CR", "DR", "TR")) for register in registers)
        )


class ProbedCopy(Copy):
    """A copy in which the probe (emulator.native.probe) records every boundary; without AVX."""

    def __init__(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        super().__init__(instructions, PLAIN, PROBE.ljust(_STUBS, b"\0"))

    def _enter(self, pc: int) -> None:
        self._call(pc, ENTER)

    def _leave(self, pc: int) -> None:
        self._call(pc, LEAVE)

    def _return(self, pc: int) -> None:  # noqa: ARG002  # the probe finds the way
        self.made += _POP_TARGET + JUMP + bytes(4)
        self._displace(len(self.made) - 4, CODE + DISPATCH)

    def _call(self, pc: int, entry: int) -> None:
        """Has the probe look at a boundary."""
        pushed = PUSH + pc.to_bytes(4, "little", signed=True)
        self.made += _SAVE_RSP + _OWN_STACK + pushed + _CALL + bytes(4)
        self._displace(len(self.made) - 4, CODE + entry)


def _condition(code: bytes) -> int | None:
    """The condition of Jcc; None for LOOP, JRCXZ and what has prefixes."""
    if 0x70 <= code[0] <= 0x7F:
        return code[0] & 15
    if code[0] == 0x0F and 0x80 <= code[1] <= 0x8F:
        return code[1] & 15
    return None
