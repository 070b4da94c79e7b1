"""Generates asyncPreempt, which is long and regular (Go's runtime/mkpreempt.go).

A Layout holds slots: where a register is saved and by which instructions. It emits the saves in
the order of the slots and the restores in the reverse order, so that the two cannot disagree.
Whoever wants another trampoline (another frame, order, or one that is wrong on purpose) makes
other Layouts and calls `trampoline`.

`python -m asm.mkpreempt` writes asm/go/preempt_stack_amd64.s (Go 1.14 to 1.25) and
asm/go/preempt_xregs_amd64.s (1.26 on).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GPRS = (
    "AX", "CX", "DX", "BX", "SI", "DI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slot:
    """A register's place: `size` bytes at `offset` from the layout's base."""

    register: str
    offset: int
    size: int
    save: str
    restore: str

    def save_line(self, base: str) -> str:
        """The instruction that stores the register."""
        return f"{self.save} {self.register}, {self.offset}({base})"

    def restore_line(self, base: str) -> str:
        """The instruction that loads it."""
        return f"{self.restore} {self.offset}({base}), {self.register}"


@dataclass(slots=True)
class Layout:
    """Slots above a base register, in the order of their saving."""

    base: str
    slots: list[Slot] = field(default_factory=list)
    size: int = 0

    def add(self, register: str, size: int, move: str, stride: int | None = None) -> None:
        """Appends a slot of `size` bytes; the next one begins `stride` bytes on."""
        self.slots.append(Slot(register, self.size, size, move, move))
        self.size += size if stride is None else stride

    def saves(self) -> list[str]:
        """The stores, in order."""
        return [slot.save_line(self.base) for slot in self.slots]

    def restores(self) -> list[str]:
        """The loads, in the reverse order."""
        return [slot.restore_line(self.base) for slot in reversed(self.slots)]

    def swapped(self, one: int, other: int) -> Layout:
        """The same slots with two of them saved in each other's turn."""
        slots = list(self.slots)
        slots[one], slots[other] = slots[other], slots[one]
        return replace(self, slots=slots)


def gpr_layout(base: str = "SP", registers: Sequence[str] = GPRS) -> Layout:
    """The general registers, eight bytes each."""
    layout = Layout(base)
    for register in registers:
        layout.add(register, 8, "MOVQ")
    return layout


def stack_layout() -> Layout:
    """Everything on the goroutine's stack (1.14 to 1.25): general registers, then X0-X15."""
    layout = gpr_layout()
    for n in range(16):
        layout.add(f"X{n}", 16, "MOVUPS")
    return layout


def sse_layout(base: str = "AX") -> Layout:
    """X0-X15 in slots as wide as a ZMM register (1.26 on)."""
    layout = Layout(base)
    for n in range(16):
        layout.add(f"X{n}", 16, "MOVUPS", 64)
    return layout


def avx2_layout(base: str = "AX") -> Layout:
    """Y0-Y15 in the same slots."""
    layout = Layout(base)
    for n in range(16):
        layout.add(f"Y{n}", 32, "VMOVDQU", 64)
    return layout


def avx512_layout(base: str = "AX") -> Layout:
    """Z0-Z31 and behind them K0-K7."""
    layout = Layout(base)
    for n in range(32):
        layout.add(f"Z{n}", 64, "VMOVDQU64")
    for n in range(8):
        layout.add(f"K{n}", 8, "KMOVQ")
    return layout


