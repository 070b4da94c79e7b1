"""Instructions of the snippet and of the runtime's assembly, or of an executable, by PC."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asm.image import Instruction
    from pushcall.snippet.crash import Running


def instruction(rt: Running, pc: int) -> Instruction | None:
    """The instruction that starts at pc."""
    for image in (rt.user, rt.text):
        function = image.findfunc(pc)
        if function is not None:
            return function.instruction_at(pc)
    return None


def is_call(found: Instruction | None) -> bool:
    """CALL, in any form (SDM volume 2: E8, FF /2)."""
    if found is None:
        return False
    data = found.data.lstrip(b"\x40\x41\x42\x43\x44\x45\x46\x47\x48\x49\x4a\x4b\x4c\x4d\x4e\x4f")
    return data[0] == 0xE8 or (data[0] == 0xFF and data[1] >> 3 & 7 == 2)


def is_return(found: Instruction | None) -> bool:
    """RET, with or without a number (SDM volume 2: C3, C2)."""
    return found is not None and found.data[0] in (0xC3, 0xC2)
