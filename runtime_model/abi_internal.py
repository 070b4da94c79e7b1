"""What ABIInternal has fixed at calls on amd64, looked at where machine code calls Go functions.

cmd/compile/abi-internal.md, "amd64 architecture": R14 is g and X15 is zero (since 1.17), DF is
clear, RSP is a multiple of 8, the control bits of MXCSR have their initial value. Code in ABI0 may
leave anything in R14 and X15; the linker's wrappers set both when it calls a Go function.

A trampoline calls asyncPreempt2 in ABI0. It is entered wherever a signal hits, so that it passes on
what the interrupted code had made of DF, RSP and MXCSR; it must not make them worse. And it must
keep to the stack that isAsyncSafePoint found: asyncPreemptStack (preempt.go), which the runtime
computes from its SP table, not from what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped

if TYPE_CHECKING:
    from emulator.linux.threads import Thread
    from emulator.registers import Registers
    from runtime_model.runtime import Runtime

DF: Final = 0x400  # of RFLAGS
_WORD: Final = 8
# MXCSR (SDM volume 1, 10.2.3): the exceptions' status is bits 0 to 5, all above is control.
_CONTROL: Final = 0xFFC0
_INITIAL: Final = 0x1F80

# Gates that stand for an ABI0 wrapper and the Go function behind it: R14 and X15 may be anything.
BY_WRAPPER: Final = frozenset(
    {"schedinit", "mstart1", "mstart2", "newstack", "goexit1", "entersyscall"}
)


class BrokenCall(GuestStopped):
    """The runtime's machine code called a Go function against ABIInternal."""


def check_gate(rt: Runtime, thread: Thread, name: str) -> None:
    """What holds where a Go function that is Python here is entered. Raises BrokenCall.

    DF and RSP are looked at where they begin anew: in the handler, on the gsignal stack.
    """
    registers = thread.registers
    broken = ""
    if name == "sigtrampgo" and registers["RSP"] % _WORD:
        broken = f"RSP is {registers['RSP']:#x}, no multiple of 8"
    elif name == "sigtrampgo" and registers["RFLAGS"] & DF:
        broken = "DF is set"
    elif rt.version.register_abi and name not in BY_WRAPPER:
        if registers["R14"] != rt.getg_of(thread):
            broken = f"R14 is {registers['R14']:#x}, and g is {rt.getg_of(thread):#x}"
        elif registers["XMM15"]:
            broken = f"X15 is {registers['XMM15']:#x}, not zero"
    if broken:
        message = f"{name} is called against ABIInternal: {broken}"
        raise BrokenCall(message, thread.tid, registers.copy())


def broken_by_trampoline(rt: Runtime, interrupted: Registers, called: Registers) -> list[str]:
    """How asyncPreempt calls asyncPreempt2 against the rules, at that one's entry.

    interrupted: the registers at the boundary. What was broken there already is not blamed on it.
    """
    broken = []
    if called["RFLAGS"] & ~interrupted["RFLAGS"] & DF:
        broken.append("with DF set, which is clear at every call")
    if called["RSP"] % _WORD not in (0, interrupted["RSP"] % _WORD):
        broken.append("with RSP not a multiple of 8, which it is at every call")
    if called["MXCSR"] & _CONTROL not in (_INITIAL, interrupted["MXCSR"] & _CONTROL):
        broken.append("with other control bits in MXCSR than at every call")
    used = interrupted["RSP"] - called["RSP"] + rt.asyncPreempt2Stack
    if used > rt.asyncPreemptStack:
        broken.append(
            f"too deep in the stack: both take {used} bytes, and asyncPreemptStack is "
            f"{rt.asyncPreemptStack}"
        )
    return broken
