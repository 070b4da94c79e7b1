"""Trampolines that are wrong on purpose: `check` says lost, and blames what the mutant breaks.

What asyncPreempt has to keep is every register of the goroutine and its stack from the
interrupted RSP up (runtime/preempt_amd64.s). A check that a mutant survives proves nothing, so
each kind of mistake stands here, for the family that saves all on the stack (1.14 to 1.25) and
for the one with the vectors in p.xRegs (1.26 on). Good trampolines that look different pass.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from asm.mkpreempt import GPRS, stack_layout, stack_text, trampoline, xregs_text
from pushcall.api import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushcall.check.verdict import CheckResult

TEXTS = {"1.22": stack_text(), "1.27": xregs_text()}
FAMILIES = sorted(TEXTS)
XMMS = tuple(f"X{i}" for i in range(16))

# Visits its loop often enough that boundaries are tried in both of the check's ways. Registers
# need no values: between save and restore each holds the complement. But R14 is g and X15 zero in
# a new goroutine, as asyncPreempt2 or unwritten memory could leave them.
SNIPPET = """
#include "textflag.h"

GLOBL	main·data(SB), NOPTR, $16

TEXT main·main(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$0x1234567, R14
	PCMPEQL	X15, X15
	MOVQ	$4, CX
loop:
	MOVQ	CX, main·data(SB)
	DECQ	CX
	JNE	loop
	RET
"""
BOUNDARIES = 3 + 4 * 3 + 1

# Each register once; four that have nothing in common go into one mutant, for speed.
GROUPS = [
    ("AX", "R10", "X2", "X10"), ("CX", "R11", "X3", "X11"), ("DX", "R12", "X4", "X12"),
    ("BX", "R13", "X5", "X13"), ("SI", "R14", "X6", "X14"), ("DI", "R15", "X7", "X15"),
    ("R8", "X0", "X8"), ("R9", "X1", "X9"),
]  # fmt: skip
assert {name for group in GROUPS for name in group} == {*GPRS, *XMMS}


def intel(name: str) -> str:
    """Go's register name as Intel's."""
    if name.startswith("X"):
        return name.replace("X", "XMM")
    return name if name[1:].isdigit() else f"R{name}"


def edited(text: str, pattern: str, replacement: str, *, last: bool = False) -> str:
    """The text with one line replaced: the first that matches, or the last."""
    found = list(re.finditer(rf"^\t{pattern}\n", text, re.MULTILINE))
    assert found, pattern
    match = found[-1 if last else 0]
    lines = "".join(f"\t{line}\n" for line in replacement.split("; ") if line)
    return text[: match.start()] + lines + text[match.end() :]


def save_of(register: str) -> str:
    """The pattern of the instruction that saves a register."""
    move = "MOVUPS" if register.startswith("X") else "MOVQ"
    return rf"{move} {register}, (\d+\((?:SP|AX)\))"


def restore_of(register: str) -> str:
    """The pattern of the instruction that restores a register."""
    move = "MOVUPS" if register.startswith("X") else "MOVQ"
    return rf"{move} (\d+\((?:SP|AX)\)), {register}"


def judge(go: str, text: str, snippet: str = SNIPPET) -> CheckResult:
    """The check of a trampoline on the snippet."""
    return check(snippet, trampoline=text, go=go)


def blamed(result: CheckResult) -> set[str]:
    """Names of what was lost."""
    return {loss.register for loss in result.losses}


def assert_lost(result: CheckResult, *registers: str) -> None:
    """Exactly these are lost, at each boundary behind the setting of R14 and X15."""
    assert result.verdict == "lost"
    assert blamed(result) == set(registers), list(map(str, result.losses))
    assert result.points == result.boundaries == BOUNDARIES
    for loss in result.losses:
        assert loss.points >= BOUNDARIES - 2
        assert loss.first.index <= 2
        assert loss.before != loss.after


@pytest.mark.parametrize("go", FAMILIES)
def test_the_unchanged_trampoline_preserves_everything(go: str) -> None:
    result = judge(go, TEXTS[go])
    assert result.verdict == "preserved"
    assert result.ok
    assert result.points == result.boundaries == BOUNDARIES
    assert 0 < result.direct < result.points  # the rest in batches


@pytest.mark.parametrize("group", GROUPS, ids="+".join)
@pytest.mark.parametrize("go", FAMILIES)
def test_a_dropped_save_loses_that_register(go: str, group: tuple[str, ...]) -> None:
    mutant = TEXTS[go]
    for register in group:
        mutant = edited(mutant, save_of(register), "")
    assert_lost(judge(go, mutant), *map(intel, group))


@pytest.mark.parametrize("group", GROUPS, ids="+".join)
@pytest.mark.parametrize("go", FAMILIES)
def test_a_dropped_restore_loses_that_register(go: str, group: tuple[str, ...]) -> None:
    mutant = TEXTS[go]
    for register in group:
        mutant = edited(mutant, restore_of(register), "", last=register in GPRS)
    assert_lost(judge(go, mutant), *map(intel, group))


@pytest.mark.parametrize("go", FAMILIES)
def test_two_swapped_slots_lose_both_registers(go: str) -> None:
    mutant = TEXTS[go]
    pairs = [("BX", "SI"), ("R8", "R15"), ("X0", "X1"), ("X7", "X14")]
    for pair in pairs:
        places = [re.search(save_of(name), TEXTS[go]) for name in pair]
        for name, place in zip(pair, reversed(places), strict=True):
            assert place is not None
            move = "MOVUPS" if name.startswith("X") else "MOVQ"
            mutant = edited(mutant, save_of(name), f"{move} {name}, {place[1]}")
    assert_lost(judge(go, mutant), *(intel(name) for pair in pairs for name in pair))


@pytest.mark.parametrize("go", FAMILIES)
def test_half_a_restore_loses_that_vector_register(go: str) -> None:
    mutant = TEXTS[go]
    halves = {"X0": "MOVQ", "X5": "MOVSD", "X9": "MOVLPS", "X15": "MOVHPS"}
    for register, move in halves.items():
        slot = re.search(restore_of(register), TEXTS[go])
        assert slot is not None
        mutant = edited(mutant, restore_of(register), f"{move} {slot[1]}, {register}")
    assert_lost(judge(go, mutant), *map(intel, halves))


@pytest.mark.parametrize("go", FAMILIES)
def test_half_a_save_loses_that_vector_register(go: str) -> None:
    mutant = TEXTS[go]
    halves = {"X1": "MOVQ", "X6": "MOVSD", "X8": "MOVLPS", "X11": "MOVHPS"}
    for register, move in halves.items():
        slot = re.search(save_of(register), TEXTS[go])
        assert slot is not None
        mutant = edited(mutant, save_of(register), f"{move} {register}, {slot[1]}")
    assert_lost(judge(go, mutant), *map(intel, halves))


@pytest.mark.parametrize("go", FAMILIES)
def test_forgotten_flags_lose_rflags(go: str) -> None:
    mutant = edited(TEXTS[go], "POPFQ", "ADJSP $-8")
    result = judge(go, mutant)
    assert blamed(result) == {"RFLAGS"}
    assert result.losses[0].points >= BOUNDARIES // 2  # ADDQ may set them alike by chance


@pytest.mark.parametrize("go", FAMILIES)
def test_flags_saved_behind_arithmetic_lose_rflags(go: str) -> None:
    result = judge(go, edited(TEXTS[go], "PUSHFQ", "ADDQ $1, BP; PUSHFQ"))
    assert blamed(result) == {"RFLAGS"}


@pytest.mark.parametrize("go", FAMILIES)
def test_a_forgotten_bp_loses_rbp(go: str) -> None:
    assert_lost(judge(go, edited(TEXTS[go], "POPQ BP", "POPQ -16(SP)")), "RBP")


@pytest.mark.parametrize("go", FAMILIES)
def test_a_return_eight_bytes_on_loses_rip(go: str) -> None:
    result = judge(go, edited(TEXTS[go], "RET", "PUSHFQ; ADDQ $8, 8(SP); POPFQ; RET"))
    assert_lost(result, "RIP")
    assert result.losses[0].after == result.losses[0].before + 8


@pytest.mark.parametrize("go", FAMILIES)
def test_a_stack_pointer_eight_bytes_off_loses_rsp(go: str) -> None:
    mutant = edited(TEXTS[go], "RET", "BYTE $0xc2; BYTE $0x08; BYTE $0x00")  # RET 8
    result = judge(go, mutant)
    assert_lost(result, "RSP")
    assert result.losses[0].after == result.losses[0].before + 8


@pytest.mark.parametrize("go", FAMILIES)
def test_a_write_above_the_interrupted_rsp_loses_memory_there(go: str) -> None:
    # Behind POPQ BP, 0(SP) is the pushed PC and 8(SP) where RSP was.
    result = judge(go, edited(TEXTS[go], "RET", "MOVQ $0x55, 8(SP); RET"))
    assert_lost(result, "MEMORY")
    assert result.losses[0].after == 0x55
    assert result.losses[0].address is not None
    assert result.losses[0].address % 8 == 0


@pytest.mark.parametrize("go", FAMILIES)
def test_a_write_far_above_the_interrupted_rsp_loses_memory_there(go: str) -> None:
    snippet = SNIPPET.replace("NOSPLIT|NOFRAME, $0-0", "NOSPLIT, $4096-0")
    result = judge(go, edited(TEXTS[go], "RET", "MOVB $0x55, 4000(SP); RET"), snippet)
    # Before the frame is there the write leaves the stack.
    assert blamed(result) == {"MEMORY", "RIP"}
    memory = next(loss for loss in result.losses if loss.register == "MEMORY")
    assert memory.points >= 4 * 3
    assert memory.after & 0xFF == 0x55


@pytest.mark.parametrize("go", FAMILIES)
def test_a_write_to_the_snippets_data_loses_memory_there(go: str) -> None:
    # The snippet's data begins at 0x500000; AX is saved by then.
    mutant = edited(
        TEXTS[go],
        r"CALL runtime·asyncPreempt2\(SB\)",
        "MOVQ $0x500000, AX; MOVQ AX, 8(AX); CALL runtime·asyncPreempt2(SB)",
    )
    result = judge(go, mutant)
    assert blamed(result) == {"MEMORY"}
    assert result.losses[0].address == 0x50_0008
    assert (result.losses[0].before, result.losses[0].after) == (0, 0x50_0000)


@pytest.mark.parametrize("go", FAMILIES)
def test_a_changed_mxcsr_is_lost(go: str) -> None:
    # 0x3f80: rounds down; the word lies in the dead stack.
    mutant = edited(TEXTS[go], "RET", "MOVL $0x3f80, -16(SP); LDMXCSR -16(SP); RET")
    result = judge(go, mutant)
    assert_lost(result, "MXCSR")
    assert (result.losses[0].before, result.losses[0].after) == (0x1F80, 0x3F80)


@pytest.mark.parametrize("go", FAMILIES)
def test_a_dirty_x87_is_lost(go: str) -> None:
    # FLD1 takes TOP to 7, tags R7 valid and fills it (SDM volume 1, 8.1).
    result = judge(go, edited(TEXTS[go], "RET", "BYTE $0xd9; BYTE $0xe8; RET"))
    assert_lost(result, "FSW", "FTW", "ST7")


@pytest.mark.parametrize("go", FAMILIES)
def test_a_changed_x87_control_word_is_lost(go: str) -> None:
    mutant = edited(TEXTS[go], "RET", "MOVW $0x027f, -16(SP); FLDCW -16(SP); RET")
    assert_lost(judge(go, mutant), "FCW")


@pytest.mark.parametrize("go", FAMILIES)
def test_a_set_direction_flag_loses_rflags(go: str) -> None:
    result = judge(go, edited(TEXTS[go], "POPFQ", "POPFQ; STD"))
    assert_lost(result, "RFLAGS")
    assert result.losses[0].before ^ result.losses[0].after == 0x400


# What holds at calls besides what is kept (abi-internal.md, amd64: stack layout, flags, MXCSR), and
# asyncPreemptStack (preempt.go). All of these restore every register.
CALL = r"CALL runtime·asyncPreempt2\(SB\)"
CALLS = {
    "STD; CALL runtime·asyncPreempt2(SB)": "with DF set, which is clear at every call",
    "SUBQ $4, SP; CALL runtime·asyncPreempt2(SB); ADDQ $4, SP": (
        "with RSP not a multiple of 8, which it is at every call"
    ),
    # 0x3f80: rounds down.
    "SUBQ $8, SP; STMXCSR 0(SP); MOVL $0x3f80, 4(SP); LDMXCSR 4(SP); "
    "CALL runtime·asyncPreempt2(SB); LDMXCSR 0(SP); ADDQ $8, SP": (
        "with other control bits in MXCSR than at every call"
    ),
    "SUBQ $48, SP; CALL runtime·asyncPreempt2(SB); ADDQ $48, SP": "too deep in the stack: both",
}


@pytest.mark.parametrize("call", CALLS, ids=CALLS.__getitem__)
@pytest.mark.parametrize("go", FAMILIES)
def test_a_call_against_the_rules_of_calls_is_found(go: str, call: str) -> None:
    result = judge(go, edited(TEXTS[go], CALL, call))
    assert result.losses == []
    (finding,) = result.findings
    assert finding.startswith(f"asyncPreempt calls asyncPreempt2 {CALLS[call]}")
    assert result.status == 1


@pytest.mark.parametrize("go", FAMILIES)
def test_mxcsr_and_df_as_go_has_them_at_calls_are_no_finding(go: str) -> None:
    call = (
        "SUBQ $8, SP; STMXCSR 0(SP); MOVL $0x1f80, 4(SP); LDMXCSR 4(SP); CLD; "
        "CALL runtime·asyncPreempt2(SB); LDMXCSR 0(SP); ADDQ $8, SP"
    )
    snippet = SNIPPET.replace("\tMOVQ\t$4, CX\n", "\tMOVQ $4, CX; STD\n")
    assert snippet != SNIPPET
    assert judge(go, edited(TEXTS[go], CALL, call), snippet).ok


@pytest.mark.parametrize("go", FAMILIES)
def test_a_frame_that_the_sp_table_does_not_know_is_too_deep(go: str) -> None:
    # Go's assembler follows PUSH, POP and ADJSP; with SUBQ in its place the runtime's own init
    # makes asyncPreemptStack 104 in place of 472 (a Go 1.22 built so, asked for the variable).
    text = TEXTS[go].replace("ADJSP $-", "ADDQ SP, $").replace("ADJSP $", "SUBQ SP, $")
    text = re.sub(r"(ADDQ|SUBQ) SP, (\$\d+)", r"\1 \2, SP", text)
    result = judge(go, text)
    assert result.losses == []
    (finding,) = result.findings
    assert "too deep in the stack" in finding
    if go == "1.22":
        assert finding.endswith("asyncPreemptStack is 104")


@pytest.mark.parametrize("go", FAMILIES)
def test_a_stray_trampoline_loses_rip(go: str) -> None:
    result = judge(go, edited(TEXTS[go], "RET", "JMP AX"))
    assert result.verdict == "lost"
    assert "RIP" in blamed(result)


def test_a_vector_slot_of_the_wrong_p_is_no_slot_of_the_goroutine() -> None:
    # Restoring from p.xRegs.scratch, as if it were the cache: what asyncPreempt wrote there
    # belongs to the next preemption by then.
    text = TEXTS["1.27"].replace(
        "\tMOVQ (p_xRegs+xRegPerP_cache)(AX), AX\n", "\tLEAQ (p_xRegs+xRegPerP_scratch)(AX), AX\n"
    )
    assert text != TEXTS["1.27"]
    assert_lost(judge("1.27", text), *map(intel, XMMS))


# Good ones.


def other_frame() -> str:
    """The slots of ours with 64 unused bytes below them, in the opposite order."""
    layout = stack_layout()
    lines = [
        slot.save_line("SP").replace(f"{slot.offset}(", f"{slot.offset + 64}(", 1)
        for slot in reversed(layout.slots)
    ]
    back = [
        slot.restore_line("SP").replace(f"{slot.offset}(", f"{slot.offset + 64}(", 1)
        for slot in layout.slots
    ]
    return trampoline(lines, back, frame=layout.size + 64)


def pushes() -> str:
    """All general registers by PUSHQ, vectors below them by MOVUPD and MOVOU."""
    push = [f"PUSHQ {name}" for name in GPRS]
    pop = [f"POPQ {name}" for name in reversed(GPRS)]
    save = [f"{'MOVUPD' if i % 2 else 'MOVOU'} X{i}, {16 * i}(SP)" for i in range(16)]
    load = [f"{'MOVOU' if i % 2 else 'MOVUPD'} {16 * i}(SP), X{i}" for i in range(16)]
    body = [
        *push,
        "ADJSP $256",
        *save,
        "CALL runtime·asyncPreempt2(SB)",
        *load,
        "ADJSP $-256",
        *pop,
    ]
    return text_of(["PUSHFQ", "PUSHQ BP", *body, "POPQ BP", "POPFQ", "RET"])


def another_base() -> str:
    """Slots above R11, which is saved first and restored last."""
    layout = stack_layout()
    layout.base = "R11"
    saves = ["MOVQ R11, 72(SP)", "LEAQ 0(SP), R11"]
    saves += [line for line in layout.saves() if not line.startswith("MOVQ R11")]
    restores = ["LEAQ 0(SP), R11"]
    restores += [line for line in layout.restores() if not line.endswith(", R11")]
    restores.append("MOVQ 72(R11), R11")
    return trampoline(saves, restores, frame=layout.size)


def exchanges() -> str:
    """General registers come back by XCHGQ with their slots."""
    layout = stack_layout()
    restores = [
        line if "MOVUPS" in line else re.sub(r"MOVQ (\S+), (\w+)", r"XCHGQ \1, \2", line)
        for line in layout.restores()
    ]
    return trampoline(layout.saves(), restores, frame=layout.size)


def no_frame_pointer() -> str:
    """BP is what every Go function keeps for its caller: it needs no slot."""
    layout = stack_layout()
    body = [
        "PUSHFQ",
        f"ADJSP ${layout.size}",
        *layout.saves(),
        "CALL runtime·asyncPreempt2(SB)",
        *layout.restores(),
        f"ADJSP $-{layout.size}",
        "POPFQ",
        "RET",
    ]
    return text_of(body)


def text_of(body: list[str]) -> str:
    """The text of an asyncPreempt with this body."""
    lines = "".join(f"\t{line}\n" for line in body)
    return f'#include "textflag.h"\n\nTEXT ·asyncPreempt(SB), NOSPLIT|NOFRAME, $0-0\n{lines}'


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
@pytest.mark.parametrize("make", [other_frame, pushes, another_base, exchanges, no_frame_pointer])
def test_another_good_trampoline_preserves_everything(make: Callable[[], str], go: str) -> None:
    result = judge(go, make())
    assert result.ok, list(map(str, result.losses)) + result.findings
    assert result.points == result.boundaries == BOUNDARIES
