"""The mutator makes each kind of fault, `check` kills them, and what is equivalent is proven.

Which faults there are follows from the instruction's form; what one does, from Intel's manual. The
whole score of every version is in tests/conformance.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest

from asm.mkpreempt import stack_text
from asm.source import Source
from pushcall.check.mutants import EQUIVALENT, KILLED, SURVIVED, Workshop, score
from pushcall.cli import main as cli
from pushcall.trampoline.mutations import text
from pushcall.trampoline.preserving import paths
from pushcall.trampoline.symbols import UnknownError
from runtime_model.boot import BadProgramError
from runtime_model.trampoline import Trampoline
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FAMILIES = [(1, 22), (1, 27)]


@cache
def workshop(go: tuple[int, int]) -> Workshop:
    return Workshop(Trampoline(), GoVersion(*go))


def found(go: tuple[int, int], instruction: str) -> dict[tuple[str, str], int]:
    """The numbers of an instruction's mutants, by kind and detail."""
    shop = workshop(go)
    return {
        (m.kind, m.detail): number
        for number, m in enumerate(shop.mutations)
        if text(shop.code[m.index].insn) == instruction
    }


def faults(go: tuple[int, int], instruction: str) -> set[str]:
    """What an instruction becomes; for what does not change the instruction, the kind."""
    return {
        kind if kind in ("dropped", "doubled", "swapped") else detail
        for kind, detail in found(go, instruction)
    }


def test_a_save_of_a_general_register_has_these_faults() -> None:
    assert faults((1, 22), "mov [rsp+18h],rbx") == {
        "dropped", "doubled", "swapped",
        "mov [rsp+20h],rbx", "mov [rsp+10h],rbx", "mov [rsp+28h],rbx", "mov [rsp+8],rbx",
        "mov [rsp+18h],rsp", "mov [rsp+18h],rdx", "mov [rbp+18h],rbx", "mov [rbx+18h],rbx",
        "mov [rsp+18h],ebx", "mov [rsp+18h],bx", "mov [rsp+18h],bl",
        "mov rbx,[rsp+18h]",
    }  # fmt: skip


def test_a_restore_of_a_vector_has_these_faults() -> None:
    assert faults((1, 22), "movups xmm5,[rsp+0C0h]") == {
        "dropped", "doubled", "swapped",
        *(f"movups xmm5,[rsp+{at}]" for at in ("0C8h", "0B8h", "0D0h", "0B0h")),
        "movups xmm6,[rsp+0C0h]", "movups xmm4,[rsp+0C0h]",
        "movups xmm5,[rbp+0C0h]", "movups xmm5,[rbx+0C0h]",
        *(f"{move} xmm5,[rsp+0C0h]" for move in ("movq", "movsd", "movss", "movlps", "movhps")),
        "movups [rsp+0C0h],xmm5",
    }  # fmt: skip


def test_stack_and_flag_operations_have_these_faults() -> None:
    assert faults((1, 22), "sub rsp,170h") >= {
        "dropped", "doubled", "swapped", "add rsp,170h",
        "sub rsp,178h", "sub rsp,168h", "sub rsp,180h", "sub rsp,160h", "sub esp,170h",
    }  # fmt: skip
    assert faults((1, 22), "pushfq") == {"dropped", "doubled", "swapped", "pushf", "popfq"}
    assert faults((1, 22), "popfq") == {"dropped", "doubled", "swapped", "popf", "pushfq"}
    assert faults((1, 22), "pop rbp") >= {"dropped", "doubled", "swapped", "push rbp", "pop rsi"}
    assert faults((1, 22), "ret") == {"dropped", "doubled"}


def test_branches_have_these_faults() -> None:
    call = next(text(i.insn) for i in workshop((1, 27)).code if text(i.insn).startswith("call"))
    assert faults((1, 27), call) == {
        "dropped",
        "doubled",
        "swapped",
        call.replace("call", "jmp"),
    }
    jump = next(text(i.insn) for i in workshop((1, 27)).code if text(i.insn).startswith("jmp"))
    assert len(faults((1, 27), jump)) == 5  # and one instruction nearer, and farther


# One of each kind; what is lost is what the manual says of the changed instruction.
KILLS = [
    ((1, 22), "mov [rsp+18h],rbx", "dropped", "RBX"),
    ((1, 22), "mov [rsp+18h],rbx", "mov [rsp+18h],ebx", "RBX"),
    ((1, 22), "mov r9,[rsp+38h]", "mov r8,[rsp+38h]", "R9"),
    ((1, 22), "movups [rsp+0C0h],xmm5", "movhps [rsp+0C0h],xmm5", "XMM5"),
    ((1, 22), "movups xmm5,[rsp+0C0h]", "movups xmm5,[rsp+0C8h]", "XMM5"),
    ((1, 22), "movups xmm5,[rsp+0C0h]", "movlps xmm5,[rsp+0C0h]", "XMM5"),
    ((1, 22), "popfq", "popf", "RSP"),
    ((1, 22), "add rsp,170h", "swapped", "RFLAGS"),
    ((1, 22), "pop rbp", "pop rsi", "RBP"),
    ((1, 27), "mov r14,fs:[0FFFFFFFFFFFFFFF8h]", "dropped", ""),
    ((1, 27), "movups [rax+40h],xmm1", "movups [rax+50h],xmm1", "XMM1"),
    ((1, 27), "movups xmm1,[rax+40h]", "dropped", "XMM1"),
]  # fmt: skip


