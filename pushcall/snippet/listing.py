"""`pushcall asm`: what was assembled, as text, JSON and ELF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asm import elf
from asm.assemble import GO_ASM_H
from asm.listing import listing
from asm.source import near_miss
from pushcall.usage import UsageError
from runtime_model.boot import assembled, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asm.image import Image, Relocation
    from runtime_model.boot import Config
    from runtime_model.runtime import Runtime

OBJECT_SUFFIX = ".o"


def assemble(config: Config, output: Path | None = None) -> Runtime:
    """The program's code, linked against the runtime but not loaded; also written to a file.

    What neither has is left to relocations, except where an executable is to be written: that
    cannot be without it. The runtime is no part of the file: an object refers to it like to
    anything else, in an executable its symbols are absolute.
    """
    executable = output is not None and output.suffix != OBJECT_SUFFIX
    rt = assembled(config, undefined=not executable)
    if output is not None:
        image = rt.snippet
        if executable:
            data = elf.executable(image, entry_of(image, config).address, rt.symbols)
        else:
            data = elf.relocatable(image)
        try:
            output.write_bytes(data)
        except OSError as error:
            raise UsageError(f"{output}: {error.strerror}") from None
    return rt


def lines(rt: Runtime) -> Iterator[str]:
    """Address, bytes and source of every instruction; inserted ones are marked with +.

    A field that a linker has to fill in is shown below its instruction.
    """
    image = rt.snippet
    yield from listing(image).splitlines()
    known = [*(f.name for f in image.functions), *(d.name for d in image.data)]
    for name in dict.fromkeys(r.symbol for r in image.undefined):
        # In a snippet it may well be a slip; the runtime's files are full of such names.
        note = near_miss(name, known) if name.startswith("main.") else None
        yield f"undefined: {name}" + (f" ({note})" if note else "")
    if header := _header(image):
        yield f"with {header}"


def to_json(rt: Runtime) -> dict[str, Any]:
    """The document of `pushcall asm --json`."""
    image = rt.snippet
    text = next((s.data for s in image.segments if s.executable), b"")
    return {
        "schema": "pushcall.asm/1",
        "go": "{}.{}".format(*rt.version.number),
        "go_asm_h": _header(image),
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
        "data": [
            {
                "name": symbol.name,
                "address": f"{symbol.address:#x}",
                "size": symbol.size,
                "bytes": image.content(symbol).hex(),
            }
            for symbol in image.data
        ],
        "undefined": list(dict.fromkeys(r.symbol for r in image.undefined)),
        "relocations": [_relocation(r) for r in image.undefined],
    }


def _relocation(relocation: Relocation) -> dict[str, Any]:
    return {
        "address": f"{relocation.address:#x}",
        "type": relocation.type.name,
        "symbol": relocation.symbol,
        "addend": relocation.addend,
    }


def _header(image: Image) -> str | None:
    """Where the go_asm.h comes from that a file includes."""
    return next((name for name in image.lines if GO_ASM_H in name), None)
