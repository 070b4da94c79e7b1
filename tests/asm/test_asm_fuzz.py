"""Whatever is typed ends in an image or in an AsmError: no traceback, no hang, no process exit.

What is accepted has been read back by Capstone as what was asked: an encoder's slip would show
as an error that says so, and none may.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from asm import go_listing, relink
from asm.assemble import AsmError, Source, Target, assemble
from asm.machine import REGISTER
from asm.mnemonics import known_mnemonics
from asm.registers import REGISTERS
from asm.x86_translate import names

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
# The same with operands that go together: of these many are accepted.
GENERAL = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *(f"R{n}" for n in range(8, 16)))
REGISTERS_OF = {
    "g": GENERAL,
    "x": [f"X{n}" for n in range(32)],
    "y": [f"Y{n}" for n in range(32)],
    "z": [f"Z{n}" for n in range(32)],
    "k": [f"K{n}" for n in range(8)],
}
WORDS_OF = {
    kind: [w for w in sorted(known_mnemonics()) if w[0] in first]
    for kind, first in (
        ("g", "ABCDEFGHIJLMNOPRSTUWX"), ("x", "VACDHIMOPRSUX"), ("y", "V"), ("z", "V"), ("k", "K"),
    )
}  # fmt: skip
small = st.sampled_from(("0", "1", "3", "7", "-1", "127", "-128", "0x1000"))
places = st.one_of(
    st.builds("{}({})".format, small, st.sampled_from(GENERAL)),
    st.builds(
        "({})({}*{})".format,
        st.sampled_from(GENERAL),
        st.sampled_from([r for r in GENERAL if r != "SP"]),
        st.sampled_from("1248"),
    ),
    st.sampled_from(("x+8(FP)", "y-8(SP)", "d<>(SB)", "d<>+4(SB)")),
)


@st.composite
def shaped(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from("ggxyzk"))
    word = draw(st.sampled_from(WORDS_OF[kind]))
    parts = [draw(st.sampled_from(REGISTERS_OF[kind])) for _ in range(draw(st.integers(0, 3)))]
    if parts and draw(st.booleans()):
        parts[draw(st.integers(0, len(parts) - 1))] = draw(places)
    if draw(st.integers(0, 3)) == 0:
        parts.insert(0, f"${draw(small)}")
    if kind == "z" and parts and draw(st.booleans()):
        parts.insert(len(parts) - 1, draw(st.sampled_from(REGISTERS_OF["k"][1:])))
    return f"\t{word} {', '.join(parts)}"


noise = st.text(
    st.one_of(st.sampled_from("()[]{}<>$*+-/.,;:#\\\"'`~|&%^=\n\t ·∕AX0x1"), st.characters())
)


def outcome(text: str, go: tuple[int, int], syntax: str = "go") -> str:
    """The errors of a text; anything but an image or an AsmError passes through."""
    try:
        assemble(
            [Source("fuzz.s", text)],
            Target(go=go, syntax=syntax),
            text_address=0x400000,
            data_address=0x500000,
            externs={"runtime.morestack_noctxt": 0x3F0000},
        )
    except AsmError as error:
        return str(error)
    return ""


def listing_outcome(text: str) -> str:
    """The same for a listing of Go's tools."""
    try:
        listing = go_listing.read(Source("fuzz.txt", text))
        if listing is not None:
            relink.link(listing, text_address=0x400000, data_address=0x500000, externs={})
    except AsmError as error:
        return str(error)
    return ""


# Intel and AT&T

WIDTHS = ("", "byte ptr ", "word ptr ", "dword ptr ", "qword ptr ", "xmmword ptr ", "zmmword ptr ")
intel_registers = st.sampled_from([*sorted(REGISTER), "rip", "st", "nothing"])
intel_operands = st.one_of(
    intel_registers,
    numbers,
    st.builds(
        "{}[{} + {}*{} + {}]{}".format,
        st.sampled_from(WIDTHS),
        intel_registers,
        intel_registers,
        st.sampled_from("1248"),
        numbers,
        st.sampled_from(("", "", "{1to8}", "{1to16}")),
    ),
    st.builds("{}[{}]".format, st.sampled_from(WIDTHS), intel_registers),
    st.builds("{}{}{}".format, intel_registers, st.just("{k1}"), st.sampled_from(("", "{z}"))),
    st.sampled_from(("f", "1b", "[rip + d]", "{rn-sae}", "fs:[0]", "offset d")),
)
att_registers = intel_registers.map("%{}".format)
att_operands = st.one_of(
    att_registers,
    numbers.map("${}".format),
    st.builds(
        "{}({},{},{}){}".format,
        numbers,
        att_registers,
        att_registers,
        st.sampled_from("1248"),
        st.sampled_from(("", "", "{1to8}")),
    ),
    st.builds("{}({})".format, st.sampled_from(("", "8", "-128")), att_registers),
    st.builds("{}{}{}".format, att_registers, st.just("{%k1}"), st.sampled_from(("", "{z}"))),
    st.sampled_from(("f", "1b", "d(%rip)", "{rn-sae}", "%fs:0", "*%rax", "*8(%rbx)", "$d")),
)
words = st.builds(
    "{}{}".format,
    st.sampled_from(sorted(names())),
    st.sampled_from(("", "", "", "l", "q", "w", "b", "x", "s")),
)
X86 = "f:\n1: {}\n.data\nd: .quad 1, f\n"


def x86_statements(operand: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A statement of a known word and up to four operands."""
    operands = st.lists(operand, max_size=4).map(", ".join)
    return st.builds("{} {}".format, words, operands)


intel_statements = x86_statements(intel_operands)
att_statements = x86_statements(att_operands)

# Listings with lines left out, doubled, exchanged, and characters changed.

LISTINGS = [
    p.read_text(encoding="utf-8").splitlines(keepends=True)
    for p in sorted((Path(__file__).parent / "recorded/listings").glob("*.txt"))
]


@st.composite
def damaged_listings(draw: st.DrawFn) -> str:
    lines = list(draw(st.sampled_from(LISTINGS)))
    for _ in range(draw(st.integers(1, 4))):
        if not lines:
            break
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        column = draw(st.integers(0, max(0, len(line) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(draw(st.integers(0, len(lines) - 1)), line)
            case 2:
                lines[at] = (
                    line[:column] + draw(st.sampled_from("0f19 (:+-$\t\nZé")) + line[column:]
                )
            case 3:
                lines[at] = line[:column] + line[column + 1 :]
            case 4:
                lines = lines[at : at + 40] or lines
    return "".join(lines)


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


@settings(max_examples=250, deadline=None, derandomize=True)
@given(intel_statements, att_statements)
def test_intel_and_att_statements(intel: str, att: str) -> None:
    assert "not encoded right" not in outcome(X86.format(intel), (1, 22), "intel")
    assert "not encoded right" not in outcome(X86.format(att), (1, 22), "att")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(noise, st.sampled_from(("intel", "att")))
def test_noise_in_other_syntaxes(text: str, syntax: str) -> None:
    assert "not encoded right" not in outcome(text, (1, 22), syntax)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(damaged_listings())
def test_damaged_listings(text: str) -> None:
    listing_outcome(text)
