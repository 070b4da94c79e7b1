"""What CPUID tells of the processor that this host has (Intel's SDM volume 2, CPUID)."""

from __future__ import annotations

import ctypes
from typing import Final

from emulator.hooks import machine_code_hooks

# RDI = leaf, RSI = subleaf, RDX = where EAX, EBX, ECX and EDX go.
CPUID_TEXT: Final = """
        push    rbx
        mov     r8, rdx
        mov     eax, edi
        mov     ecx, esi
        cpuid
        mov     [r8], eax
        mov     [r8 + 4], ebx
        mov     [r8 + 8], ecx
        mov     [r8 + 12], edx
        pop     rbx
        ret
"""
CPUID: Final = bytes.fromhex("534989d089f889f10fa241890041895804418948084189500c5bc3")


class NativeUnavailableError(RuntimeError):
    """This host does not let guest code run on its processor; the message says why."""


def cpuid(leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX and EDX of this host's CPUID; raises NativeUnavailableError."""
    made = machine_code_hooks({"CPUID": CPUID})
    if made is None:
        raise NativeUnavailableError("this host does not allow machine code in memory")
    found = (ctypes.c_uint32 * 4)()
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    function(made[1]["CPUID"])(leaf, subleaf, ctypes.addressof(found))
    return found[0], found[1], found[2], found[3]
