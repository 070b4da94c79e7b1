"""Trampolines that save YMM, ZMM and mask registers, and mutants of them that lose some.

The layouts are those that Go's mkpreempt.go has since 1.26 for AVX2 and AVX-512; here they lie on
the goroutine's stack, so that each Go version runs them. Mutants must be blamed on what they lose.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from asm.mkpreempt import (
    Layout,
    avx2_layout,
    avx512_layout,
    gpr_layout,
    stack_text,
    trampoline,
)
from pushcall.api import check, run
from pushcall.snippet.run import to_json
from pushcall.snippet.text import run_report
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from pushcall.check.verdict import CheckResult

DATA = "".join(
    f"DATA main·data+{8 * i}(SB)/8, ${0x0123_4567_89AB_CDEF ^ i * 0x1111_1111_1111_1111:#x}\n"
    for i in range(8)
)
SNIPPET = f"""
#include "textflag.h"
{DATA}GLOBL	main·data(SB), RODATA|NOPTR, $64

TEXT main·main(SB), NOSPLIT|NOFRAME, $0-0
	%s
	MOVQ	$3, CX
loop:
	DECQ	CX
	JNE	loop
	RET
"""
YMM = "\n\t".join(f"VMOVDQU main·data(SB), Y{i}" for i in range(16))
ZMM = "\n\t".join(
    [f"VMOVDQU64 main·data(SB), Z{i}" for i in range(32)]
    + ["MOVQ $0x123456789abcdef, AX"]
    + [f"KMOVQ AX, K{i}" for i in range(8)]
)
SNIPPETS = {"avx2": SNIPPET % YMM, "avx512": SNIPPET % ZMM}
# One register is enough to have all of its component overwritten in between; those that are
# restored by half hold something in the other half.
SHORT = {
    "avx2": SNIPPET % "VMOVDQU main·data(SB), Y5\n\tVMOVDQU Y5, Y6",
    "avx512": SNIPPET
    % "VMOVDQU64 main·data(SB), Z5\n\tVMOVDQU64 Z5, Z20\n\tKMOVQ main·data(SB), K5",
}
LIVE = 1 + 3 * 2 + 1  # boundaries behind the loads


def on_stack(vectors: Layout) -> Layout:
    """General registers, and above them the slots of a layout, all above SP."""
    layout = gpr_layout()
    moved = [replace(slot, offset=slot.offset + layout.size) for slot in vectors.slots]
    return Layout("SP", layout.slots + moved, layout.size + vectors.size)


LAYOUTS = {"avx2": on_stack(avx2_layout()), "avx512": on_stack(avx512_layout())}


def text_of(
    layout: Layout, saves: list[str] | None = None, restores: list[str] | None = None
) -> str:
    return trampoline(
        layout.saves() if saves is None else saves,
        layout.restores() if restores is None else restores,
        frame=layout.size,
    )


def judge(family: str, text: str) -> CheckResult:
    return check(SHORT[family], trampoline=text)


def blamed(result: CheckResult) -> list[str]:
    return [loss.register for loss in result.losses]


@pytest.mark.parametrize("go", ["1.14", "1.27"])
@pytest.mark.parametrize("family", LAYOUTS)
def test_a_trampoline_that_saves_all_preserves_all(family: str, go: str) -> None:
    result = check(SNIPPETS[family], trampoline=text_of(LAYOUTS[family]), go=go)
    assert result.ok, list(map(str, result.losses))
    assert result.points == result.boundaries
    # Where AVX is in use no batch is asked.
    assert result.direct >= LIVE


@pytest.mark.parametrize("family", LAYOUTS)
def test_one_that_saves_xmm_only_loses_what_lies_above(family: str) -> None:
    result = judge(family, stack_text())
    wide = {"avx2": [f"YMM{i}" for i in range(16)], "avx512": [f"ZMM{i}" for i in range(32)]}
    masks = [f"K{i}" for i in range(8)] if family == "avx512" else []
    assert sorted(blamed(result)) == sorted(wide[family] + masks)
    for loss in result.losses:
        assert loss.before != loss.after
        if loss.register in ("YMM3", "ZMM3"):
            assert (loss.before ^ loss.after) & (2**128 - 1) == 0
            assert loss.points >= LIVE


def without(lines: list[str], *registers: str) -> list[str]:
    kept = [line for line in lines if not re.search(rf"\b({'|'.join(registers)})\b", line)]
    assert len(kept) == len(lines) - len(registers)
    return kept


DROPPED = {
    "avx2": (("Y0", "Y7", "Y15"), ["XMM0", "YMM0", "XMM7", "YMM7", "XMM15", "YMM15"]),
    "avx512": (
        ("Z3", "Z15", "Z16", "Z31", "K0", "K7"),
        ["XMM3", "ZMM3", "XMM15", "ZMM15", "ZMM16", "ZMM31", "K0", "K7"],
    ),
}


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_dropped_save_or_restore_loses_that_register(family: str) -> None:
    layout = LAYOUTS[family]
    registers, lost = DROPPED[family]
    for text in (
        text_of(layout, saves=without(layout.saves(), *registers)),
        text_of(layout, restores=without(layout.restores(), *registers)),
    ):
        result = judge(family, text)
        assert sorted(blamed(result)) == sorted(lost)
        assert all(loss.points >= LIVE for loss in result.losses)


def halved(lines: list[str], register: str, move: str, half: str) -> list[str]:
    """The lines with one register moved by its half only."""
    return [
        re.sub(r"^\w+", move, line).replace(register, half)
        if re.search(rf"\b{register}\b", line)
        else line
        for line in lines
    ]


# A move of the lower half: (family, register, the move, the half's name, what is lost).
HALVES = [
    ("avx2", "Y5", "MOVUPS", "X5", ["YMM5"]),
    ("avx2", "Y6", "VMOVDQU", "X6", ["YMM6"]),
    ("avx512", "Z5", "VMOVDQU", "Y5", ["ZMM5"]),
    ("avx512", "Z20", "VMOVDQU64", "Y20", ["ZMM20"]),
    ("avx512", "K5", "KMOVD", "K5", ["K5"]),
]


@pytest.mark.parametrize(("family", "register", "move", "half", "lost"), HALVES)
def test_half_a_save_or_restore_loses_the_other_half(
    family: str, register: str, move: str, half: str, lost: list[str]
) -> None:
    layout = LAYOUTS[family]
    for text in (
        text_of(layout, saves=halved(layout.saves(), register, move, half)),
        text_of(layout, restores=halved(layout.restores(), register, move, half)),
    ):
        assert blamed(judge(family, text)) == lost


def test_vzeroupper_in_the_trampoline_clears_the_upper_halves() -> None:
    # golang.org/issue/37174 put one there for darwin.
    text = stack_text().replace("\tMOVUPS X0, 112(SP)\n", "\tVZEROUPPER\n\tMOVUPS X0, 112(SP)\n")
    result = judge("avx2", text)
    assert blamed(result) == [f"YMM{i}" for i in range(16)]
    five = next(loss for loss in result.losses if loss.register == "YMM5")
    assert five.before >> 128
    assert (five.before ^ five.after) & (2**128 - 1) == 0


def test_a_trampoline_may_leave_nothing_above_where_nothing_was() -> None:
    text = stack_text().replace("\tPOPFQ\n", "\tVMOVDQU 0(SP), Y2\n\tPOPFQ\n")
    plain = SNIPPET % "PXOR X2, X2"
    result = check(plain, trampoline=text)
    assert set(blamed(result)) == {"XMM2", "YMM2"}
    assert result.points == result.boundaries


def test_final_registers_and_losses_show_what_avx_holds() -> None:
    rt, outcome = run(SNIPPETS["avx512"], never=True)
    registers = to_json(rt, outcome)["goroutines"][0]["registers"]
    assert registers["K7"] == "0x123456789abcdef"
    assert registers["ZMM31"] == registers["ZMM0"]
    assert registers["ZMM0"].endswith(registers["XMM0"][2:])
    (line,) = (line for line in run_report(rt, outcome) if "ended with" in line)
    assert f"ZMM3 = {registers['ZMM3']}, and 36 more of YMM, ZMM and K" in line


# GOEXPERIMENT=simd: asyncPreempt asks internal/cpu.X86 (mkpreempt.go, 1.26 on).
@pytest.mark.parametrize("go", ["1.26", "1.27"])
@pytest.mark.parametrize(("family", "cpu"), [("avx2", "avx2"), ("avx2", "avx512"), ("avx512",) * 2])
def test_simd_preserves_what_the_processor_has(family: str, cpu: str, go: str) -> None:
    result = check(SHORT[family], cpu=cpu, go=go)
    assert result.ok, list(map(str, result.losses))
    assert result.points == result.boundaries


def test_a_cpu_that_nobody_knows_or_no_version_has_is_bad_input() -> None:
    with pytest.raises(UsageError, match=r"Go 1\.22 has no GOEXPERIMENT=simd"):
        check(SHORT["avx2"], cpu="avx2", go="1.22")
    with pytest.raises(UsageError, match="there are: sse, avx, avx2, avx512"):
        check(SHORT["avx2"], cpu="z80", go="1.27")
    with pytest.raises(UsageError, match="--trampoline another one"):
        check(SHORT["avx2"], cpu="avx2", go="1.27", trampoline=stack_text())
