"""A batch finds what the whole runtime finds: the same losses, at the same boundaries."""

from __future__ import annotations

import pytest

from asm.mkpreempt import stack_text, xregs_text
from pushcall.api import check

# Many visits of few PCs, so that all but the first two of each are tried in batches.
LOOP = """\
#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $8-0
	MOVQ	$12, 0(SP)
	MOVQ	$0x123456789, R9
loop:
	ADDQ	$3, R9
	IMULQ	$7, R9
	DECQ	0(SP)
	JNE	loop
	RET
"""


def mutant(old: str, new: str, text: str = "") -> str:
    good = text or stack_text()
    assert good.count(old) == 1
    return good.replace(old, new)


MUTANTS = {
    "good": stack_text(),
    "R9 is not saved": mutant("\tMOVQ R9, 56(SP)\n", ""),
    "R9 is not restored": mutant("\tMOVQ 56(SP), R9\n", ""),
    "half of X5 is restored": mutant("MOVUPS 192(SP), X5", "MOVSD 192(SP), X5"),
    "flags are forgotten": mutant("\tPOPFQ\n", "\tADJSP $-8\n"),
    "BP is forgotten": mutant("\tPOPQ BP\n", "\tADJSP $-8\n"),
    "returns 8 bytes further": mutant("\tPOPQ BP\n\tRET", "\tPOPQ BP\n\tADDQ $8, 0(SP)\n\tRET"),
    "returns through another stack": mutant("\tRET", "\tADDQ $8, SP\n\tRET"),
    "writes above RSP": mutant("\tRET", "\tMOVQ $1, 8(SP)\n\tRET"),
    "writes far above RSP": mutant("\tRET", "\tMOVQ $1, 4096(SP)\n\tRET"),
    "leaves DF set": mutant("\tPOPQ BP\n", "\tPOPQ BP\n\tSTD\n"),
    "leaves x87 dirty": mutant("\tPOPQ BP\n", "\tPOPQ BP\n\tFLDPI\n"),
    "every third call loses R9": mutant(
        "\tMOVQ 56(SP), R9\n",
        "\tINCQ calls<>(SB)\n\tCMPQ calls<>(SB), $3\n\tJNE restore\n"
        "\tMOVQ $0, calls<>(SB)\n\tJMP skip\nrestore:\n\tMOVQ 56(SP), R9\nskip:\n",
    )
    + "\nGLOBL calls<>(SB), NOPTR, $8\n",
    "loses R9 where a word of the stack is even": mutant(
        "\tMOVQ 56(SP), R9\n", "\tTESTQ $1, 392(SP)\n\tJEQ skip\n\tMOVQ 56(SP), R9\nskip:\n"
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_batch_and_the_whole_runtime_agree(name: str) -> None:
    batched = check(LOOP, trampoline=MUTANTS[name])
    direct = check(LOOP, trampoline=MUTANTS[name], all_direct=True)
    assert direct.direct == direct.points
    assert batched.points == direct.points
    assert batched.verdict == direct.verdict == ("preserved" if name == "good" else "lost")
    if "third" in name:  # a batch does not count the calls of the directly tried boundaries
        assert [loss.register for loss in batched.losses] == ["R9"]
        return
    assert [loss.to_json() for loss in batched.losses] == [loss.to_json() for loss in direct.losses]


def test_most_boundaries_of_a_loop_are_tried_in_batches() -> None:
    result = check(LOOP)
    assert result.ok
    assert result.direct < result.points / 2


def test_a_batch_knows_the_vectors_of_the_p() -> None:
    """Since Go 1.26 asyncPreempt saves vectors to p.xRegs.scratch, and finds them in its cache."""
    good = xregs_text()
    assert check(LOOP, go="1.27", trampoline=good).ok
    restore = next(line for line in good.splitlines() if line.endswith(", X5") and "MOVUPS" in line)
    lost = check(LOOP, go="1.27", trampoline=good.replace(restore, "")).losses
    assert [loss.register for loss in lost] == ["XMM5"]


def test_a_refused_boundary_is_counted_in_batches_too() -> None:
    guarded = LOOP.replace("\tIMULQ", "\tPCDATA\t$0, $-2\n\tIMULQ").replace(
        "\tDECQ", "\tPCDATA\t$0, $-1\n\tDECQ"
    )
    batched, direct = check(guarded), check(guarded, all_direct=True)
    assert batched.ok
    assert batched.unsafe == direct.unsafe == 12
    assert batched.refusals == direct.refusals
    assert batched.points == direct.points == batched.boundaries - 12


@pytest.mark.parametrize("all_direct", [False, True])
def test_a_vector_of_zero_is_not_found_in_an_area_of_zeros(all_direct: bool) -> None:
    """p.xRegs.scratch begins as zeros: a save that is missing must not pass for one of zero."""
    text = (
        '#include "textflag.h"\nTEXT main·main(SB), NOSPLIT, $0-0\n'
        "\tPXOR X5, X5\n\tXORL AX, AX\n\tINCQ AX\n\tINCQ AX\n\tRET\n"
    )
    good = xregs_text()
    save = next(line for line in good.splitlines() if line.strip().startswith("MOVUPS X5,"))
    mutant = good.replace(save + "\n", "")
    result = check(text, go="1.27", trampoline=mutant, all_direct=all_direct)
    assert [(loss.register, loss.points) for loss in result.losses] == [("XMM5", result.points)]
    assert result.points == 5