@pytest.mark.parametrize(("go", "instruction", "fault", "register"), KILLS)
def test_check_kills_it(go: tuple[int, int], instruction: str, fault: str, register: str) -> None:
    numbers = [n for (kind, d), n in found(go, instruction).items() if fault in (kind, d)]
    assert len(numbers) == 1
    mutant = workshop(go).judge(numbers[0])
    assert mutant.verdict == KILLED
    assert mutant.why.startswith(register or ("R", "MEMORY"))
    assert mutant.instruction == instruction


def test_a_call_that_is_dropped_or_doubled_is_killed() -> None:
    shop = workshop((1, 22))
    call = next(n for n, line in enumerate(shop.code) if text(line.insn).startswith("call"))
    verdicts = [
        (mutant.verdict, mutant.why)
        for number, m in enumerate(shop.mutations)
        if m.index == call and m.kind in ("dropped", "doubled")
        for mutant in [shop.judge(number)]
    ]
    assert [verdict for verdict, _ in verdicts] == [KILLED, KILLED]
    assert "never came to asyncPreempt2" in verdicts[0][1]
    assert "more than once" in verdicts[1][1]


def test_a_p_that_asyncPreempt_overwrites_is_no_system_call() -> None:
    """From then on sysmon finds no P on that M, as in a system call, and asks no more."""
    load, store = "mov rax,[rax+0D0h]", "mov [rax+0D0h],rax"  # m.p
    verdicts = [
        workshop((1, 27)).judge(number)
        for number, m in enumerate(workshop((1, 27)).mutations)
        if m.detail == store and text(workshop((1, 27)).code[m.index].insn) == load
    ]
    assert [mutant.verdict for mutant in verdicts] == [KILLED, KILLED]
    assert verdicts[0].why.startswith("asyncPreempt wrote into m or p")


def without_frame_pointer(text: str) -> Trampoline:
    for line in ("PUSHQ BP", "MOVQ SP, BP", "POPQ BP"):
        assert f"\t{line}\n" in text
        text = text.replace(f"\t{line}\n", "")
    return Trampoline(Source("mine.s", text))


def test_without_a_frame_pointer_what_changes_nothing_is_proven_all_the_same() -> None:
    shop = Workshop(without_frame_pointer(stack_text()), GoVersion(1, 22))
    harmless = [
        number
        for number, m in enumerate(shop.mutations)
        if text(shop.code[m.index].insn) == "mov [rsp+18h],rbx" and m.kind in ("doubled", "swapped")
    ]
    assert [shop.judge(n, confirm=True).verdict for n in harmless] == [EQUIVALENT] * 2


def test_a_stack_that_the_sp_table_does_not_know_is_refused_before_anything_is_changed() -> None:
    # Go's assembler follows ADJSP and not SUBQ: asyncPreemptStack is 96 (read from a Go 1.22 built
    # with such an asyncPreempt), so that a store to the frame may be a neighbour's memory.
    unknown = stack_text().replace("ADJSP $-368", "ADDQ $368, SP")
    shop = Workshop(
        without_frame_pointer(unknown.replace("ADJSP $368", "SUBQ $368, SP")), GoVersion(1, 22)
    )
    with pytest.raises(BadProgramError, match=r"not sound .* too deep .* asyncPreemptStack is 96"):
        shop.refuse_unsound()


