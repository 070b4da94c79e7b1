"""Editing linked code: what does not change keeps its bytes, branches follow what moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asm.assemble import Source, Target, assemble
from asm.rewrite import CannotRewriteError, lines, rewritten, stack_use

if TYPE_CHECKING:
    from asm.image import Image

TEXT = """
TEXT ·f(SB), 4|512, $0-0
	TESTQ AX, AX
	JEQ done
	ADDQ $1, ·data(SB)
	CALL ·g(SB)
	JMP ·outside(SB)
done:
	RET
TEXT ·g(SB), 4|512, $0-0
	PUSHQ BP
	MOVQ ·data(SB), AX
	POPQ BP
	RET
GLOBL ·data(SB), 16, $8
"""


def image(text: str = TEXT) -> Image:
    return assemble(
        [Source("f.s", text)],
        Target(),
        text_address=0x40_0000,
        data_address=0x50_0000,
        externs={"main.outside": 0x40_8000, "main.far": 0x40_4000},
    )


def targets(linked: Image, name: str) -> list[int]:
    """Where the branches and RIP-relative operands of a function lead."""
    function = linked.function(name)
    assert function is not None
    insns = [line.insn for line in lines(function)]
    return [i.near_branch_target for i in insns if i.near_branch_target] + [
        i.ip_rel_memory_address for i in insns if i.is_ip_rel_memory_operand
    ]


def test_an_edit_that_changes_nothing_keeps_the_bytes() -> None:
    alone = TEXT.split("TEXT ·g", maxsplit=1)[0].replace("·g", "·far") + "GLOBL ·data(SB), 16, $8\n"
    before = image(alone)
    after = rewritten(before, "main.f", list)
    one, other = before.function("main.f"), after.function("main.f")
    assert one is not None
    assert other is not None
    assert [i.data for i in one.instructions] == [i.data for i in other.instructions]
    assert [i.position for i in one.instructions] == [i.position for i in other.instructions]


def test_branches_and_operands_relative_to_rip_follow_what_moves() -> None:
    after = rewritten(image(), "main.f", lambda code: [code[0].again(), *code])
    f, g = after.function("main.f"), after.function("main.g")
    assert f is not None
    assert g is not None
    assert f.instructions[0].data == f.instructions[1].data
    done = f.instructions[-1].address
    assert targets(after, "main.f") == [done, g.address, 0x40_8000, 0x50_0000]
    assert targets(after, "main.g") == [0x50_0000]
    code = next(s for s in after.segments if s.executable)
    assert code.data.startswith(b"".join(i.data for i in f.instructions))
    assert code.data.endswith(b"\xcc" * 16)  # whoever runs on behind the last function faults


def test_data_that_points_behind_the_edit_is_refused() -> None:
    text = TEXT + "DATA ·p(SB)/8, $·g(SB)\nGLOBL ·p(SB), 16, $8\n"
    with pytest.raises(CannotRewriteError, match=r"points to main\.g"):
        rewritten(image(text), "main.f", list)


def test_bytes_that_are_no_instruction_are_refused() -> None:
    function = image("TEXT ·f(SB), 4|512, $0-0\n\tBYTE $6\n\tRET\n").function("main.f")
    assert function is not None
    with pytest.raises(CannotRewriteError, match=r"f\.s:2"):
        lines(function)


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("push rbp\npushfq\nsub rsp, 368\nadd rsp, 368\npopfq\npop rbp\nret", 384),
        ("lea rsp, [rsp - 0x70]\nlea rsp, [rsp + 0x70]\nret", 0x70),
        ("push rbp\nmov rbp, rsp\nand rsp, -64\nsub rsp, 512\nleave\nret", 8 + 56 + 512),
    ],
)
def test_the_stack_use_of_code_without_frames_is_measured(body: str, depth: int) -> None:
    linked = assemble(
        [Source("f.s", f"f:\n{body}\n")], Target(syntax="intel"),
        text_address=0x40_0000, data_address=0x50_0000,
    )  # fmt: skip
    assert [r.value for r in stack_use(linked.functions[0]).ranges] == [depth]
