"""The real processor at full speed up to an exact number of instructions.

A second fenced child has a machine's memory and a copy of its program's code
(emulator.native.code_copy) in which every instruction is counted before it is executed. The counter
is MM7, and MM6 keeps RCX meanwhile, so neither flags nor memory are touched: what has a copy uses
no x87 or MMX register, and the child's are put back behind it. The copy can be executed and not
read, by a protection key (pkeys(7)). Whatever the copy cannot do, or faults in, is left to whoever
steps.

Rejected: the performance counter of retired instructions, which virtual machines rarely have and
which stops late; PTRACE_SINGLEBLOCK, which steps single instructions where a hypervisor has no BTF.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from emulator.host_cpuid import cpuid
from emulator.memory import PAGE, Memory, Prot
from emulator.native.code_copy import JUMP, PLAIN, Copy
from emulator.native.fenced_child import OWN, FencedChild
from emulator.native.probe import CODE
from emulator.native.ptrace import Request
from emulator.registers import LAYOUT, Flags, Registers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FEATURES: Final = PLAIN | {
    "AES", "AVX", "AVX2", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512F", "AVX512VL", "BMI1", "BMI2",
    "F16C", "FMA", "LZCNT", "MOVBE", "PCLMULQDQ",
}  # fmt: skip
_OSPKE: Final = 1 << 4  # in ECX of CPUID leaf 7: the kernel has protection keys
_X87: Final = slice(LAYOUT["FCW"][0], LAYOUT["XMM0"][0])
_COUNTER: Final = "ST7"  # MM7 is its low half
_U64: Final = 2**64 - 1
_FEW: Final = 32  # instructions that are as quickly stepped
_LONGEST: Final = 1000

_INT3: Final = b"\xcc"
_KEEP: Final = b"\x48\x0f\x6e\xf1"  # MOVQ MM6, RCX
_GIVE_BACK: Final = b"\x48\x0f\x7e\xf1"  # MOVQ RCX, MM6
_OUT: Final = _GIVE_BACK + _INT3
# A counter that has become negative has all bits of its top byte set. No flag changes.
_COUNT: Final = (
    _KEEP + b"\x48\x0f\x7e\xf9"  # MOVQ RCX, MM7
    b"\x48\x8d\x49\xff"  # LEA RCX, [RCX - 1]
    b"\x48\x0f\x6e\xf9"  # MOVQ MM7, RCX
    b"\x48\x0f\xc9"  # BSWAP RCX
    b"\x0f\xb6\xc9"  # MOVZX ECX, CL
    b"\xe3"  # JRCXZ over what stops
     + bytes((len(_OUT),)) + _OUT + _GIVE_BACK
)
_RETURN: Final = _KEEP + b"\x48\x8b\x0c\x24"  # MOV RCX, [RSP], which may fault: nothing has changed
_NOTE: Final = b"\x48\x0f\x6e\xe1\xb9"  # MOVQ MM4, RCX; MOV ECX, the PC of RET
_NOTED: Final = b"\x48\x0f\x6e\xe9\x48\x0f\x7e\xe1"  # MOVQ MM5, RCX; MOVQ RCX, MM4
_RET_AT: Final = "ST5"
_SUBTRACT: Final = b"\x48\x8d\x89"  # LEA RCX, [RCX + displacement]
_FOUND: Final = b"\x48\x8d\x64\x24\x08" + _GIVE_BACK  # LEA RSP, [RSP + 8]
_NEXT: Final = b"\xe3\x02\xeb" + bytes((len(_FOUND) + 5,))  # JRCXZ there; JMP to the next one


class CountedCopy(Copy):
    """A copy that counts. `stops` are its INT3s: the PC that they stand for, and if it counted."""

    def __init__(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        self.stops: dict[int, tuple[int | None, bool]] = {}
        self._returns: list[int] = []  # where displacements to `_end` stand
        super().__init__(instructions, _FEATURES, b"")

    def _enter(self, pc: int) -> None:
        self.made += _COUNT
        self._stop_at(len(self.made) - len(_GIVE_BACK) - 1, pc, counted=True)

    def _leave(self, pc: int) -> None:
        self.made += _INT3
        self._stop_at(len(self.made) - 1, pc, counted=False)

    def _stop_at(self, at: int, pc: int | None, *, counted: bool) -> None:
        self.stops[CODE + at] = pc, counted

    def _return(self, pc: int) -> None:
        self.made += _RETURN + _NOTE + pc.to_bytes(4, "little") + _NOTED + JUMP + bytes(4)
        self._returns.append(len(self.made) - 4)

    def _end(self) -> None:
        """Where RET goes on: behind one of the CALLs, or nowhere here."""
        for at in self._returns:
            self._displace(at, CODE + len(self.made))
        behind = 0
        for pc in sorted(self.behind_calls & self.places.keys()):
            self.made += _SUBTRACT + (behind - pc).to_bytes(4, "little", signed=True)
            self.made += _NEXT + _FOUND
            self._branch(JUMP, pc)
            behind = pc
        self.made += _OUT
        self._stop_at(len(self.made) - 1, None, counted=True)


class _CountedRun:
    """The child, and its copy of these instructions.

    Raises NativeUnavailableError, and ValueError where the guest's memory is in the way.
    """

    def __init__(self, memory: Memory, instructions: Iterable[tuple[int, bytes]]) -> None:
        self._copy = copy = CountedCopy(instructions)
        shared = Memory()
        for region in memory.regions:
            shared.share(region)
        code = bytes(copy.made).ljust(-(-len(copy.made) // PAGE) * PAGE, _INT3)
        shared.map("counted copy", CODE, len(code), Prot.EXEC).view[:] = code
        self._child = FencedChild(shared)
        self.places = copy.places  # of the instructions that it begins at, by PC

    def close(self) -> None:
        """Ends the child."""
        self._child.close()

    def run(self, registers: Registers, count: int) -> int:
        """See `FullSpeed.run`."""
        child, entry = self._child, registers.copy()
        entry.block[_X87] = Registers().block[_X87]
        entry[_COUNTER] = count
        entry["RIP"] = self.places[registers["RIP"]]
        child.load(entry)
        halt = child.go(Request.CONT)
        while halt.signo not in OWN or halt.code <= 0:
            halt = child.go(Request.CONT)  # a signal that somebody has sent: it is lost
        child.save(entry)
        rip, counted = entry["RIP"], True
        if halt.signo == signal.SIGTRAP:
            pc, counted = self._copy.stops[rip - 1]
            entry["RIP"] = entry[_RET_AT] & _U64 if pc is None else pc
        else:
            entry["RIP"] = self._copy.pc(rip)
            entry["RFLAGS"] &= ~Flags.RF  # which a fault sets in what it stores
        left = (entry[_COUNTER] & _U64) + counted & _U64
        entry.block[_X87] = registers.block[_X87]
        registers.block[:] = entry.block
        registers.extended = entry.extended
        return count - left


class FullSpeed:
    """Runs a program's code in the memory of a machine, where that is possible.

    `rest` is how many instructions somebody else should execute before the next run: more and more
    where runs come to nothing.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.rest = 1
        self._program: list[tuple[int, bytes]] = []
        self._made: _CountedRun | None = None

    @property
    def loaded(self) -> bool:
        """Whether there is any code that it may run."""
        return bool(self._program)

    def load(self, instructions: Iterable[tuple[int, bytes]]) -> None:
        """Adds to the program: (address, bytes) each, in memory already and below 2 GiB."""
        if cpuid(7)[2] & _OSPKE:
            self._program += instructions
            self.close()

    def forget(self, address: int | None = None) -> None:
        """Somebody will want to stop at an address, or has changed what is known of many."""
        if self._made is not None and (address is None or address in self._made.places):
            self.close()

    def close(self) -> None:
        """Ends the child; the next run makes another."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def begins_at(self, rip: int, is_plain: Callable[[int], bool]) -> bool:
        """Whether `run` can begin there.

        `is_plain` says of the program's addresses whether they may be run through: the guest cannot
        write there, and nobody stops before them.
        """
        if self._made is None and self._program:
            read = self.memory.read
            try:
                plain = [
                    (pc, code)
                    for pc, code in self._program
                    if is_plain(pc) and read(pc, len(code)) == code
                ]
                self._made = _CountedRun(self.memory, plain)
            except ValueError:  # the guest has something in its place
                self._program.clear()
        return self._made is not None and rip in self._made.places

    def run(self, registers: Registers, count: int) -> int:
        """Executes up to `count` instructions; returns how many.

        Fewer: somebody else must execute the next one. TF must not be set.
        """
        assert self._made is not None
        executed = self._made.run(registers, count)
        self.rest = 1 if executed > _FEW else min(4 * self.rest, _LONGEST)
        return executed
