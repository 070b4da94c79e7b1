"""Values that nobody computes by accident, for what a called Go function may overwrite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emulator import extended
from emulator.registers import ARITHMETIC_FLAGS, LAYOUT, Registers

STACK_POISON: Final = bytes([0xDB])

GENERAL_PART: Final = slice(0, 128)  # of a register block: RAX to R15
VECTOR_PART: Final = slice(304, 560)  # XMM0 to XMM15


@dataclass(frozen=True, slots=True)
class Poison:
    """Values that a Go function leaves in registers that it may overwrite.

    What AVX adds is inverted where it is in use in `interrupted`: a thread without it stays so.
    """

    general: bytes  # RAX to R15 in LAYOUT's order, 128 bytes
    vectors: bytes  # XMM0 to XMM15, 256 bytes
    flags: int  # the arithmetic flags
    interrupted: bytes = extended.INITIAL  # a state of emulator.extended

    @classmethod
    def distinct(cls) -> Poison:
        """A value for each register that nobody computes by accident, all flags set."""
        return cls(
            b"".join((0xBADC_0FFE_E000_0000 | i).to_bytes(8, "little") for i in range(16)),
            b"".join(
                (0xBADC_0FFE_E0DD_F00D_BADC_0FFE_E100_0000 | i).to_bytes(16, "little")
                for i in range(16)
            ),
            int(ARITHMETIC_FLAGS),
        )

    @classmethod
    def complement(cls, registers: Registers) -> Poison:
        """Every bit the opposite of what it is in `registers`: nothing hides behind an equal."""

        def inverted(part: slice) -> bytes:
            data = registers.block[part]
            size = len(data)
            value = int.from_bytes(data, "little") ^ ((1 << 8 * size) - 1)
            return value.to_bytes(size, "little")

        flags = ~registers["RFLAGS"] & int(ARITHMETIC_FLAGS)
        return cls(inverted(GENERAL_PART), inverted(VECTOR_PART), flags, registers.extended)

    def extend(self, state: bytes) -> bytes:
        """What becomes of a state of emulator.extended."""
        return extended.complement(state, self.interrupted)


assert LAYOUT["R15"] == (120, 8)
assert LAYOUT["XMM0"] == (304, 16)