def trampoline(
    saves: Iterable[str],
    restores: Iterable[str],
    *,
    frame: int,
    name: str = "runtime·asyncPreempt",
    call: str = "runtime·asyncPreempt2",
    headers: Sequence[str] = ("textflag.h",),
    preamble: str = "",
) -> str:
    """The text of an asyncPreempt around given saves and restores.

    Args:
        saves: lines between the frame's making and the call.
        restores: lines between the call and the frame's end.
        frame: bytes below the flags, a multiple of 8.
        name: the function, with U+00B7 for its dot.
        call: what it calls in between.
        headers: files to include.
        preamble: what stands before the code, as comments.
    """
    body = [
        "PUSHQ BP",
        "MOVQ SP, BP",
        "// The flags first: what follows changes them.",
        "PUSHFQ",
        # The assembler follows SP through ADJSP, not through SUBQ.
        f"ADJSP ${frame}",
        "NOP SP",
        *saves,
        f"CALL {call}(SB)",
        *restores,
        f"ADJSP $-{frame}",
        "POPFQ",
        "POPQ BP",
        "RET",
    ]
    include = "".join(f'#include "{header}"\n' for header in headers)
    lines = "".join(
        f"{line}\n" if line.startswith("#") or line.endswith(":") else f"\t{line}\n"
        for line in body
    )
    return f"{preamble}{include}\nTEXT {name}(SB), NOSPLIT|NOFRAME, $0-0\n{lines}"


_NOTICE = "// Made by python -m asm.mkpreempt; do not edit.\n"


def stack_text() -> str:
    """asm/go/preempt_stack_amd64.s: all registers on the stack, Go 1.14 to 1.25."""
    layout = stack_layout()
    saves = layout.saves()
    # A dirty upper half of the YMM registers makes each SSE instruction slow; on darwin up to
    # 1.23 the signal return left it so.
    at = len(GPRS)
    saves[at:at] = [
        "#ifndef go1_24",
        "#ifdef GOOS_darwin",
        "#ifndef hasAVX",
        "CMPB internal∕cpu·X86+const_offsetX86HasAVX(SB), $0",
        "JE 2(PC)",
        "#endif",
        "VZEROUPPER",
        "#endif",
        "#endif",
    ]
    return trampoline(
        saves,
        layout.restores(),
        frame=layout.size,
        headers=("go_asm.h", "asm_amd64.h", "textflag.h"),
        preamble=f"{_NOTICE}// Go 1.14 to 1.25: every register on the goroutine's stack.\n\n",
    )


def xregs_text() -> str:
    """asm/go/preempt_xregs_amd64.s: vectors in the P's xRegs, Go 1.26 on."""
    gprs = gpr_layout()
    kinds = {"SSE": sse_layout(), "AVX2": avx2_layout(), "AVX512": avx512_layout()}

    def dispatch(verb: str) -> list[str]:
        lines = ["#ifdef GOEXPERIMENT_simd"]
        for kind in ("AVX512", "AVX2"):
            lines += [
                f"CMPB internal∕cpu·X86+const_offsetX86Has{kind}(SB), $1",
                f"JE {verb}{kind}",
            ]
        return [*lines, "#endif"]

    saves = [
        *gprs.saves(),
        "// Nothing is known of R14 here: g comes from TLS.",
        "get_tls(CX)",
        "MOVQ g(CX), R14",
        "MOVQ g_m(R14), AX",
        "MOVQ m_p(AX), AX",
        "LEAQ (p_xRegs+xRegPerP_scratch)(AX), AX",
        *dispatch("save"),
    ]
    for kind, layout in kinds.items():
        saves += [f"save{kind}:", *layout.saves(), "JMP preempt"]
    saves.append("preempt:")
    restores = [
        "MOVQ g_m(R14), AX",
        "MOVQ m_p(AX), AX",
        "MOVQ (p_xRegs+xRegPerP_cache)(AX), AX",
        *dispatch("restore"),
    ]
    for kind, layout in kinds.items():
        restores += [f"restore{kind}:", *layout.restores(), "JMP restoreGPs"]
    restores += ["restoreGPs:", *gprs.restores()]
    return trampoline(
        saves,
        restores,
        frame=gprs.size,
        headers=("go_asm.h", "go_tls.h", "asm_amd64.h", "textflag.h"),
        preamble=f"{_NOTICE}// Go 1.26 on: vector registers in p.xRegs, the rest on the stack.\n\n",
    )


OUTPUTS = {"preempt_stack_amd64.s": stack_text, "preempt_xregs_amd64.s": xregs_text}


def main() -> None:
    """Writes the generated files into asm/go/."""
    directory = Path(__file__).parent / "go"
    for name, make in OUTPUTS.items():
        (directory / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
