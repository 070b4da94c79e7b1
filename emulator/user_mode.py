"""Puts a Unicorn engine, which starts at CPL 0, where Linux puts a program: at CPL 3.

SYSRETQ needs no descriptor table (SDM volume 2, SYSRET): CS and SS get fixed 64-bit user
descriptors, their selectors come from IA32_STAR. From then on POPFQ leaves IF and IOPL alone and
privileged instructions fault. Writing CS through Unicorn's interface would set the selector only.
"""

from __future__ import annotations

import mmap
from typing import Final

from emulator.memory import PAGE
from emulator.registers import USER_RFLAGS
from emulator.unicorn_raw import CTL_TB_FLUSH, MSR_EFER, MSR_STAR, Engine, Register, check

USER_CS: Final = 0x33  # __USER_CS of arch/x86/include/asm/segment.h
_STAR: Final = 0x23 << 48  # SYSRETQ loads CS = 0x23 + 16 and SS = 0x23 + 8, with RPL 3
_EFER: Final = 0xD01  # SCE, LME, LMA, NXE
_CR0: Final = 0x33  # PE, MP, ET, NE: an x87 error raises #MF, as Linux has it
_SYSRETQ: Final = b"\x48\x0f\x07"


def enter_user_mode(engine: Engine) -> None:
    """Executes one SYSRETQ on an engine that has no hooks and no memory yet."""
    engine.write_msr(MSR_STAR, _STAR)
    engine.write_msr(MSR_EFER, _EFER)
    engine.write(Register.CR0, _CR0)
    page = mmap.mmap(-1, PAGE)
    page.write(_SYSRETQ)
    after = PAGE + len(_SYSRETQ)
    engine.map(PAGE, memoryview(page))
    engine.write(Register.RCX, after)
    engine.write(Register.R8 + 3, USER_RFLAGS)  # R11
    check(engine.start(PAGE, until=after), "SYSRETQ")
    assert engine.read(Register.CS) == USER_CS
    engine.unmap(PAGE, PAGE)
    engine.control(CTL_TB_FLUSH)
