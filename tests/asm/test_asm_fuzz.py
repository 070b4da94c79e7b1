"""Whatever is typed ends in an image or in an AsmError: no traceback, no hang, no process exit.

What is accepted has been read back by Capstone as what was asked: an encoder's slip would show
as an error that says so, and none may.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asm.assemble import AsmError, Source, Target, assemble
from asm.mnemonics import known_mnemonics
from asm.registers import REGISTERS

NUMBERS = ("0", "1", "-1", "127", "-128", "255", "256", "0x7fffffff", "-0x80000000", "0xffffffff")
registers = st.sampled_from(sorted(REGISTERS))
numbers = st.sampled_from(NUMBERS)
addresses = st.builds(
    lambda offset, base, index, scale: f"{offset}({base})({index}*{scale})",
    st.one_of(st.just(""), numbers),
    registers,
    registers,
    st.sampled_from((1, 2, 4, 8)),
)
operands = st.one_of(
    registers,
    numbers.map("${}".format),
    addresses,
    st.builds("{}({})".format, st.one_of(st.just(""), numbers), registers),
    st.sampled_from(("x+8(FP)", "y-8(SP)", "d<>(SB)", "$d<>+4(SB)", "·f(SB)", "again", "2(PC)")),
    st.sampled_from(("(TLS)", "0(CX)(TLS*1)", "$1.5", '$"a"', "[Z0-Z3]", "*(AX)")),
)
statements = st.builds(
    lambda op, suffix, parts: f"\t{op}{suffix} {', '.join(parts)}",
    st.sampled_from(sorted(known_mnemonics())),
    st.sampled_from(("", "", "", "", ".Z", ".BCST", ".RN_SAE.Z")),
    st.lists(operands, max_size=4),
)
noise = st.text(
    st.one_of(st.sampled_from("()[]{}<>$*+-/.,;:#\\\"'`~|&%^=\n\t ·∕AX0x1"), st.characters())
)


def outcome(text: str, go: tuple[int, int]) -> str:
    try:
        assemble(
            [Source("fuzz.s", text)],
            Target(go=go),
            text_address=0x400000,
            data_address=0x500000,
            externs={"runtime.morestack_noctxt": 0x3F0000},
        )
    except AsmError as error:
        return str(error)
    return ""


versions = st.sampled_from(((1, 13), (1, 17), (1, 22), (1, 27)))
FRAME = "TEXT ·f(SB), 0, $16-16\nagain:\n{}\n\tRET\nDATA d<>(SB)/8, $1\nGLOBL d<>(SB), 8, $16\n"


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(statements, min_size=1, max_size=2), versions)
def test_statements_of_known_words(lines: list[str], go: tuple[int, int]) -> None:
    assert "not encoded right" not in outcome(FRAME.format("\n".join(lines)), go)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(noise, versions)
def test_noise(text: str, go: tuple[int, int]) -> None:
    assert "not encoded right" not in outcome(FRAME.format(text), go)
    outcome(text, go)
