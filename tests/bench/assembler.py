"""How long the assembler takes for a file, with nothing remembered from another.

Wanted: a file of 1,000 instructions in 0.3 s, the runtime's asm_amd64.s in 1.5 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm import encode
from asm.assemble import AsmError, Source, Target, assemble
from runtime_model.layout import go_asm_h, load
from tests.bench.measure import Contender, Group
from tests.conformance import toolchains

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "1.22.10"
_STATEMENTS = (
    "MOVQ ${n}, AX", "ADDQ {n}(SP), BX", "LEAQ (AX)(BX*8), CX", "MOVQ CX, x-8(SP)", "XORL DX, DX",
    "CMPQ AX, ${n}", "JNE again", "VPADDD Y1, Y2, Y3", "MOVOU (SI), X5", "SHRQ $3, R9",
)  # fmt: skip


def _thousand() -> Source:
    lines = [_STATEMENTS[n % len(_STATEMENTS)].format(n=n) for n in range(1000)]
    body = "\n\t".join(lines)
    return Source("thousand.s", f"TEXT ·f(SB), 4, $16-0\nagain:\n\t{body}\n\tRET\n")


def _assemble(source: Source, target: Target, externs: dict[str, int]) -> float:
    encode._cache.clear()
    encode._verified.clear()
    assemble([source], target, text_address=0x400000, data_address=0x800000, externs=externs)
    return 1


def _runtime_file() -> Contender | None:
    """asm_amd64.s of a toolchain that is installed already."""
    root: Path = toolchains.CACHE / "go" / VERSION / "go"
    path = root / "src/runtime/asm_amd64.s"
    if not path.exists():
        return None
    source = Source(path.name, path.read_text(encoding="utf-8"))
    target = Target(
        package="runtime",
        headers={"go_asm.h": go_asm_h(load((1, 22)))},
        include_dirs=(root / "src/runtime",),
    )
    externs: dict[str, int] = {}
    missing = True
    while missing:  # only so many errors are reported at a time
        try:
            _assemble(source, target, externs)
            missing = False
        except AsmError as error:
            externs |= {d.message.split()[-1]: 0x600000 for d in error.diagnostics}
    return Contender(f"asm_amd64.s of {VERSION}", lambda: _assemble(source, target, externs))


def groups(scale: float) -> list[Group]:
    """One group; `scale` changes nothing, a file is a file."""
    del scale
    source = _thousand()
    contenders = [Contender("1,000 instructions", lambda: _assemble(source, Target(), {}))]
    runtime = _runtime_file()
    return [Group("assembler", "files", contenders + ([runtime] if runtime else []))]
