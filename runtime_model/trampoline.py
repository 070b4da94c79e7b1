"""asyncPreempt as a piece of its own: Pushcall's for the version, or somebody's.

A trampoline is linked behind the runtime's other assembly, at addresses of its own, so that the
rest is assembled once for a version whatever asyncPreempt is. Its text is Go assembly, Intel's or
AT&T's, or a listing of Go's tools (asm.go_listing); `edit` then changes its machine code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from asm import go, go_listing, relink, rewrite
from asm.assemble import assemble
from asm.source import Source
from runtime_model.go_asm_h import runtime_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asm.image import Image
    from asm.rewrite import Line
    from runtime_model.layout import Layout
    from runtime_model.version import GoVersion

TEXT: Final = 0x45_0000
DATA: Final = 0x47_0000
NAME: Final = "runtime.asyncPreempt"
CALLEE: Final = "runtime.asyncPreempt2"
# What internal/cpu.X86 says of processors: the fields that mkpreempt.go's code asks for.
CPUS: Final = {
    "sse": (),
    "avx": ("AVX",),
    "avx2": ("AVX", "AVX2"),
    "avx512": ("AVX", "AVX2", "AVX512"),
}
_SPELLINGS: Final = ("asyncPreempt", "main.asyncPreempt")  # where no package is known


@dataclass(frozen=True)
class Trampoline:
    """An asyncPreempt.

    source: its text; None for Pushcall's own. edit: what is made of its instructions once they
    are assembled.
    """

    source: Source | None = None
    syntax: str = "go"
    edit: Callable[[Sequence[Line]], Sequence[Line]] | None = None

    @property
    def name(self) -> str:
        """The source's, for messages."""
        return self.source.name if self.source is not None else "asyncPreempt"


def own_source(version: GoVersion) -> Source:
    """Pushcall's asyncPreempt for a version (asm/mkpreempt.py)."""
    name = f"preempt_{'xregs' if version.extended_registers else 'stack'}_amd64.s"
    return Source(name, go.text(name))


def simd_source(version: GoVersion, cpu: str) -> Source:
    """The same as GOEXPERIMENT=simd compiles it, on one of CPUS. Raises ValueError."""
    if not version.extended_registers:
        raise ValueError(f"Go {version} has no GOEXPERIMENT=simd: 1.26 on")
    if cpu not in CPUS:
        raise ValueError(f"no processor {cpu}; there are: {', '.join(CPUS)}")
    own = own_source(version)
    data = "".join(
        f"DATA internal∕cpu·X86+const_offsetX86Has{feature}(SB)/1, $1\n" for feature in CPUS[cpu]
    )
    data += "GLOBL internal∕cpu·X86(SB), NOPTR|RODATA, $256\n"
    return Source(own.name, f"#define GOEXPERIMENT_simd\n{own.text}\n{data}")


def darwin_source(version: GoVersion) -> Source:
    """The same as on darwin, on a processor with AVX: up to 1.23 it runs VZEROUPPER."""
    own = own_source(version)
    return Source(own.name, f"#define GOOS_darwin\n#define hasAVX\n{own.text}")


def assemble_trampoline(
    trampoline: Trampoline | Source | None,
    version: GoVersion,
    layout: Layout,
    externs: Mapping[str, int],
) -> Image:
    """The machine code; `externs` are the runtime's symbols by linker name.

    The image has no runtime.asyncPreempt if the text has none. Raises AsmError, and
    asm.rewrite.CannotRewriteError for an edit that cannot be made.
    """
    given = trampoline if isinstance(trampoline, Trampoline) else Trampoline(trampoline)
    source = given.source or own_source(version)
    image = _assembled(source, given.syntax, layout, tuple(externs.items()))
    if given.edit is not None and image.function(NAME) is not None:
        image = rewrite.rewritten(image, NAME, given.edit)
    return image


@lru_cache(maxsize=8)
def _assembled(
    source: Source,
    syntax: str,
    layout: Layout,
    externs: tuple[tuple[str, int], ...],
) -> Image:
    known = dict(externs)
    listing = go_listing.read(source)
    if listing is not None:
        image = relink.link(listing, text_address=TEXT, data_address=DATA, externs=known, anew=True)
    else:
        if syntax != "go":
            known |= {name.removeprefix("runtime."): address for name, address in externs}
        target = runtime_target(layout, syntax)
        image = assemble([source], target, text_address=TEXT, data_address=DATA, externs=known)
    return _named(image, measured=listing is not None or syntax != "go")


def _named(image: Image, *, measured: bool) -> Image:
    """The image with asyncPreempt under its linker name, and its stack use where none is said."""
    functions = []
    for function in image.functions:
        if function.name in _SPELLINGS and image.function(NAME) is None:
            function = dataclasses.replace(function, name=NAME)  # noqa: PLW2901
        if function.name == NAME and measured:
            use = rewrite.stack_use(function)
            function = dataclasses.replace(function, spdelta=use)  # noqa: PLW2901
        functions.append(function)
    return dataclasses.replace(image, functions=tuple(functions))
