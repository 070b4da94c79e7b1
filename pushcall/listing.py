"""`pushcall asm`: what was assembled, as text and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime_model.boot import boot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asm.image import Image
    from runtime_model.boot import Config


def assemble(config: Config) -> Image:
    """The snippet's image, linked against the runtime."""
    return boot(config).user


def lines(image: Image) -> Iterable[str]:
    """Address, bytes and source of every instruction; inserted ones are marked with +."""
    for function in image.functions:
        yield f"{function.address:#x} <{function.name}> {function.size} bytes"
        for instruction in function.instructions:
            mark = "+" if instruction.inserted else " "
            yield (
                f"  {instruction.address:#x}  {instruction.data.hex(' '):<32}{mark} "
                f"{instruction.source}"
            )


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
