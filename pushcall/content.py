"""What a file is, told by how it begins; what a pipe brings can be read once, and is text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushcall.usage import UsageError

if TYPE_CHECKING:
    from pathlib import Path

ELF_MAGIC: Final = b"\x7fELF"
SAVED_MAGIC: Final = b"pushcall saved run\n"  # of pushcall.booted.saved


def is_elf(path: Path) -> bool:
    """Whether a file begins as ELF files do. Raises UsageError where it cannot be read."""
    return _begins(path, ELF_MAGIC)


def is_saved(path: Path) -> bool:
    """Whether a file begins as saved runs do. Raises UsageError where it cannot be read."""
    return _begins(path, SAVED_MAGIC)


def _begins(path: Path, magic: bytes) -> bool:
    try:
        if path.is_fifo():
            return False
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
