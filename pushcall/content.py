"""What a file is, told by how it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ELF_MAGIC: Final = b"\x7fELF"
SAVED_MAGIC: Final = b"pushcall saved run\n"  # of pushcall.booted.saved


def is_elf(path: Path) -> bool:
    """Whether a file begins as ELF files do; what cannot be read is for others to refuse."""
    return _begins(path, ELF_MAGIC)


def is_saved(path: Path) -> bool:
    """Whether a file begins as saved runs do."""
    return _begins(path, SAVED_MAGIC)


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
