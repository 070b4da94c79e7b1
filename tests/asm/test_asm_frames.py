"""Frames by Go version: what is inserted, what is unsafe, where SP is (cmd/internal/obj/x86).

The bytes of 1.13 to 1.27 are recorded from the toolchains (test_asm_recorded.py). What stands here
is what a listing shows of them.
"""

from __future__ import annotations

import pytest

from asm.assemble import Source, Target, assemble
from asm.image import Function, TextFlag

CALLS = "TEXT ·f(SB), {flags}, ${frame}-8\n\tCALL ·g(SB)\n\tRET\nTEXT ·g(SB), 4, $0\n\tRET\n"


def function(go: tuple[int, int], text: str, name: str = "main.f") -> Function:
    image = assemble(
        [Source("f.s", text)],
        Target(go=go),
        text_address=0x400000,
        data_address=0x500000,
        externs={"runtime.morestack_noctxt": 0x3F0000, "runtime.morestack": 0x3F1000},
    )
    found = image.function(name)
    assert found is not None
    return found


def sources(found: Function) -> list[str]:
    return [i.source for i in found.instructions]


@pytest.mark.parametrize("go", [(1, 13), (1, 16)])
def test_up_to_1_16_g_comes_from_tls_into_cx(go: tuple[int, int]) -> None:
    assert sources(function(go, CALLS.format(flags=0, frame=16))) == [
        "MOVQ (TLS), CX",
        "CMPQ SP, 16(CX)",
        "JLS morestack",
        "SUBQ $24, SP",
        "MOVQ BP, 16(SP)",
        "LEAQ 16(SP), BP",
        "CALL ·g(SB)",
        "MOVQ 16(SP), BP",
        "ADDQ $24, SP",
        "RET",
        "CALL runtime.morestack_noctxt(SB)",
        "JMP entry",
    ]


def test_from_1_17_abi0_loads_g_into_r14_and_abiinternal_has_it_there() -> None:
    abi0 = sources(function((1, 17), CALLS.format(flags=0, frame=16)))
    assert abi0[:3] == ["MOVQ (TLS), R14", "CMPQ SP, 16(R14)", "JLS morestack"]
    text = CALLS.format(flags=0, frame=16).replace("·f(SB)", "·f<ABIInternal>(SB)")
    assert sources(function((1, 17), text))[:2] == ["CMPQ SP, 16(R14)", "JLS morestack"]


def test_from_1_21_bp_is_pushed() -> None:
    for go in ((1, 21), (1, 27)):
        body = sources(function(go, CALLS.format(flags=0, frame=16)))
        assert body[3:6] == ["PUSHQ BP", "MOVQ SP, BP", "SUBQ $16, SP"]
        assert body[7:10] == ["ADDQ $16, SP", "POPQ BP", "RET"]


def test_a_frameless_nosplit_function_has_a_bp_slot_from_1_21_if_it_calls() -> None:
    text = CALLS.format(flags=4, frame=0)
    assert sources(function((1, 20), text)) == ["CALL ·g(SB)", "RET"]
    assert sources(function((1, 21), text))[:2] == ["PUSHQ BP", "MOVQ SP, BP"]
    assert sources(function((1, 27), text.replace(", 4, $0-8", ", 516, $0-8")))[0] == "CALL ·g(SB)"


def test_a_huge_frame_up_to_1_16_is_checked_against_stackpreempt() -> None:
    assert sources(function((1, 16), CALLS.format(flags=0, frame=8000)))[:8] == [
        "MOVQ (TLS), CX",
        "MOVQ 16(CX), SI",
        "CMPQ SI, $-1314",
        "JEQ morestack",
        "LEAQ 928(SP), AX",
        "SUBQ SI, AX",
        "CMPQ AX, $8808",
        "JLS morestack",
    ]


def test_a_huge_frame_from_1_17_is_checked_by_the_carry() -> None:
    assert sources(function((1, 22), CALLS.format(flags=0, frame=8000)))[1:6] == [
        "MOVQ SP, R12",
        "SUBQ $7880, R12",
        "JCS morestack",
        "CMPQ R12, 16(R14)",
        "JLS morestack",
    ]


def test_a_small_leaf_becomes_nosplit_by_itself() -> None:
    leaf = function((1, 22), "TEXT ·f(SB), 0, $8-0\n\tMOVQ AX, x-8(SP)\n\tRET\n")
    assert TextFlag.NOSPLIT in leaf.flags
    assert sources(leaf)[0] == "PUSHQ BP"
    large = function((1, 22), "TEXT ·f(SB), 0, $200-0\n\tMOVQ AX, x-8(SP)\n\tRET\n")
    assert TextFlag.NOSPLIT not in large.flags


