"""asyncPreempt: the files in the tree are the generator's, and the code is Go's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import asm
from asm import mkpreempt
from asm.assemble import Source, Target, assemble

GO = Path(asm.__file__).parent / "go"
RECORDED = Path(__file__).parent / "recorded"


@pytest.mark.parametrize("name", list(mkpreempt.OUTPUTS))
def test_the_tree_holds_what_the_generator_makes(name: str) -> None:
    assert (GO / name).read_text(encoding="utf-8") == mkpreempt.OUTPUTS[name]()


def cases() -> list[tuple[str, str]]:
    return [
        (system, version)
        for system in ("linux", "darwin", "simd")
        for version in json.loads((RECORDED / f"preempt_{system}.json").read_text())
    ]


@pytest.mark.parametrize(("system", "version"), cases())
def test_the_code_is_that_of_the_runtimes_own_asyncpreempt(system: str, version: str) -> None:
    """Recorded from each version's runtime/preempt_amd64.s by recorded/record.py."""
    want = json.loads((RECORDED / f"preempt_{system}.json").read_text())[version]
    go = tuple(int(part) for part in version.split("."))
    name = "preempt_xregs_amd64.s" if go >= (1, 26) else "preempt_stack_amd64.s"
    image = assemble(
        [Source(name, mkpreempt.OUTPUTS[name]())],
        Target(
            go=(go[0], go[1]),
            package="runtime",
            headers={"go_asm.h": go_asm_h()},
            defines={"GOEXPERIMENT_simd": "1"} if system == "simd" else {},
            goos="darwin" if system == "darwin" and go < (1, 26) else "linux",
        ),
        text_address=0x400000,
        data_address=0x500000,
        externs={"runtime.asyncPreempt2": 0x410000, "internal/cpu.X86": 0x420000},
    )
    code = b"".join(i.data for i in image.functions[0].instructions)
    expected = want["runtime.asyncPreempt"]
    pairs = [f"{byte:02x}" for byte in code]
    shown = [".." if expected[2 * n : 2 * n + 2] == ".." else pair for n, pair in enumerate(pairs)]
    assert "".join(shown) == expected


def go_asm_h() -> str:
    """The header that the recording was made with."""
    text = (RECORDED / "record.py").read_text()
    return text.split('GO_ASM_H = """')[1].split('"""')[0]


def test_an_order_of_ones_own_and_mutants_come_from_the_same_parts() -> None:
    layout = mkpreempt.gpr_layout(registers=("R15", "AX"))
    layout.add("X3", 16, "MOVUPS", 32)
    assert layout.size == 48
    assert layout.saves() == ["MOVQ R15, 0(SP)", "MOVQ AX, 8(SP)", "MOVUPS X3, 16(SP)"]
    assert layout.restores() == ["MOVUPS 16(SP), X3", "MOVQ 8(SP), AX", "MOVQ 0(SP), R15"]
    assert layout.swapped(0, 1).saves()[:2] == ["MOVQ AX, 8(SP)", "MOVQ R15, 0(SP)"]
    text = mkpreempt.trampoline(layout.saves()[1:], layout.restores(), frame=64)
    assert "ADJSP $64\n" in text
    assert "R15, 0(SP)" not in text
