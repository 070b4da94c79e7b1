"""Assembly text to a linked image: the steps in their order.

lexer, preprocess   text to the tokens of statements
parse               tokens to TEXT, DATA, GLOBL and their operands
branch              labels and n(PC) to statements
frame               prologue, epilogue, stack check, FP and SP
translate           Go's names and operands to Intel's
encode              one instruction to bytes
layout              branch sizes, offsets, tables by PC
link                addresses and references

Intel and AT&T text is read by x86_text and x86_translate in place of the first five.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asm import branch, frame
from asm.headers import experiments, headers
from asm.layout import lay_out
from asm.link import Linker
from asm.parse import Parser
from asm.preprocess import Macro, Preprocessor, object_macro
from asm.source import AsmError, Diagnostic, Diagnostics, Fault, Source, TooManyFaults
from asm.translate import Translator
from asm.x86_text import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from asm.image import Image
    from asm.operand import Unit

GO_ASM_H = "go_asm.h"
OLDEST_GO = (1, 13)

__all__ = ["AsmError", "Diagnostic", "Source", "Target", "assemble"]


@dataclass(frozen=True)
class Target:
    """For what to assemble.

    Attributes:
        go: the Go version whose assembler to follow, (major, minor).
        package: the package of names that begin with a dot (U+00B7 in the text).
        defines: macros, as by -D NAME=VALUE.
        include_dirs: where #include looks beyond the file's own directory.
        headers: files for #include by name, such as a go_asm.h made from struct layouts; they
            come before those that the assembler has itself.
        goos: the operating system, for #ifdef GOOS_… and the place of g.
        syntax: "go", "intel" or "att"; the others know neither macros nor frames.
    """

    go: tuple[int, int] = (1, 22)
    package: str = "main"
    defines: Mapping[str, str] = field(default_factory=dict)
    include_dirs: tuple[Path, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    goos: str = "linux"
    syntax: str = "go"

    def macros(self) -> dict[str, Macro]:
        """What is defined before the first line, build tags of the version included."""
        names = {f"GOOS_{self.goos}": "1", "GOARCH_amd64": "1", "GOAMD64_v1": "1"}
        names |= {f"go1_{minor}": "1" for minor in range(OLDEST_GO[1], self.go[1] + 1)}
        names |= dict.fromkeys(experiments(self.go), "1")
        names |= self.defines
        return {name: object_macro(name, value) for name, value in names.items()}


def assemble(
    sources: Sequence[Source],
    target: Target,
    *,
    text_address: int,
    data_address: int,
    externs: Mapping[str, int] | None = None,
) -> Image:
    """Assembles and links the sources into one image.

    Args:
        sources: the texts; static symbols (name<>) are private to each.
        target: version, package, macros, headers.
        text_address: where the first function goes; functions are aligned to 16.
        data_address: where data goes, each segment on pages of its own.
        externs: addresses of symbols that are defined elsewhere, by linker name.

    Raises:
        AsmError: the sources are wrong; it lists every error found.
    """
    diagnostics = Diagnostics()
    try:
        image = _assemble(sources, target, diagnostics, text_address, data_address, externs or {})
        diagnostics.raise_if_any()
    except TooManyFaults:
        diagnostics.raise_if_any()
        raise
    return image


def _assemble(
    sources: Sequence[Source],
    target: Target,
    diagnostics: Diagnostics,
    text_address: int,
    data_address: int,
    externs: Mapping[str, int],
) -> Image:
    if target.syntax != "go":
        return _assemble_x86(sources, target, diagnostics, text_address, data_address, externs)
    read: list[Source] = []
    units: list[Unit] = []
    try:
        macros = target.macros()
    except Fault as fault:
        diagnostics.add(fault)
        diagnostics.raise_if_any()
        raise
    known_headers = headers(target.go) | dict(target.headers)
    for source in sources:
        preprocessor = Preprocessor(diagnostics, macros, known_headers, target.include_dirs)
        parser = Parser(
            diagnostics,
            target.package,
            preprocessor.defined,
            lambda p=preprocessor: _table(target, p),  # type: ignore[misc]
        )
        units.append(parser.parse(preprocessor.statements(source)))
        read += preprocessor.sources
    linker = Linker(diagnostics, externs)
    translator = Translator(target.go, target.goos, linker.constant)
    for file, unit in enumerate(units):
        for globl in unit.globls:
            linker.add_globl(globl, file)
    for file, unit in enumerate(units):
        for data in unit.data:
            linker.add_data(data, file)
        for text in unit.texts:
            branch.resolve(text, diagnostics)
            framed = frame.build(text, target.go, diagnostics)
            body = lay_out(framed.progs, translator, diagnostics)
            linker.add_function(text, file, framed.flags, body)
    # With an error in a statement addresses mean nothing, but names still do.
    linker.place(text_address, data_address)
    return linker.image(read)


def _table(target: Target, preprocessor: Preprocessor) -> str:
    """What a go_asm.h of the target was made from, if the file includes it."""
    included = any(source.name == GO_ASM_H for source in preprocessor.sources)
    return "Go {}.{}".format(*target.go) if included and GO_ASM_H in target.headers else ""


def _assemble_x86(
    sources: Sequence[Source],
    target: Target,
    diagnostics: Diagnostics,
    text_address: int,
    data_address: int,
    externs: Mapping[str, int],
) -> Image:
    """Intel and AT&T text: no preprocessor, no frames."""
    linker = Linker(diagnostics, externs)
    for file, source in enumerate(sources):
        reader = Reader(source, target.syntax, diagnostics)
        unit = reader.read()
        for globl in unit.globls:
            linker.add_globl(globl, file)
        for text, body in reader.functions():
            linker.add_function(text, file, text.flags, body)
        for data in unit.data:
            linker.add_data(data, file)
    linker.place(text_address, data_address)
    return linker.image([*sources])
