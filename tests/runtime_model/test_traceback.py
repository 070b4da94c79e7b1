"""Stack walks at every boundary, against a shadow stack that watches CALL (shadow_stack.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from shadow_stack import ShadowStack

from asm.sp_flow import sp_flow
from pushcall.api import program
from pushcall.snippet.injection import Injection
from pushcall.snippet.run import Outcome, run
from runtime_model.boot import boot
from runtime_model.events import StackCopied
from runtime_model.symtab import SnippetFunc

EXAMPLES = Path(__file__).parents[2] / "examples"


ON_G0 = """
#include "textflag.h"

DATA	main·fn·f(SB)/8, $main·fn(SB)
GLOBL	main·fn·f(SB), RODATA|NOPTR, $8

TEXT main·main(SB), 0, $16-0
	MOVQ	$main·fn·f(SB), CX
	MOVQ	CX, 0(SP)
	CALL	runtime·systemstack(SB)
	CALL	runtime·Gosched(SB)
	RET

TEXT main·fn(SB), NOSPLIT, $24-0
	CALL	main·leaf(SB)
	RET

TEXT main·leaf(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ	AX
	POPQ	AX
	RET
"""


def shorter(file: str) -> str:
    """An example with fewer calls, of which one at least makes the stack grow."""
    text = (EXAMPLES / file).read_text("utf-8")
    return text.replace("#define DEPTH 40", "#define DEPTH 24").replace("ROUNDS 20", "ROUNDS 8")


def walked(
    source: str | Path, go: str, every: int | None, **options: object
) -> tuple[ShadowStack, Outcome]:
    """A run of a program with both walks compared at each of its boundaries."""
    shadows: list[ShadowStack] = []
    loaded = program(source, EXAMPLES, go=go, **options)  # type: ignore[arg-type]
    _, out = run(loaded, Injection(every), prepare=lambda rt: shadows.append(ShadowStack(rt)))
    return shadows[0], out


@pytest.mark.parametrize("go", ["1.13", "1.27"])  # the others: tests/conformance/test_walks.py
def test_walks_are_right_at_every_boundary_of_calls_and_growth(go: str) -> None:
    begun_in: set[str] = set()
    for file in ("nested.s", "growth.s", "add.s"):
        shadow, out = walked(shorter(file), go, 5)
        assert out.exit == 0, out.crash
        assert shadow.wrong == [], "\n".join(shadow.wrong)
        begun_in |= set(shadow.compared)
    assert begun_in >= {"main.add", "BP: main.add", "runtime.morestack", "g0: runtime.morestack"}


@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_walks_are_right_within_asyncpreempt_and_on_g0(go: str) -> None:
    shadow, out = walked(ON_G0, go, 2, goroutines=2)
    assert out.exit == 0, out.crash
    assert shadow.wrong == [], "\n".join(shadow.wrong)
    assert out.preemptions >= 10
    begun_in = {
        "main.main", "g0: main.fn", "g0: main.leaf", "runtime.asyncPreempt",
        "runtime.asyncPreempt2", "runtime.mcall", "runtime.gogo", "BP: runtime.asyncPreempt",
    }  # fmt: skip
    assert begun_in - set(shadow.compared) == set()


def test_a_walk_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a table said one value for the whole function: issue 73259's kind of mistake.
    monkeypatch.setattr(SnippetFunc, "funcspdelta", lambda self, _: self.funcMaxSPDelta)
    _, out = run(program(EXAMPLES / "growth.s", EXAMPLES))
    assert out.crash is not None
    assert "fatal error: " in out.crash.title
    assert StackCopied not in map(type, out.events)


@pytest.mark.parametrize("go", ["1.13", "1.20", "1.27"])
def test_the_depth_of_sp_found_in_code_is_that_of_gos_assembler(go: str) -> None:
    # What listings and Intel or AT&T text need; the tables of Go's assembler are the truth.
    compared = 0
    for file in sorted(EXAMPLES.glob("*.s")):
        rt = boot(program(file, EXAMPLES, go=go).config)
        for function in rt.user.functions:
            table = sp_flow(function)
            assert table is not None
            for run_ in table.ranges:
                entry = function.spdelta.at(run_.start)
                assert entry is not None
                assert run_.value == entry.value, f"{function.name} {run_.start:#x}"
                compared += 1
    assert compared > 200


def test_where_sp_is_loaded_with_anything_no_depth_is_known() -> None:
    text = '#include "textflag.h"\nTEXT main·f(SB), NOSPLIT|NOFRAME, $0-0\n\tMOVQ AX, SP\n\tRET\n'
    rt = boot(program(text).config)
    assert sp_flow(rt.user.functions[0]) is None
    assert rt.user.functions[0].sp_write
