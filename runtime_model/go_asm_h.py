"""Which go_asm.h an assembly file gets that has none beside it.

The table of the version (layouts/*.json) serves package runtime, and snippets of no package: no
toolchain is needed for them. Where that table lacks a name, or is of another package, a toolchain
of exactly that minor version makes the header, if one is found. It is then all of the header:
never are two mixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from asm.assemble import GO_ASM_H, GoAsmH, Target
from asm.headers import headers
from asm.source import AsmError
from runtime_model import layout as layouts
from runtime_model import toolchain as toolchains
from runtime_model.toolchain import Toolchain, ToolchainError

if TYPE_CHECKING:
    from collections.abc import Callable

    from asm.image import Image
    from runtime_model.layout import Layout


@dataclass(frozen=True)
class Package:
    """The package that a file is of.

    Attributes:
        path: its import path, for the names that begin with a dot (U+00B7 in the text).
        build: what to ask `go build` for: the path, "." for the Go files beside the file, or
            "" for a snippet of no package.
        directory: where to build.
        goroot: the GOROOT that the file lies in.
    """

    path: str = "main"
    build: str = ""
    directory: Path = Path()
    goroot: Path | None = None

    @property
    def release(self) -> str | None:
        """Of the GOROOT that the file lies in."""
        return toolchains.release_of(self.goroot) if self.goroot is not None else None

    @classmethod
    def of(cls, file: Path | None, path: str | None = None) -> Package:
        """The package of a file: the one given, that of its place in a GOROOT, or main."""
        if file is None or not file.is_file():
            return cls(path or "main", path or "")
        inside = toolchains.holding(file)
        directory = file.parent
        if inside is not None:
            root, found = inside
            return cls(path or found, path or found, directory, root)
        beside = "." if any(directory.glob("*.go")) else ""
        return cls(path or "main", path or beside, directory)


def table(layout: Layout, package: Package, goos: str) -> GoAsmH:
    """The header that the layout of a version gives."""
    name = "the table of Go {}.{}".format(*layout.version)
    if goos != "linux":
        return GoAsmH(f"{name}, which is for Linux", str)
    if package.build in {"", "runtime"}:
        return GoAsmH(name, partial(layouts.go_asm_h, layout))
    return GoAsmH(f"{name}, which has nothing of this package", str)


def runtime_target(layout: Layout, syntax: str = "go") -> Target:
    """For texts of package runtime that have no directory: headers are given, not looked for."""
    header = table(layout, Package(), "linux")
    given = headers(layout.version) | {GO_ASM_H: header.read()}
    return Target(layout.version, "runtime", headers=given, go_asm_h=header, syntax=syntax)


def made_by(toolchain: Toolchain, package: Package, goos: str) -> GoAsmH:
    """The header that a toolchain makes."""
    build = package.build or "runtime"  # what a snippet of no package wants to know of
    shown = package.path if build == "." else build
    return GoAsmH(
        f"package {shown} of {toolchain}",
        partial(toolchains.go_asm_h, toolchain, build, package.directory, goos),
    )


def assemble_with(
    assemble: Callable[[GoAsmH], Image],
    layout: Layout,
    package: Package,
    goos: str,
    toolchain: Toolchain | None,
) -> Image:
    """Assembles with the toolchain's header, or with the table's as far as that goes.

    Raises:
        AsmError: the text is wrong, or needs a name that no header at hand has.
        ToolchainError: the given toolchain cannot make the header.
    """
    if toolchain is not None:
        return assemble(made_by(toolchain, package, goos))
    try:
        return assemble(table(layout, package, goos))
    except AsmError as error:
        if not package.build or not any(d.lacks for d in error.diagnostics):
            raise
        asked = error
    found = toolchains.installed(package.goroot)
    match = next((t for t in found if t.version == layout.version), None)
    if match is None:
        others = ", ".join(str(t) for t in found)
        note = "no toolchain of Go {}.{} is found to ask".format(*layout.version)
        note += f", only {others}" if found else "; --goroot DIR names one"
        raise _noted(asked, note)
    try:
        return assemble(made_by(match, package, goos))
    except ToolchainError as error:
        raise _noted(asked, str(error)) from None


def _noted(error: AsmError, note: str) -> AsmError:
    """The error with a note at the last diagnostic about a header."""
    diagnostics = list(error.diagnostics)
    at = max(n for n, d in enumerate(diagnostics) if d.lacks)
    before = diagnostics[at].note
    diagnostics[at] = replace(diagnostics[at], note=f"{before}\n{note}" if before else note)
    return AsmError(diagnostics)
