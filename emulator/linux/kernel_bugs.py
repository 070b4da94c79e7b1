"""Kernels that lose part of a signal's context on the way back, to be told from one that does not.

Each stands for a system that programs have met. They act where rt_sigreturn has taken all registers
from the frame, or where the frame has been built.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from emulator.linux.signal_frame import OFFSETS
from emulator.linux.uaccess import copy_from_user, copy_to_user
from emulator.registers import XMM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.linux.signal_frame import Frame
    from emulator.memory import Memory
    from emulator.registers import Registers


class KernelBug(Enum):
    """What such a kernel does wrong."""

    # Linux 5.2 with some compilers: the vectors are rubbish.
    DROPS_VECTORS = "sigreturn-drops-vectors"
    # FreeBSD: the vector area of 32-bit processes, which have XMM0 to XMM7; the others are rubbish.
    DROPS_HIGH_VECTORS = "sigreturn-drops-xmm8-15"
    # A kernel that does not know of AVX-512's mask registers.
    DROPS_MASKS = "sigreturn-drops-masks"
    # An emulator: the thread goes on where it was interrupted, whatever the handler wrote.
    IGNORES_RIP = "sigreturn-ignores-rip"


_MASKS: Final = tuple(f"K{i}" for i in range(8))
_DROPPED: Final = {
    KernelBug.DROPS_VECTORS: XMM,
    KernelBug.DROPS_HIGH_VECTORS: XMM[8:],
    KernelBug.DROPS_MASKS: _MASKS,
}
_RUBBISH: Final = 0xC3A5_C3A5_C3A5_C3A5_C3A5_C3A5_C3A5_C3A5
_RESERVED: Final = (
    OFFSETS["fpstate"] + 8
)  # sigcontext.reserved1, within struct ucontext: nothing reads it


def frame_built(bugs: Iterable[KernelBug], memory: Memory, frame: Frame, rip: int) -> None:
    """Keeps the interrupted RIP where the handler does not look for it."""
    if KernelBug.IGNORES_RIP in bugs:
        copy_to_user(memory, frame.ucontext + _RESERVED, rip.to_bytes(8, "little"))


def returned(
    bugs: Iterable[KernelBug], memory: Memory, ucontext: int, registers: Registers
) -> None:
    """Spoils what rt_sigreturn has restored."""
    for bug, names in _DROPPED.items():
        if bug in bugs and (names is not _MASKS or registers.extended):
            for name in names:
                registers[name] = _RUBBISH
    if KernelBug.IGNORES_RIP in bugs:
        data = copy_from_user(memory, ucontext + _RESERVED, 8)
        registers["RIP"] = int.from_bytes(data, "little")
