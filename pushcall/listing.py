"""`pushcall asm`: what was assembled, as text, JSON and ELF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asm import elf
from asm.listing import listing
from pushcall.usage import UsageError
from runtime_model.boot import boot

if TYPE_CHECKING:
    from pathlib import Path

    from asm.image import Image
    from runtime_model.boot import Config
    from runtime_model.runtime import Runtime


def assemble(config: Config) -> Image:
    """The snippet's image, linked against the runtime."""
    return boot(config).user


def lines(image: Image) -> list[str]:
    """Address, bytes and source of every instruction; inserted ones are marked with +."""
    return listing(image).splitlines()


def write_elf(rt: Runtime, path: Path) -> None:
    """Writes the snippet as an executable with symbols and a line table.

    The runtime is no part of it: what the code calls there has absolute symbols, no code.
    """
    data = elf.executable(rt.user, rt.g(rt.goroutines[0]).startpc, rt.symbols)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def to_json(image: Image) -> dict[str, Any]:
    """The document of `pushcall asm --json`."""
    text = next((s.data for s in image.segments if s.executable), b"")
    return {
        "schema": "pushcall.asm/1",
        "bytes": text.hex(),
        "functions": [
            {
                "name": function.name,
                "address": f"{function.address:#x}",
                "size": function.size,
                "instructions": [
                    {
                        "address": f"{i.address:#x}",
                        "bytes": i.data.hex(),
                        "source": i.source,
                        "line": i.position.line,
                    }
                    for i in function.instructions
                ],
            }
            for function in image.functions
        ],
    }
