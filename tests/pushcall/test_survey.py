"""The survey and batches find what the whole runtime finds at every boundary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from small_examples import EXAMPLES, NAMES, shortened

from asm.mkpreempt import stack_text, xregs_text
from emulator import counting_cpu
from pushcall.api import check
from pushcall.check import exhaustive as checking

if TYPE_CHECKING:
    from pushcall.check.verdict import CheckResult

HEAD = '#include "textflag.h"\n'


def short(name: str) -> str:
    return shortened(name, 5).replace("#define DEPTH 40", "#define DEPTH 24")


def found(result: CheckResult) -> dict[str, object]:
    """The document of a check, but how many points were tried in which way."""
    document = result.to_json()
    del document["direct"]
    return document


@pytest.mark.parametrize("go", ["1.22", "1.27"])
@pytest.mark.parametrize("name", NAMES)
def test_the_survey_and_the_whole_runtime_agree_on_examples(name: str, go: str) -> None:
    folder = (EXAMPLES / name).parent
    surveyed = check(short(name), folder, go=go, budget=450)  # one example has no end
    direct = check(short(name), folder, go=go, budget=450, all_direct=True)
    assert found(surveyed) == found(direct)
    assert direct.direct == direct.points
    assert 0 < surveyed.direct <= surveyed.points


# What a preemption does to the stack below RSP is seen only where an instruction reads it.
DEAD = {
    "pushed, popped, and pushed from below": "PUSHQ $7\n\tADJSP $-8\n\tPUSHQ -8(SP)\n\tPOPQ BX",
    "in a frame that was made around it": (
        "MOVQ $7, -8(SP)\n\tNOP\n\tSUBQ $8, SP\n\tMOVQ 0(SP), BX\n\tMOVQ 0(SP), DX\n\tADDQ $8, SP"
    ),
    "a slot that nobody wrote": "SUBQ $64, SP\n\tNOP\n\tMOVQ 16(SP), BX\n\tADDQ $64, SP",
    "flags": "MOVQ $1, -8(SP)\n\tCMPQ -8(SP), $1",
    "a vector half": "SUBQ $16, SP\n\tMOVQ AX, 0(SP)\n\tMOVUPS 0(SP), X3\n\tADDQ $16, SP",
    "copied by a string instruction": (
        "LEAQ -16(SP), SI\n\tLEAQ main·to(SB), DI\n\tMOVQ $2, CX\n\tREP\n\tMOVSQ"
    ),
    "written first": "SUBQ $16, SP\n\tMOVQ AX, 0(SP)\n\tMOVQ 0(SP), BX\n\tADDQ $16, SP",
}


@pytest.mark.parametrize("go", ["1.22", "1.27"])
@pytest.mark.parametrize("name", DEAD)
def test_reads_of_dead_stack_are_found_at_every_visit(name: str, go: str) -> None:
    text = (
        f"{HEAD}GLOBL main·to(SB), NOPTR, $64\nTEXT main·main(SB), NOSPLIT, $16-0\n"
        f"\tMOVQ $6, 8(SP)\nagain:\n\t{DEAD[name]}\n\tDECQ 8(SP)\n\tJNE again\n\tRET\n"
    )
    surveyed, direct = check(text, go=go), check(text, go=go, all_direct=True)
    assert surveyed.ok == direct.ok == (name == "written first")
    assert [(loss.register, loss.points, loss.first, loss.before) for loss in surveyed.losses] == [
        (loss.register, loss.points, loss.first, loss.before) for loss in direct.losses
    ]
    assert all(loss.points >= 6 for loss in surveyed.losses)
    assert surveyed.direct < surveyed.points


LOOP = f"""{HEAD}
GLOBL	main·data(SB), NOPTR, $64

TEXT main·f(SB), NOSPLIT, $40-0
	MOVQ	R9, 32(SP)
	MOVQ	32(SP), R10
	RET

TEXT main·main(SB), NOSPLIT, $512-0
	XORL	R9, R9
	MOVQ	R9, 0(SP)
	MOVQ	$20, 400(SP)
	MOVQ	$0xdbdbdbdbdbdbdbdb, R12
	MOVQ	R12, X9
