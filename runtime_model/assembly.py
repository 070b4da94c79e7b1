"""The runtime's assembly for a Go version, and a snippet linked against it.

The texts are package data of asm.go; their go_asm.h comes from the version's struct layouts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from asm import go, go_listing, relink
from asm.assemble import GoAsmH, Target, assemble
from asm.image import Image
from asm.rewrite import merged
from asm.source import Source
from runtime_model.go_asm_h import Package, assemble_with, runtime_target
from runtime_model.trampoline import NAME, assemble_trampoline
from runtime_model.trampoline import TEXT as TRAMPOLINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runtime_model.layout import Layout
    from runtime_model.toolchain import Toolchain
    from runtime_model.trampoline import Trampoline
    from runtime_model.version import GoVersion

BATCH_TEXT: Final = 0x3C_0000  # where the runtime itself has nothing
BATCH_DATA: Final = 0x3D_0000
SIGNAL_TEXT: Final = 0x39_0000  # of real_signal_amd64.s
SIGNAL_DATA: Final = 0x3A_0000
GATES: Final = 0x3F_0000  # within reach of CALL
TEXT: Final = 0x40_1000
DATA: Final = 0x46_0000
USER_TEXT: Final = 0x48_0000
USER_DATA: Final = 0x50_0000


def linker_name(name: str) -> str:
    """The linker's spelling of a symbol that may be written as in Go assembly."""
    return name.replace("·", ".").replace("∕", "/")


def _text(name: str) -> Source:
    return Source(name, go.text(name))


def runtime_sources(version: GoVersion) -> list[Source]:
    """The runtime's files for a version, without asyncPreempt."""
    names = ["asm_amd64.s", "proc_amd64.s", "sys_linux_amd64.s", "syscall_linux_amd64.s"]
    if version.asynchronous:
        names.append("preempt2_amd64.s")
    return [_text(name) for name in names]


def assemble_runtime(
    version: GoVersion,
    layout: Layout,
    gates: Mapping[str, int],
    trampoline: Trampoline | Source | Image | None = None,
    shift: int = 0,
) -> Image:
    """The runtime's machine code; `gates` are the addresses of what is Python.

    trampoline: an image has its place already. shift: how far from its usual place the rest lies.
    """
    names = tuple(source.name for source in runtime_sources(version))
    base = _base(names, layout, tuple(gates.items()), (TEXT + shift, DATA + shift))
    if not version.asynchronous:
        return base
    if not isinstance(trampoline, Image):
        known = exports(base) | dict(gates)
        trampoline = assemble_trampoline(trampoline, version, layout, known)
    return merged(base, trampoline)


def assemble_batch(
    version: GoVersion,
    layout: Layout,
    gates: Mapping[str, int],
    trampoline: Trampoline | Source | Image | None = None,
    *,
    shift: int = 0,
    native: bool = False,
) -> Image:
    """The trampoline, and the code that tries recorded boundaries on it (batch_amd64.s).

    native: batch_native_amd64.s instead, for the real processor.
    """
    name = "batch_native_amd64.s" if native else "batch_amd64.s"

    def base(entry: int) -> Image:
        known = dict(gates) | {NAME: entry}
        places = (BATCH_TEXT + shift, BATCH_DATA + shift)
        return _base((name,), layout, tuple(known.items()), places)

    if isinstance(trampoline, Image):
        return merged(base(exports(trampoline)[NAME]), trampoline)
    # The trampoline calls asyncPreempt2 here, and is called: neither's size depends on the other.
    known = exports(base(TRAMPOLINE)) | dict(gates)
    image = assemble_trampoline(trampoline, version, layout, known)
    entry = image.address(NAME)
    assert entry is not None
    return merged(base(entry), image)


def assemble_signal_handler(layout: Layout, externs: Mapping[str, int]) -> Image:
    """The handler of real signals (real_signal_amd64.s)."""
    places = (SIGNAL_TEXT, SIGNAL_DATA)
    return _base(("real_signal_amd64.s",), layout, tuple(externs.items()), places)


def exports(image: Image) -> dict[str, int]:
    """Addresses by linker name."""
    symbols = {function.name: function.address for function in image.functions}
    return symbols | {symbol.name: symbol.address for symbol in image.data}


@lru_cache(maxsize=32)
def _base(
    names: tuple[str, ...],
    layout: Layout,
    externs: tuple[tuple[str, int], ...],
    places: tuple[int, int] = (TEXT, DATA),
) -> Image:
    """Files of asm.go, assembled once in a process."""
    return assemble(
        [_text(name) for name in names],
        runtime_target(layout),
        text_address=places[0],
        data_address=places[1],
        externs=dict(externs),
    )


def assemble_user(
    sources: Sequence[Source],
    version: GoVersion,
    layout: Layout,
    runtime: Mapping[str, int],
    *,
    defines: Mapping[str, str] | None = None,
    include_dirs: tuple[Path, ...] = (),
    goos: str = "linux",
    syntax: str = "go",
    package: Package | None = None,
    toolchain: Toolchain | None = None,
    undefined: bool = False,
) -> Image:
    """A snippet, or a listing of Go's tools; it may call what the runtime exports.

    undefined: leaves what neither defines to the image's relocations.

    Raises:
        AsmError: the text is wrong.
        ToolchainError: the toolchain cannot make the go_asm.h that is needed.
    """
    package = package or Package()
    if len(sources) == 1 and (listing := go_listing.read(sources[0])) is not None:
        return relink.link(
            listing,
            text_address=USER_TEXT,
            data_address=USER_DATA,
            externs=runtime,
            undefined=undefined,
        )

    def assembled(header: GoAsmH) -> Image:
        target = Target(
            go=version.number,
            package=package.path,
            defines=dict(defines or {}),
            include_dirs=include_dirs,
            go_asm_h=header,
            goos=goos,
            syntax=syntax,
        )
        return assemble(
            sources,
            target,
            text_address=USER_TEXT,
            data_address=USER_DATA,
            externs=runtime,
            undefined=undefined,
        )

    return assemble_with(assembled, layout, package, goos, toolchain)
