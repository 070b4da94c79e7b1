"""A trampoline may be written in any syntax, or be a listing of Go's tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushcall.api import check

LISTING = Path(__file__).parent / "recorded" / "asyncPreempt_1.22.10.txt"  # of go tool asm -S
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
SNIPPET = """
TEXT main·main(SB), 4|512, $0-0
	MOVQ	$0x1234567, R14
	PCMPEQL	X15, X15
	MOVQ	$4, CX
loop:
	DECQ	CX
	JNE	loop
	RET
"""


def intel() -> str:
    """All registers by PUSH and MOVUPS."""
    save = [f"movups [rsp + {16 * n}], xmm{n}" for n in range(16)]
    load = [f"movups xmm{n}, [rsp + {16 * n}]" for n in range(16)]
    body = [
        "pushfq",
        *(f"push {name}" for name in GENERAL),
        "lea rsp, [rsp - 256]",
        *save,
        "call asyncPreempt2",
        *load,
        "lea rsp, [rsp + 256]",
        *(f"pop {name}" for name in reversed(GENERAL)),
        "popfq",
        "ret",
    ]
    return "asyncPreempt:\n" + "".join(f"\t{line}\n" for line in body)


def att() -> str:
    """The same in AT&T's order."""
    text = []
    for line in intel().splitlines():
        operation, _, operands = line.strip().partition(" ")
        parts = [part.strip() for part in operands.split(",")] if operands else []
        out = []
        for part in reversed(parts):
            if part.startswith("[rsp"):
                out.append(f"{part[4:-1].replace(' ', '').replace('+', '') or '0'}(%rsp)")
            else:
                out.append(part if operation == "call" else f"%{part}")
        text.append(f"\t{operation} {', '.join(out)}" if not line.endswith(":") else line)
    return "\n".join(text) + "\n"


@pytest.mark.parametrize(
    ("text", "syntax"), [(intel(), "intel"), (att(), "att"), (LISTING.read_text("utf-8"), "go")]
)
def test_a_good_trampoline_preserves_everything(text: str, syntax: str) -> None:
    result = check(SNIPPET, trampoline=text, trampoline_syntax=syntax, go="1.22")
    assert result.ok, [*map(str, result.losses), *result.findings]
    assert result.points == 3 + 4 * 2 + 1


@pytest.mark.parametrize("syntax", ["intel", "att"])
def test_a_dropped_restore_is_lost_in_any_syntax(syntax: str) -> None:
    text = {"intel": intel, "att": att}[syntax]()
    restore = next(line for line in text.splitlines() if "pop" in line and "r12" in line)
    text = text.replace(
        restore, "\tlea rsp, [rsp + 8]" if syntax == "intel" else "\tlea 8(%rsp), %rsp"
    )
    result = check(SNIPPET, trampoline=text, trampoline_syntax=syntax, go="1.22")
    assert [loss.register for loss in result.losses] == ["R12"]


def test_a_stack_pointer_that_is_never_given_back_is_lost() -> None:
    text = intel().replace("\tlea rsp, [rsp + 256]\n", "")
    result = check(SNIPPET, trampoline=text, trampoline_syntax="intel", go="1.22")
    assert result.verdict == "lost"
