"""A call of one function of a Go executable, in the model: its code, and its own asyncPreempt.

Nothing of the executable's runtime has been initialised: variables are as in the file, g, m and p
are the model's. Its code lies where the linker put it, the model below it. What that code needs of
the runtime is detoured to the model: asyncPreempt2 and morestack. A system call ends the call: what
the kernel says depends on all that was before.

A position-independent executable lies where others do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

from asm.image import Function, Image, Segment
from emulator.disassembly import disassemble
from emulator.memory import PAGE
from runtime_model.executable import ExecutableCode, ExecutableTable
from runtime_model.moduledata import GoBinary
from runtime_model.trampoline import CALLEE, CPUS, NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runtime_model.version import GoVersion

# What the linker leaves free below the program: memory for arguments to point at, then the model.
SCRATCH: Final = 0x1_0000
SCRATCH_SIZE: Final = 0x10_0000
SHIFT: Final = -0x28_0000  # of the model's code and data
LOWEST: Final = 0x40_0000  # the linker's -T
HIGHEST: Final = 0x0F00_0000

_DETOURED: Final = ("runtime.morestack", "runtime.morestack_noctxt")
# What GOEXPERIMENT=simd asks internal/cpu.X86 for, in this order.
_ASKED: Final = ("AVX512", "AVX2")
_FEATURE: Final = re.compile(r"cmp byte ptr \[rip \+ (0x[0-9a-f]+)\], 1")
_JMP: Final = b"\xe9"  # JMP rel32
_JMP_SIZE: Final = 5
_SYSCALL: Final = re.compile(rb"\x0f\x05")


class CannotCallError(ValueError):
    """An executable whose functions cannot be called apart; the message says why."""


@dataclass(frozen=True)
class Call:
    """A function by its address in the file, and what it is called with.

    registers: by architectural name, at its first instruction. words: on the stack, behind the
    return PC. cpu: one of trampoline.CPUS, whose features asyncPreempt finds in internal/cpu.X86;
    empty: as in the file.
    """

    path: Path
    version: GoVersion
    entry: int
    registers: tuple[tuple[str, int], ...] = ()
    words: tuple[int, ...] = ()
    cpu: str = ""


class Executable:
    """The executable as a runtime of the model has it. Raises CannotCallError."""

    def __init__(self, binary: GoBinary, cpu: str = "") -> None:
        self.cpu = cpu
        self.base = LOWEST if binary.elf.position_independent else 0
        self.code = ExecutableCode(binary, self.base)
        self.table = ExecutableTable(binary, self.base)
        self.asyncPreempt = self._asyncPreempt()
        self.callee = self._callee()

    @property
    def trampoline(self) -> Image:
        """asyncPreempt, to be known by name; it is loaded with the rest."""
        return Image((self.asyncPreempt,), (), ())

    @property
    def watched(self) -> list[tuple[int, int]]:
        """The ranges that are the runtime's, not the program's: the way to the model's."""
        function = self.asyncPreempt
        return [(function.address, function.end), (self.callee, self.callee + _JMP_SIZE)]

    @cached_property
    def system_calls(self) -> list[int]:
        """Where a SYSCALL may stand in its code; some of these are parts of other instructions."""
        binary, table = self.code.binary, self.code.binary.table
        code = bytes(binary.code(table.start, table.end))
        return [table.start + self.base + found.start() for found in _SYSCALL.finditer(code)]

    def load(self, symbols: Mapping[str, int]) -> None:
        """Makes the segments, detours to the runtime of these symbols included."""
        elf = self.code.binary.elf
        features = self._features()
        relocations = list(elf.relocations()) if self.base else []
        detours = self.detours(symbols)
        found = []
        for number, each in enumerate(elf.segments):
            start = each.address & -PAGE
            if start + self.base < LOWEST or each.address + each.size + self.base > HIGHEST:
                raise CannotCallError(
                    f"{elf.path}: a segment at {start:#x}: only what lies from {LOWEST:#x} to "
                    f"{HIGHEST:#x} can be called"
                )
            data = bytearray(each.address - start + each.size)
            skip = each.address - start
            data[skip : skip + each.file_size] = elf.view(each.address, each.file_size)
            for place, value in relocations:
                if start <= place < start + len(data):
                    data[place - start : place - start + 8] = (value + self.base).to_bytes(
                        8, "little"
                    )
            for address, jump in detours:
                at = address - self.base - start
                if 0 <= at < len(data):
                    data[at : at + len(jump)] = jump
            for address, value in features:
                at = address - self.base - start
                if 0 <= at < len(data):
                    data[at] = value
            found.append(
                Segment(
                    f"{elf.path.name} {number}",
                    start + self.base,
                    bytes(data),
                    each.writable,
                    each.executable,
                )
            )
        found.append(Segment("scratch", SCRATCH, bytes(SCRATCH_SIZE), True, False))
        self.code.segments = tuple(found)

    def standing(self, symbols: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """(address, bytes) of asyncPreempt, and of the detours to these symbols."""
        return [(self.asyncPreempt.address, self._bytes()), *self.detours(symbols)]

    def detours(self, symbols: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """(address, JMP) of the functions that the model is called for, as far as it has them."""
        table = self.code.binary.table
        places = [(self.callee, CALLEE)]
        for name in _DETOURED:
            places += [(f.entry + self.base, name) for f in table.named(name) if f.name == name]
        return [
            (address, _jump(address, symbols[name])) for address, name in places if name in symbols
        ]

    def _bytes(self) -> bytes:
        function = self.asyncPreempt
        return bytes(self.code.binary.code(function.address - self.base, function.end - self.base))

    def _features(self) -> list[tuple[int, bool]]:
        """Where asyncPreempt looks for AVX-512 and then for AVX2, and what it is to find."""
        if not self.cpu:
            return []
        code = disassemble(self._bytes(), self.asyncPreempt.address)
        places = [
            each.address + each.size + int(found[1], 0)
            for each in code
            if (found := _FEATURE.fullmatch(each.text))
        ]
        asked = list(dict.fromkeys(places))
        if len(asked) != len(_ASKED):
            raise CannotCallError(
                f"{self.code.binary.path}: asyncPreempt saves the same on each processor: it was "
                "not built with GOEXPERIMENT=simd"
            )
        has = CPUS[self.cpu]
        return [(place, name in has) for place, name in zip(asked, _ASKED, strict=True)]

    def _asyncPreempt(self) -> Function:
        found = self.code.function(NAME)
        if found is None:
            raise CannotCallError(f"{self.code.binary.path}: no asyncPreempt in it")
        return found

    def _callee(self) -> int:
        """What asyncPreempt calls: asyncPreempt2, or its wrapper for ABI0."""
        targets = {
            int(each.text.rpartition(" ")[2], 16)
            for each in disassemble(self._bytes(), self.asyncPreempt.address)
            if each.mnemonic == "call"
        }
        if len(targets) != 1:
            raise CannotCallError(
                f"{self.code.binary.path}: asyncPreempt calls {len(targets)} functions, not one"
            )
        return targets.pop()


def _jump(address: int, target: int) -> bytes:
    return _JMP + (target - address - _JMP_SIZE).to_bytes(4, "little", signed=True)


@lru_cache(maxsize=2)
def executable_of(path: Path, version: GoVersion, cpu: str = "") -> Executable:
    """The executable in a file, and on a processor as `Call.cpu` says; read once."""
    return Executable(GoBinary(path, version), cpu)