def judged(go: tuple[int, int], wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    shop = workshop(go)
    out = []
    for instruction, fault in wanted:
        numbers = [n for (kind, d), n in found(go, instruction).items() if fault in (kind, d)]
        mutant = shop.judge(numbers[0], confirm=True)  # and check agrees
        out.append((mutant.verdict, mutant.why))
    return out


def test_equivalent_mutants_have_their_special_reason() -> None:
    verdicts = judged(
        (1, 22),
        [
            ("mov [rsp+18h],rbx", "swapped"),
            ("movups xmm5,[rsp+0C0h]", "doubled"),
            ("ret", "doubled"),
            ("mov rbp,rsp", "dropped"),
        ],
    )
    assert [verdict for verdict, _ in verdicts] == [EQUIVALENT] * 4
    unread = "nothing reads it, asyncPreempt2 only keeps it"
    assert [why for _, why in verdicts] == [
        "in either order the two leave the same registers and memory",
        "the second time changes no register and no memory",
        "the second one is never reached",
        f"RBP differs until pop rbp, {unread}; then all is the same",
    ]


def test_code_that_no_path_leads_to_is_equivalent() -> None:
    shop = workshop((1, 27))
    dead = next(n for n, m in enumerate(shop.mutations)
                if m.kind == "dropped" and "vmovdqu " in text(shop.code[m.index].insn))  # fmt: skip
    mutant = shop.judge(dead)
    assert (mutant.verdict, mutant.why) == (EQUIVALENT, "no path leads there")


@pytest.mark.parametrize("go", FAMILIES)
def test_the_unchanged_trampoline_is_proven(go: tuple[int, int]) -> None:
    assert len(paths(workshop(go).code, workshop(go).contract)) == 1


# What the prover must not believe, each for its own reason.
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("\tMOVQ BX, 24(SP)\n", ""), "RBX not restored"),
        (("\tMOVQ BX, 24(SP)\n", "\tMOVQ BX, -8(SP)\n"), "RBX not restored"),
        (("\tMOVQ BX, 24(SP)\n", "\tMOVL BX, 24(SP)\n"), "RBX not restored"),
        (("\tPOPFQ\n", "\tADDQ $0, AX\n\tPOPFQ\n\tADDQ $0, AX\n"), "RFLAGS not restored"),
        (("\tPOPQ BP\n", "\tPOPQ BP\n\tMOVQ BP, 8(SP)\n"), "not the trampoline's"),
        (("\tPOPQ BP\n", "\tPOPQ BP\n\tMOVQ 8(SP), R15\n"), "the interrupted function's"),
        (
            ("\tPOPQ BP\n", "\tPOPQ BP\n\tADDQ $8, 0(SP)\n"),
            "something else than the interrupted PC",
        ),
        (("\tMOVQ AX, 0(SP)\n", "\tMOVQ AX, 0(SP)\n\tMOVQ 0(BX), AX\n"), "pointer that is none"),
        (("\tMOVQ AX, 0(SP)\n", "\tMOVQ AX, 0(SP)\n\tMOVAPS X0, 112(SP)\n"), "not modelled"),
        (("\tMOVQ AX, 0(SP)\n", "\tMOVQ AX, 0(SP)\n\tMOVQ CX, (SP)(AX*8)\n"), "an index"),
        (("\tMOVQ AX, 0(SP)\n", "\tMOVQ AX, 0(SP)\nagain:\n\tDECQ AX\n\tJNE again\n"), "a loop"),
    ],
)
def test_what_is_not_kept_is_not_proven(change: tuple[str, str], why: str) -> None:
    source = stack_text()
    assert change[0] in source
    broken = Trampoline(Source("broken.s", source.replace(*change)))
    shop = Workshop(broken, GoVersion(1, 22))
    with pytest.raises(UnknownError, match=why):
        paths(shop.code, shop.contract)


def test_a_trampoline_that_branches_is_proven_on_every_path() -> None:
    source = stack_text().replace(
        "\tMOVQ AX, 0(SP)\n",
        "\tMOVQ AX, 0(SP)\n\tTESTQ AX, AX\n\tJEQ zero\n\tMOVQ CX, 8(SP)\nzero:\n",
    )
    shop = Workshop(Trampoline(Source("branch.s", source)), GoVersion(1, 22))
    assert len(paths(shop.code, shop.contract)) == 2
    # RAX is only saved where it is not zero: one path loses it, for the prover and for check.
    lost = source.replace("\tMOVQ AX, 0(SP)\n", "").replace(
        "\tMOVQ CX, 8(SP)\nzero", "\tMOVQ AX, 0(SP)\nzero", 1
    )
    broken = Workshop(Trampoline(Source("branch.s", lost)), GoVersion(1, 22))
    with pytest.raises(UnknownError, match="RAX not restored"):
        paths(broken.code, broken.contract)


def test_a_trampoline_that_loses_something_already_is_refused() -> None:
    source = Source("bad.s", stack_text().replace("\tMOVQ 24(SP), BX\n", ""))
    with pytest.raises(BadProgramError, match=r"bad\.s is not sound .*RBX"):
        score(Workshop(Trampoline(source), GoVersion(1, 22)))


def test_the_score_is_the_same_in_several_processes() -> None:
    shop = workshop((1, 22))
    numbers = range(0, len(shop.mutations), 120)
    alone = score(shop, numbers=numbers)
    shared = score(shop, numbers=numbers, jobs=2)
    assert alone.to_json() == shared.to_json()
    assert alone.status == 0
    assert not alone.of(SURVIVED)


def test_the_command_prints_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "small.s"
    body = "PUSHFQ\nPUSHQ AX\nCALL ·asyncPreempt2(SB)\nPOPQ AX\nPOPFQ\nRET\n"
    path.write_text(f"TEXT ·asyncPreempt(SB), 4|512, $0-0\n{body}", "utf-8")
    monkeypatch.setattr(sys, "argv", ["pushcall", "mutants", str(path), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert "is not sound before it is changed" in captured.err
