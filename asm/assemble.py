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
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from asm import branch, frame
from asm.headers import experiments, headers
from asm.layout import lay_out
from asm.link import Linker
from asm.parse import Parser
from asm.preprocess import Macro, Preprocessor, object_macro
from asm.source import AsmError, Diagnostic, Diagnostics, Fault, Source, TooManyFaults
from asm.translate import Translator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from asm.image import Image
    from asm.operand import Unit

GO_ASM_H = "go_asm.h"
OLDEST_GO = (1, 13)


class GoAsmH(NamedTuple):
    """A go_asm.h for files that have none beside them; `read` is called when one includes it.

    `made_from` says where it comes from: "the table of Go 1.22".
    """

    made_from: str
    read: Callable[[], str]

    @property
    def name(self) -> str:
        """What it is called among the sources of an image."""
        return f"{GO_ASM_H} ({self.made_from})"

    def source(self) -> Source:
        """Its text."""
        return Source(self.name, self.read())


__all__ = ["AsmError", "Diagnostic", "GoAsmH", "Source", "Target", "assemble"]


@dataclass(frozen=True)
class Target:
    """For what to assemble.

    Attributes:
        go: the Go version whose assembler to follow, (major, minor).
        package: the package of names that begin with a dot (U+00B7 in the text).
        defines: macros, as by -D NAME=VALUE.
        include_dirs: where #include looks beyond the file's own directory.
        headers: texts for #include by name; they come before files. The assembler's own come
            after them.
        go_asm_h: what go_asm.h is where no file is.
        goos: the operating system, for #ifdef GOOS_… and the place of g.
        syntax: "go", "intel" or "att"; the others know neither macros nor frames.
    """

    go: tuple[int, int] = (1, 22)
    package: str = "main"
    defines: Mapping[str, str] = field(default_factory=dict)
    include_dirs: tuple[Path, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    go_asm_h: GoAsmH | None = None
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
    undefined: bool = False,
) -> Image:
    """Assembles and links the sources into one image.

    Args:
        sources: the texts; static symbols (name<>) are private to each.
        target: version, package, macros, headers.
        text_address: where the first function goes; functions are aligned to 16.
        data_address: where data goes, each segment on pages of its own.
        externs: addresses of symbols that are defined elsewhere, by linker name.
        undefined: leaves a symbol that nothing defines to the image's relocations; else it is
            an error. A static one always is.

    Raises:
        AsmError: the sources are wrong; it lists every error found.
    """
    diagnostics = Diagnostics()
    linker = Linker(diagnostics, externs or {}, undefined=undefined)
    try:
        if target.syntax == "go":
            read = _read_go(sources, target, diagnostics, linker)
        else:
            read = _read_x86(sources, target, diagnostics, linker)
        # With an error in a statement addresses mean nothing, but names still do.
        linker.place(text_address, data_address)
        image = linker.image(read)
        diagnostics.raise_if_any()
    except TooManyFaults:
        diagnostics.raise_if_any()
        raise
    return image


def _read_go(
    sources: Sequence[Source], target: Target, diagnostics: Diagnostics, linker: Linker
) -> list[Source]:
    """Gives the linker what the sources define; returns them and what they include."""
    read: list[Source] = []
    units: list[Unit] = []
    try:
        macros = target.macros()
    except Fault as fault:
        diagnostics.add(fault)
        diagnostics.raise_if_any()
        raise
    own: dict[str, Callable[[], Source]] = {
        name: partial(Source, name, text) for name, text in headers(target.go).items()
    }
    if target.go_asm_h is not None:
        own[GO_ASM_H] = target.go_asm_h.source
    for source in sources:
        preprocessor = Preprocessor(diagnostics, macros, target.headers, target.include_dirs, own)
        parser = Parser(
            diagnostics,
            path_to_prefix(target.package),
            preprocessor.defined,
            lambda p=preprocessor: _made_from(target, p),  # type: ignore[misc]
        )
        units.append(parser.parse(preprocessor.statements(source)))
        read += preprocessor.sources
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
    return read


def _made_from(target: Target, preprocessor: Preprocessor) -> str:
    """What the target's go_asm.h was made from, if the file includes it."""
    header = target.go_asm_h
    if header is None:
        return ""
    name = GO_ASM_H if GO_ASM_H in target.headers else header.name
    return header.made_from if any(s.name == name for s in preprocessor.sources) else ""


def path_to_prefix(path: str) -> str:
    """A package's path in linker names (cmd/internal/objabi/path.go: PathToPrefix)."""
    data = path.encode()
    last = data.rfind(b"/")

    def escaped(at: int, byte: int) -> bool:
        return byte <= 0x20 or byte >= 0x7F or byte in b'%"' or (byte == 0x2E and at > last)

    return "".join(f"%{b:02x}" if escaped(at, b) else chr(b) for at, b in enumerate(data))


def _read_x86(
    sources: Sequence[Source], target: Target, diagnostics: Diagnostics, linker: Linker
) -> list[Source]:
    """The same of Intel and AT&T text: no preprocessor, no frames."""
    from asm import x86_text  # most sources are Go's

    for file, source in enumerate(sources):
        reader = x86_text.Reader(source, target.syntax, diagnostics)
        unit = reader.read()
        for globl in unit.globls:
            linker.add_globl(globl, file)
        for text, body in reader.functions():
            linker.add_function(text, file, text.flags, body)
        for data in unit.data:
            linker.add_data(data, file)
    return [*sources]
