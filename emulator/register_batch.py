"""All registers of a Unicorn engine in one call: `Registers.block` is the layout of both sides."""

from __future__ import annotations

from ctypes import addressof, c_int, c_void_p
from typing import Final

from emulator.hooks import host_address
from emulator.registers import GENERAL, LAYOUT, SIZE, ST, XMM
from emulator.unicorn_raw import Register, check, library

# FP0-7 are the physical registers R0-R7, unlike ST0-7, which count from TOP.
NUMBERS: Final[dict[str, int]] = (
    {name: int(Register[name]) for name in GENERAL[:8]}
    | {name: Register.R8 + i for i, name in enumerate(GENERAL[8:])}
    | {name: int(Register[name]) for name in ("RFLAGS", "FS_BASE", "GS_BASE", "MXCSR")}
    | {"FCW": int(Register.FPCW), "FSW": int(Register.FPSW), "FTW": int(Register.FPTAG)}
    | {name: Register.FP0 + i for i, name in enumerate(ST)}
    | {name: Register.XMM0 + i for i, name in enumerate(XMM)}
)


class RegisterBatch:
    """A block of registers that engines read and write; RIP, which starts a run, is left out."""

    def __init__(self, block: memoryview | None = None) -> None:
        self.block = memoryview(bytearray(SIZE)) if block is None else block
        base = host_address(self.block)
        count = len(NUMBERS)
        self._numbers = (c_int * count)(*NUMBERS.values())
        self._places = (c_void_p * count)(*(base + LAYOUT[name][0] for name in NUMBERS))
        self.arguments = (addressof(self._numbers), addressof(self._places), count)

    def read(self, engine: int) -> None:
        """Fills the block from an engine, given by its handle."""
        check(library.uc_reg_read_batch(engine, *self.arguments), "uc_reg_read_batch")

    def write(self, engine: int) -> None:
        """Sets an engine's registers to what the block says."""
        check(library.uc_reg_write_batch(engine, *self.arguments), "uc_reg_write_batch")
