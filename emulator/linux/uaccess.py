"""The kernel's access to user memory: it obeys page protection, unlike a debugger's.

Models arch/x86/include/asm/uaccess.h: copy_from_user, copy_to_user, get_user, put_user. System
calls answer EFAULT to an AccessFault; signal delivery answers with SIGSEGV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.memory import Prot

if TYPE_CHECKING:
    from emulator.memory import Memory


class AccessFault(Exception):  # noqa: N818  # the kernel's word
    """User memory at `address` is not mapped, or its protection forbids the access."""

    def __init__(self, address: int) -> None:
        super().__init__(f"bad user address {address:#x}")
        self.address = address


# Plain numbers: operators of IntFlag are slow, and every signal passes here a dozen times.
_READ: Final = int(Prot.READ)
_WRITE: Final = int(Prot.WRITE)


def _pieces(memory: Memory, address: int, size: int, prot: int) -> list[memoryview]:
    """The backing memory of a range, region by region."""
    pieces = []
    while size > 0:
        region = memory.find(address)
        if region is None or not int(region.prot) & prot:
            raise AccessFault(address)
        offset = address - region.start
        piece = region.view[offset : offset + size]
        pieces.append(piece)
        address += len(piece)
        size -= len(piece)
    return pieces


def check_writable(memory: Memory, address: int, size: int) -> None:
    """Raises AccessFault where copy_to_user would."""
    _pieces(memory, address, size, _WRITE)


def copy_from_user(memory: Memory, address: int, size: int) -> bytes:
    """Reads `size` bytes of readable user memory; raises AccessFault."""
    return b"".join(_pieces(memory, address, size, _READ))


def copy_to_user(memory: Memory, address: int, data: bytes | bytearray) -> None:
    """Writes to writable user memory; all of it is checked before the first byte changes."""
    pieces = _pieces(memory, address, len(data), _WRITE)
    if len(pieces) == 1:
        memory.write(address, data)
        return
    offset = 0
    for piece in pieces:
        memory.write(address + offset, data[offset : offset + len(piece)])
        offset += len(piece)


def get_u64(memory: Memory, address: int) -> int:
    """Reads 8 bytes, unsigned; raises AccessFault."""
    return int.from_bytes(copy_from_user(memory, address, 8), "little")


def get_u32(memory: Memory, address: int) -> int:
    """Reads 4 bytes, unsigned; raises AccessFault."""
    return int.from_bytes(copy_from_user(memory, address, 4), "little")


def put_u64(memory: Memory, address: int, value: int) -> None:
    """Writes 8 bytes, modulo 2**64; raises AccessFault."""
    copy_to_user(memory, address, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))


def put_u32(memory: Memory, address: int, value: int) -> None:
    """Writes 4 bytes, modulo 2**32; raises AccessFault."""
    copy_to_user(memory, address, (value & 0xFFFF_FFFF).to_bytes(4, "little"))


def get_string(memory: Memory, address: int, most: int) -> bytes:
    """Bytes up to a zero byte (strncpy_from_user); raises AccessFault.

    A string without an end within `most` bytes is cut there, as no path that exists is so long.
    """
    found = b""
    while len(found) < most:
        piece = copy_from_user(memory, address, min(most - len(found), 4096 - address % 4096))
        end = piece.find(b"\0")
        if end >= 0:
            return found + piece[:end]
        found += piece
        address += len(piece)
    return found