loop:
	ADDQ	$3, R9
	MOVQ	R9, X3
	MOVQ	R9, 0(SP)
	PUSHQ	R9
	CALL	main·f(SB)
	POPQ	R11
	MOVQ	R9, main·data(SB)
	MOVQ	$0x2424242424242424, R13
	CMPQ	R9, $30
	DECQ	400(SP)
	JNE	loop
	RET
"""
GOOD = stack_text()
R9 = "\tMOVQ 56(SP), R9\n"
FLAGS = 368  # where they lie in the trampoline's frame, and what lies above
PC = FLAGS + 16
ABOVE = FLAGS + 24


def slot(register: str) -> str:
    """Where the trampoline saves a register."""
    place = re.search(rf"\tMOV\w+ {register}, (\d+\(SP\))\n", GOOD)
    assert place is not None
    return place[1]


def unless(condition: str) -> str:
    """The trampoline, but R9 is not restored if a condition's result is zero."""
    assert GOOD.count(R9) == 1
    return GOOD.replace(R9, f"\t{condition}\n\tJEQ skip\n{R9}skip:\n")


def without(line: str, instead: str = "") -> str:
    """The trampoline with a line replaced."""
    assert GOOD.count(line) == 1
    return GOOD.replace(line, instead)


MUTANTS = {
    "a word at RSP": unless(f"CMPQ {ABOVE}(SP), $30"),
    "a word 400 bytes above RSP": unless(f"CMPQ {ABOVE + 400}(SP), $7"),
    "the carry at the boundary": unless(f"BTQ $0, {FLAGS}(SP)\n\tSBBQ AX, AX\n\tINCQ AX"),
    "the value of a register": unless(f"CMPQ {slot('R10')}, $27"),
    "the low bits of a vector": unless(f"TESTQ $4, {slot('X3')}"),
    "the alignment of the stack": unless("TESTQ $8, SP"),
    "the interrupted PC": unless(f"TESTQ $1, {PC}(SP)"),
    "a value that is the poison": without(f"\tMOVQ R12, {slot('R12')}\n"),
    "a value that is the other poison": without(f"\tMOVQ R13, {slot('R13')}\n"),
    "half a vector that is the poison": without(
        f"\tMOVUPS X9, {slot('X9')}\n", f"\tMOVHPS X9, {int(slot('X9')[:-4]) + 8}(SP)\n"
    ),
    "the stack pointer, eight bytes lower": without("\tRET", "\tPUSHQ 0(SP)\n\tADJSP $-8\n"
        "\tLEAQ -8(SP), SP\n\tRET"),
    "the stack pointer, eight bytes higher": without(
        "\tRET", "\tPUSHQ AX\n\tMOVQ 8(SP), AX\n\tMOVQ AX, 16(SP)\n\tPOPQ AX\n"
        "\tLEAQ 8(SP), SP\n\tRET"),
    "what another frame's place hides": without("\tRET", "\tMOVB $0, 600(SP)\n\tRET"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_that_try_to_slip_through_are_lost_where_they_are(name: str) -> None:
    """Each depends on something that differs from visit to visit, or hides behind the poison."""
    shorter = LOOP.replace("$20, 400(SP)", "$11, 400(SP)")
    surveyed = check(shorter, trampoline=MUTANTS[name])
    direct = check(shorter, trampoline=MUTANTS[name], all_direct=True)
    assert found(surveyed) == found(direct)
    assert surveyed.verdict == "lost"


def test_every_nth_call_is_found_in_batches() -> None:
    """The trampoline's own data lasts from frame to frame."""
    counted = GOOD.replace(
        R9, f"\tINCQ calls<>(SB)\n\tTESTQ $31, calls<>(SB)\n\tJEQ skip\n{R9}skip:\n"
    )
    result = check(LOOP, trampoline=f"{counted}\nGLOBL calls<>(SB), NOPTR, $8\n")
    (loss,) = result.losses
    assert loss.register == "R9"
    assert loss.points >= result.points // 32 - 2
    assert result.direct < result.points / 2


def test_a_vector_of_the_p_that_is_the_poison_is_lost() -> None:
    text = xregs_text()
    save = next(line for line in text.splitlines() if line.strip().startswith("MOVUPS X9,"))
    surveyed = check(LOOP, go="1.27", trampoline=text.replace(save + "\n", ""))
    assert [loss.register for loss in surveyed.losses] == ["XMM9"]
    assert surveyed.losses[0].points == surveyed.points


RESTART = f"""{HEAD}
TEXT main·main(SB), NOSPLIT, $16-0
	MOVQ	$5, 0(SP)
again:
	PCDATA	$0, $-3
	MOVQ	0(SP), BX
	ADDQ	$7, BX
	MOVQ	BX, 8(SP)
	PCDATA	$0, $-1
	DECQ	0(SP)
	JNE	again
	RET
"""


def test_a_restart_sequence_comes_again_and_nothing_is_lost() -> None:
    """Go 1.18 on: PCDATA_UnsafePoint -3 sends a preempted goroutine back to its start."""
    surveyed, direct = check(RESTART, go="1.22"), check(RESTART, go="1.22", all_direct=True)
    assert found(surveyed) == found(direct)
    assert surveyed.ok, list(surveyed.lines())
    assert surveyed.direct >= 5 * 2


def test_a_restart_sequence_that_must_not_come_again_is_lost() -> None:
    text = RESTART.replace("MOVQ	BX, 8(SP)", "INCQ	CX\n\tMOVQ	CX, 8(SP)\n\tNOP")
    surveyed, direct = check(text, go="1.22"), check(text, go="1.22", all_direct=True)
    assert found(surveyed) == found(direct)
    assert {loss.register for loss in surveyed.losses} >= {"RCX"}


@pytest.mark.parametrize("go", ["1.22", "1.27"])
def test_a_host_without_machine_code_finds_the_same(
    go: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        f"{HEAD}TEXT main·main(SB), NOSPLIT, $16-0\n\tMOVQ $4, 0(SP)\nagain:\n\tMOVQ R9, -8(SP)\n"
    )
    text += "\tADDQ -8(SP), R9\n\tDECQ 0(SP)\n\tJNE again\n\tRET\n"
    trampoline = GOOD.replace(R9, "") if go == "1.22" else None
    options = {} if trampoline is None else {"trampoline": trampoline}
    machine = check(text, go=go, **options).to_json()
    monkeypatch.setattr(counting_cpu, "machine_code_hooks", lambda _: None)
    python = check(text, go=go, **options).to_json()
    assert machine.pop("engine") == "unicorn, block counting"
    assert python.pop("engine") == "unicorn, python counting"
    assert python == machine
    assert [loss["register"] for loss in machine["losses"]] == (
        ["R9"] if trampoline is not None else ["MEMORY"]
    )


def test_a_boundary_may_be_where_the_program_dies() -> None:
    text = f"{HEAD}TEXT main·main(SB), NOSPLIT, $0-0\n\tXORL AX, AX\n\tMOVQ 0(AX), BX\n\tRET\n"
    surveyed, direct = check(text), check(text, all_direct=True)
    assert found(surveyed) == found(direct)
    assert (surveyed.points, surveyed.boundaries) == (2, 1)
    assert surveyed.crash is not None


def test_what_is_not_tried_directly_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "DIRECT_LIMIT", 3)
    text = f"{HEAD}TEXT main·main(SB), NOSPLIT, $0-0\n\tMOVQ $40, CX\nagain:\n"
    text += "\tMOVQ CX, -8(SP)\n\tCMPQ -8(SP), CX\n\tDECQ CX\n\tJNE again\n\tRET\n"
    result = check(text)
    (finding,) = result.findings
    # Behind the last RET the runtime's own assembly reads what its Python part has written.
    assert finding == (
        "41 instructions read stack that a preemption may have overwritten; 3 of them were tried"
    )
    assert result.points == result.boundaries
    dirty = GOOD.replace("\tRET", "\tFLDPI\n\tRET")
    assert (
        "boundaries that no batch can judge were not tried"
        in check(text, trampoline=dirty).findings[1]
    )
