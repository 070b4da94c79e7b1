"""What CPUID tells a program, so that it asks for nothing that is not executed here.

Unicorn's own model has no AVX, but BMI1 and BMI2, whose VEX forms are refused, and an XSAVE area
with room for YMM registers, where XGETBV shows x87 and SSE. emulator.avx executes more than CPUID
tells of: preemption code is run on registers that a program of this processor never uses.
Specified in Intel's SDM volume 2, CPUID; XSAVE's leaf in volume 1, 13.2.
"""

from __future__ import annotations

from typing import Final

XCR0: Final = 3  # what XGETBV shows: x87 and SSE state (SDM volume 1, 13.3)

_FEATURES: Final = 7
_BMI: Final = 1 << 3 | 1 << 8  # BMI1, BMI2 in EBX of leaf 7
_XSAVE: Final = 0xD
_XSAVE_SIZE: Final = 576  # of an area without extended components
_EXTENDED_LEAVES: Final = 0x4000_0000

Values = tuple[int, int, int, int]


def told(leaf: int, subleaf: int, values: Values) -> Values:
    """EAX, EBX, ECX and EDX as a program gets them, where Unicorn gives `values`."""
    eax, ebx, ecx, edx = values
    if leaf == _FEATURES and subleaf == 0:
        return eax, ebx & ~_BMI, ecx, edx
    # A leaf above the highest basic one, which this is, is answered as this one.
    if _XSAVE <= leaf < _EXTENDED_LEAVES:
        return (XCR0, _XSAVE_SIZE, _XSAVE_SIZE, 0) if subleaf == 0 else (0, 0, 0, 0)
    return values
