"""Runs a loop of a Go binary by itself, in Unicorn, entered at its head with made-up registers.

The binary is mapped but not started. Registers point into one arena, memory is mapped as it is
touched, and in front of a conditional branch the flags (or RCX) are made up, too, so that it stays
in the loop; where both ways stay, chance takes one. Calls are followed: g.stackguard0 is
stackPreempt, so that a stack check goes to morestack. What Unicorn cannot execute (AVX-512, a
division by 0, a store to the code) is stepped over: no value decides here what comes next.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import unicorn
from iced_x86 import ConditionCode, FlowControl, Mnemonic
from unicorn import x86_const

from pushcall.audit.control_flow import is_repeated
from runtime_model import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_model.moduledata import GoBinary

PAGE: Final = 4096
ARENA: Final = 0x6000_0000_0000
ARENA_SIZE: Final = 0x40_0000
STACK: Final = ARENA + 0x1000_0000
G: Final = STACK + 0x100_0000
STACK_PREEMPT: Final = 0xFFFF_FFFF_FFFF_FADE
LONGEST_ROUND: Final = 20_000  # instructions, of calls included
LONGEST_CALL: Final = 3_000
_NAMES: Final = "RAX RBX RCX RDX RSI RDI RBP R8 R9 R10 R11 R12 R13 R15"
_REGISTERS: Final = [getattr(x86_const, f"UC_X86_REG_{name}") for name in _NAMES.split(" ")]
# The flags that make a condition true, and others that make it false: CF 1, PF 4, ZF 0x40,
# SF 0x80, OF 0x800 (Intel's manual, volume 1, appendix B).
_FLAGS: Final = {
    ConditionCode.O: (0x800, 0),
    ConditionCode.NO: (0, 0x800),
    ConditionCode.B: (1, 0),
    ConditionCode.AE: (0, 1),
    ConditionCode.E: (0x40, 0),
    ConditionCode.NE: (0, 0x40),
    ConditionCode.BE: (0x41, 0),
    ConditionCode.A: (0, 1),
    ConditionCode.S: (0x80, 0),
    ConditionCode.NS: (0, 0x80),
    ConditionCode.P: (4, 0),
    ConditionCode.NP: (0, 4),
    ConditionCode.L: (0x80, 0),
    ConditionCode.GE: (0, 0x80),
    ConditionCode.LE: (0x40, 0),
    ConditionCode.G: (0, 0x40),
}


@dataclass
class Round:
    """One way round a loop: the PCs executed, and what became of its calls."""

    executed: list[int] = field(default_factory=list)
    stack_checks: list[int] = field(default_factory=list)  # calls that ended in morestack
    indirect_calls: list[int] = field(default_factory=list)  # not followed
    unfinished_calls: list[int] = field(default_factory=list)  # too long to be run to their end
    stepped_over: int = 0


class LoopRunner:
    """One binary, mapped for running loops of it."""

    def __init__(self, binary: GoBinary, seed: int) -> None:
        self._chance = random.Random(seed)
        self._morestack = [f for f in binary if f.name.startswith("runtime.morestack")]
        uc = self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        mapped = 0
        for segment in sorted(binary.elf.segments, key=lambda s: s.address):
            start = max(mapped, segment.address // PAGE * PAGE)
            mapped = max(mapped, (segment.address + segment.size + PAGE - 1) // PAGE * PAGE)
            prot = unicorn.UC_PROT_ALL if segment.writable else 5  # read and execute
            if mapped > start:
                uc.mem_map(start, mapped - start, prot)
            uc.mem_write(
                segment.address, bytes(binary.elf.view(segment.address, segment.file_size))
            )
        uc.mem_map(ARENA, ARENA_SIZE)
        uc.mem_map(STACK, 0x10_0000)
        uc.mem_map(G - PAGE, 2 * PAGE)
        where = layout.load(binary.version.number)
        for name in ("stackguard0", "stackguard1"):
            at = G + where.offset("g", name)
            uc.mem_write(at, struct.pack("<Q", STACK_PREEMPT))
        uc.mem_write(G - 8, struct.pack("<Q", G))
        uc.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._touch)

    @staticmethod
    def _touch(uc: Any, _: int, address: int, size: int, *__: object) -> bool:
        first = address // PAGE * PAGE
        last = (address + size - 1) // PAGE * PAGE
        for page in {first, last}:
            try:
                uc.mem_map(page, PAGE)
            except unicorn.UcError:
                return False  # not canonical, or wrapped round
        return True

    def go_round(
        self,
        head: int,
        inside: set[int],
        at: dict[int, Any],
        successors: Callable[[int], list[int]],
    ) -> Round | None:
        """From the head through the loop's instructions, `inside`, back to it; None if it fails.

        `at` are the function's instructions by address, `successors` where one may lead.
        """
        write = self._uc.reg_write
        for register in _REGISTERS:
            write(register, ARENA + self._chance.randrange(ARENA_SIZE // 64) * 32)
        write(x86_const.UC_X86_REG_R14, G)
        write(x86_const.UC_X86_REG_FS_BASE, G)
        write(x86_const.UC_X86_REG_EFLAGS, 2)
        result = Round()
        pc = head
        while len(result.executed) < LONGEST_ROUND:
            write(x86_const.UC_X86_REG_RSP, STACK + 0x8_0000)
            each = at[pc]
            ways = [to for to in successors(pc) if to in inside]
            if not ways:
                return None
            pc = self._step(each, self._chance.choice(ways), result)
            if pc == head:
                return result
        return None

    def _step(self, each: Any, way: int, result: Round) -> int:
        """Executes one instruction of the loop, and what it calls; `way` is where it is to lead."""
        result.executed.append(each.ip)
        flow = each.flow_control
        if flow == FlowControl.INDIRECT_CALL:
            result.indirect_calls.append(each.ip)
            return way
        if flow == FlowControl.INDIRECT_BRANCH:
            return way  # by a made-up index
        if flow == FlowControl.CONDITIONAL_BRANCH:
            self._decide(each, way == each.near_branch_target)
        if is_repeated(each):
            self._uc.reg_write(x86_const.UC_X86_REG_RCX, 2)
        pc = self._execute(each.ip, each.next_ip, result)
        if flow == FlowControl.CALL and pc != each.next_ip:
            self._follow(each, pc, result)
            return way
        while is_repeated(each) and pc == each.ip:
            pc = self._execute(pc, each.next_ip, result)
        if is_repeated(each):
            return way
        if pc == each.ip != way:  # an exception of the processor, of a division by 0
            result.stepped_over += 1
            return way
        assert pc == way, f"{each.ip:#x} went to {pc:#x}, not {way:#x}"
        return pc

    def _decide(self, branch: Any, taken: bool) -> None:
        if branch.mnemonic in (Mnemonic.LOOP, Mnemonic.JRCXZ):
            counts = branch.mnemonic == Mnemonic.LOOP
            self._uc.reg_write(x86_const.UC_X86_REG_RCX, 5 if taken == counts else int(counts))
            return
        flags = _FLAGS[branch.condition_code][0 if taken else 1]
        self._uc.reg_write(x86_const.UC_X86_REG_EFLAGS, 2 | flags)

    def _execute(self, pc: int, next_pc: int, result: Round) -> int:
        try:
            self._uc.emu_start(pc, 1 << 63, count=1)
        except unicorn.UcError:
            result.stepped_over += 1
            return next_pc
        return int(self._uc.reg_read(x86_const.UC_X86_REG_RIP))

    def _follow(self, call: Any, pc: int, result: Round) -> None:
        """Runs a called function until it returns, checks its stack in vain, or takes too long."""
        for _ in range(LONGEST_CALL):
            if pc == call.next_ip:
                return
            if any(f.entry <= pc < f.end for f in self._morestack):
                result.stack_checks.append(call.ip)
                return
            result.executed.append(pc)
            try:
                self._uc.emu_start(pc, 1 << 63, count=1)
            except unicorn.UcError:
                break  # nothing tells here where to go on
            pc = int(self._uc.reg_read(x86_const.UC_X86_REG_RIP))
        result.unfinished_calls.append(call.ip)
