"""The state of AVX and AVX-512 beyond the XMM registers, as one immutable string of bytes.

Its layout is that of an XSAVE area's standard format from byte 576 on (SDM volume 1, 13.4.3; the
offsets are what CPUID leaf 0DH tells on Intel's processors): the upper halves of YMM0 to YMM15, a
gap that MPX had, K0 to K7, the upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31. The state in which a
processor starts is all zeros and stands as the empty string, so code without AVX carries nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Final

AREA_OFFSET: Final = 576  # in an XSAVE area
SIZE: Final = 2112
INITIAL: Final = b""
_ZERO: Final = bytes(SIZE)

# State components by bit of XCR0 and XSTATE_BV: (offset here, size) in bytes.
AVX, OPMASK, ZMM_HI256, HI16_ZMM = 1 << 2, 1 << 5, 1 << 6, 1 << 7
COMPONENTS: Final[dict[int, tuple[int, int]]] = {
    AVX: (0, 256),
    OPMASK: (512, 64),
    ZMM_HI256: (576, 512),
    HI16_ZMM: (1088, 1024),
}
FEATURES: Final = AVX | OPMASK | ZMM_HI256 | HI16_ZMM

XMM_OFFSET: Final = 304  # of XMM0 in Registers.block
VECTORS: Final = 32
MASKS: Final = 8

Piece = tuple[bool, int, int]  # whether it lies here or in Registers.block; offset; size


@cache
def pieces(name: str) -> tuple[Piece, ...]:
    """Where the bytes of YMM0-31, ZMM0-31, K0-7 or XMM16-31 lie, lowest first.

    Raises KeyError for other names.
    """
    kind, digits = name.rstrip("0123456789"), name.lstrip("KMXYZ")
    number = int(digits) if digits.isdigit() else VECTORS
    if kind == "K" and number < MASKS:
        return ((True, COMPONENTS[OPMASK][0] + 8 * number, 8),)
    widths = {"XMM": 16, "YMM": 32, "ZMM": 64}
    if kind not in widths or number >= VECTORS:
        raise KeyError(name)
    width = widths[kind]
    if number >= 16:
        return ((True, COMPONENTS[HI16_ZMM][0] + 64 * (number - 16), width),)
    low: tuple[Piece, ...] = ((False, XMM_OFFSET + 16 * number, 16),)
    if width > 16:
        low += ((True, COMPONENTS[AVX][0] + 16 * number, 16),)
    if width > 32:
        low += ((True, COMPONENTS[ZMM_HI256][0] + 32 * number, 32),)
    return low


def normal(state: bytes | bytearray) -> bytes:
    """The state as it is kept: the empty string where all of it is zero."""
    return INITIAL if state == _ZERO else bytes(state)


def whole(state: bytes) -> bytes:
    """All SIZE bytes."""
    return state or _ZERO


def in_use(state: bytes) -> int:
    """The components that are not in their initial state, as bits of XSTATE_BV."""
    if not state:
        return 0
    return sum(bit for bit, (at, size) in COMPONENTS.items() if any(state[at : at + size]))


def only(state: bytes, features: int) -> bytes:
    """The state with all other components initial."""
    kept = bytearray(SIZE)
    for bit, (at, size) in COMPONENTS.items():
        if features & bit:
            kept[at : at + size] = state[at : at + size]
    return normal(kept) if state else INITIAL


def complement(state: bytes, of: bytes) -> bytes:
    """The state with all components that `of` uses inverted from what they are there."""
    features = in_use(of)
    if not features:
        return state
    value = int.from_bytes(of, "little") ^ ((1 << 8 * SIZE) - 1)
    inverted, made = value.to_bytes(SIZE, "little"), bytearray(whole(state))
    for bit, (at, size) in COMPONENTS.items():
        if features & bit:
            made[at : at + size] = inverted[at : at + size]
    return normal(made)


def differing(one: bytes, other: bytes) -> list[str]:
    """Names of the registers that differ beyond XMM0 to XMM15, the widest that hold such a bit."""
    if one == other:
        return []
    one, other = whole(one), whole(other)

    def differs(feature: int, number: int, size: int) -> bool:
        start = COMPONENTS[feature][0] + number * size
        return one[start : start + size] != other[start : start + size]

    names = []
    for number in range(16):
        if differs(ZMM_HI256, number, 32):
            names.append(f"ZMM{number}")
        elif differs(AVX, number, 16):
            names.append(f"YMM{number}")
    names += [f"ZMM{number + 16}" for number in range(16) if differs(HI16_ZMM, number, 64)]
    return names + [f"K{number}" for number in range(MASKS) if differs(OPMASK, number, 8)]


def shown(state: bytes) -> list[str]:
    """Names of the registers that hold something beyond XMM0 to XMM15."""
    return differing(state, INITIAL)
