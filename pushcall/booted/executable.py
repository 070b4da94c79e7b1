"""A Go executable, opened for as long as it is wanted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime_model.moduledata import GoBinary


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What is wrong with an executable as UsageError."""
    from emulator.elf import ElfError
    from pushcall.usage import UsageError
    from runtime_model.moduledata import NotGoError, UnknownVersionError
    from runtime_model.pclntab_format import PclntabError

    try:
        yield
    except (ElfError, NotGoError, PclntabError, UnknownVersionError) as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def opened(file: Path, go: str | None) -> Iterator[GoBinary]:
    """The executable, for as long as it is wanted; what is wrong with it as UsageError."""
    from pushcall.usage import go_version
    from runtime_model.moduledata import GoBinary

    with refusals(), GoBinary(file, go_version(go)) as binary:
        yield binary
