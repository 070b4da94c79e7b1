"""What `check` must see, and must not blame on preemption, beyond single broken trampolines."""

from __future__ import annotations

import pytest

from asm.mkpreempt import stack_text
from pushcall.api import check, program
from pushcall.check.exhaustive import Check
from runtime_model.preempt import Reason

HEAD = '#include "textflag.h"\n\n'


def snippet(body: str, flags: str = "NOSPLIT|NOFRAME, $0-0") -> str:
    """A function main.main with this body."""
    return f"{HEAD}TEXT main·main(SB), {flags}\n{body}"


LOOP = snippet("""
	MOVQ	$6, CX
loop:
	ADDQ	CX, R9
	DECQ	CX
	JNE	loop
	RET
""")


@pytest.mark.parametrize(
    "code",
    ["PUSHFQ\n\tADDQ $1, 8(SP)\n\tPOPFQ\n\tRET", "UNDEF"],
    ids=["returns inside an instruction", "never returns"],
)
def test_a_stray_in_a_batch_is_found_as_by_the_whole_runtime(code: str) -> None:
    text = stack_text().replace("\tRET\n", f"\t{code}\n")
    direct = check(LOOP, trampoline=text, go="1.22", all_direct=True)
    batched = check(LOOP, trampoline=text, go="1.22")
    assert direct.direct == direct.points == batched.points
    assert "RIP" in {loss.register for loss in batched.losses}
    assert [loss.to_json() for loss in batched.losses] == [loss.to_json() for loss in direct.losses]


def test_a_value_far_below_rsp_is_lost() -> None:
    # Deeper than this trampoline reaches; below RSP Go promises nothing, however far.
    body = "\tMOVQ $42, AX\n\tMOVQ AX, -6000(SP)\n\tXORL AX, AX\n\tMOVQ -6000(SP), BX\n\tRET\n"
    result = check(snippet(body))
    (loss,) = result.losses
    assert (loss.register, loss.before) == ("MEMORY", 42)
    assert loss.first.place.source.endswith("BX")


def test_a_value_below_rsp_is_kept_where_the_runtime_refuses() -> None:
    """As BP around a call of duffzero (obj6.go): handlers have the gsignal stack (SA_ONSTACK)."""
    body = (
        "\tMOVQ $42, AX\n\tPCDATA $0, $-2\n\tMOVQ AX, -16(SP)\n\tXORL AX, AX\n"
        "\tMOVQ -16(SP), BX\n\tPCDATA $0, $-1\n\tRET\n"
    )
    result = check(snippet(body))
    assert (result.losses, result.unsafe) == ([], 3)


ON_G0 = f"""{HEAD}
DATA	main·fn·f(SB)/8, $main·fn(SB)
GLOBL	main·fn·f(SB), RODATA|NOPTR, $8

TEXT main·main(SB), 0, $24-0
	MOVQ	$5, 8(SP)
again:
	MOVQ	$main·fn·f(SB), CX
	MOVQ	CX, 0(SP)
	CALL	runtime·systemstack(SB)
	DECQ	8(SP)
	JNE	again
	RET

TEXT main·fn(SB), NOSPLIT, $0-0
	MOVQ	$1, AX
	RET
"""


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_nothing_is_preempted_on_the_system_stack(go: str) -> None:
    result = check(ON_G0, go=go)
    assert result.ok
    assert result.refusals[Reason.NOT_WANTED.value] == 5 * 2
    assert result.points + result.unsafe == result.boundaries


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_a_goroutine_that_yields_by_itself_is_followed(go: str) -> None:
    body = (
        "\tMOVQ $5, 0(SP)\nagain:\n\tCALL runtime·Gosched(SB)\n\tDECQ 0(SP)\n\tJNE again\n\tRET\n"
    )
    result = check(snippet(body, "0, $16-0"), go=go)
    assert result.ok
    assert result.points > 15


def test_a_snippet_may_end_by_a_system_call() -> None:
    # exit_group(3)
    result = check(snippet("\tMOVL $3, DI\n\tMOVL $231, AX\n\tSYSCALL\n\tRET\n"))
    assert result.ok
    assert (result.points, result.boundaries) == (3, 3)


def test_a_snippet_may_sleep() -> None:
    # nanosleep({0, 50000}, NULL): RCX and R11 are the system call's.
    body = """
	MOVQ	$0, 0(SP)
	MOVQ	$50000, 8(SP)
	MOVQ	SP, DI
	XORL	SI, SI
	MOVL	$35, AX
	SYSCALL
	RET
"""
    result = check(snippet(body, "NOSPLIT, $16-0"))
    assert result.ok
    assert result.points == result.boundaries


def test_a_trampoline_that_never_returns_loses_rip_and_ends() -> None:
    text = f"{HEAD}TEXT ·asyncPreempt(SB), NOSPLIT|NOFRAME, $0-0\nagain:\n\tJMP again\n"
    result = check(snippet("\tNOP\n\tRET\n"), trampoline=text, go="1.22")
    assert result.verdict == "lost"
    assert result.losses[0].register == "RIP"
    assert "budget" in result.losses[0].note


def test_a_trampoline_that_exits_is_found() -> None:
    text = f"{HEAD}TEXT ·asyncPreempt(SB), NOSPLIT|NOFRAME, $0-0\n\tMOVL $231, AX\n\tSYSCALL\n"
    result = check(snippet("\tNOP\n\tRET\n"), trampoline=text, go="1.22")
    assert result.verdict == "lost"
    assert "RIP" in {loss.register for loss in result.losses}


def test_a_snippet_that_does_not_end_is_found_within_the_budget() -> None:
    result = check(snippet("again:\n\tJMP again\n"), budget=2000)
    assert not result.ok
    assert not result.finished
    assert any("2000 instructions" in finding for finding in result.findings)


def test_a_refused_request_does_not_surface_at_a_later_stack_check() -> None:
    # The marked boundary refuses; the call's stack check behind it must not see stackPreempt.
    body = """
	PCDATA	$0, $-2
	MOVQ	$1, AX
	MOVQ	$2, AX
	CALL	main·f(SB)
	PCDATA	$0, $-1
	RET

TEXT main·f(SB), 0, $200-0
	RET
"""
    config = program(snippet(body, "NOSPLIT, $8-0"), go="1.22").config
    check_ = Check(config, all_direct=True)
    result = check_.run()
    assert result.ok
    assert result.unsafe > 0
    # Both runs execute the same instructions: nothing gave way and came again.
    direct = check_.worker.direct_runner
    assert direct.twin.machine.user_instructions == direct.side.machine.user_instructions