def unsafe(found: Function) -> list[str]:
    table = found.pcdata.get(0)
    if table is None:
        return []
    return [
        i.source
        for i in found.instructions
        if (r := table.at(i.address)) is not None and r.value == -2
    ]


def test_the_stack_check_is_unsafe_from_1_14() -> None:
    # Behind the compare: a preemption before it still sees the request in stackguard0.
    assert unsafe(function((1, 13), CALLS.format(flags=0, frame=16))) == []
    for go in ((1, 14), (1, 17), (1, 27)):
        assert unsafe(function(go, CALLS.format(flags=0, frame=16))) == [
            "JLS morestack",
            "CALL runtime.morestack_noctxt(SB)",
        ]
    assert unsafe(function((1, 27), CALLS.format(flags=0, frame=8000))) == [
        "SUBQ $7880, R12",
        "JCS morestack",
        "CMPQ R12, 16(R14)",
        "JLS morestack",
        "CALL runtime.morestack_noctxt(SB)",
    ]


def test_pcdata_statements_make_unsafe_points_too() -> None:
    text = (
        "TEXT ·f(SB), 4, $0\n\tNOP\n\tCDQ\n\tPCDATA $0, $-2\n\tINCQ AX\n\tDECQ AX\n"
        "\tPCDATA $0, $-1\n\tRET\n"
    )
    found = function((1, 22), text)
    assert unsafe(found) == ["INCQ AX", "DECQ AX"]
    table = found.pcdata[0]
    assert [(r.start - found.address, r.end - found.address) for r in table.ranges] == [(1, 7)]


def delta(found: Function) -> dict[str, int]:
    out: dict[str, int] = {}
    for instruction in found.instructions:
        place = found.spdelta.at(instruction.address)
        assert place is not None
        out.setdefault(instruction.source, place.value)
    return out


def test_spdelta_follows_pushes_and_the_frame() -> None:
    text = (
        "TEXT ·f(SB), 0, $16-8\n\tPUSHQ AX\n\tCALL ·f(SB)\n\tPOPQ AX\n\tTESTQ AX, AX\n\tJNE more\n"
        "\tRET\nmore:\n\tINCQ CX\n\tRET\n"
    )
    assert delta(function((1, 22), text)) == {
        "MOVQ (TLS), R14": 0,
        "CMPQ SP, 16(R14)": 0,
        "JLS morestack": 0,
        "PUSHQ BP": 0,
        "MOVQ SP, BP": 8,
        "SUBQ $16, SP": 8,
        "PUSHQ AX": 24,
        "CALL ·f(SB)": 32,
        "POPQ AX": 32,
        "TESTQ AX, AX": 24,
        "JNE more": 24,
        "ADDQ $16, SP": 24,
        "POPQ BP": 8,
        "RET": 0,
        "INCQ CX": 24,
        "CALL runtime.morestack_noctxt(SB)": 0,
        "JMP entry": 0,
    }


def test_arguments_and_locals_are_found_from_wherever_sp_is() -> None:
    # x+8(FP) lies at 8 + SP's distance from the entry + the return address.
    text = (
        "TEXT ·f(SB), 4, $16-16\n\tMOVQ x+8(FP), AX\n\tMOVQ y-8(SP), BX\n\tPUSHQ AX\n"
        "\tMOVQ x+8(FP), AX\n\tMOVQ 8(SP), CX\n\tPOPQ AX\n\tRET\n"
    )
    code = {i.source: i.data for i in function((1, 22), text).instructions}
    assert code["MOVQ x+8(FP), AX"].hex() == "488b442430"  # the second: 24 + 8 + 8 + 8
    assert code["MOVQ y-8(SP), BX"].hex() == "488b5c2408"  # 16 - 8
    assert code["MOVQ 8(SP), CX"].hex() == "488b4c2408"  # the hardware register: as written


def test_inserted_instructions_are_marked_and_stand_at_their_text_or_ret() -> None:
    found = function((1, 22), CALLS.format(flags=0, frame=16))
    inserted = {i.source: i.position.line for i in found.instructions if i.inserted}
    assert inserted["PUSHQ BP"] == 1
    assert inserted["POPQ BP"] == 3
    assert "RET" not in inserted
    assert [i.source for i in found.instructions if not i.inserted] == ["CALL ·g(SB)", "RET"]
