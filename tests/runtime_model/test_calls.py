"""Where machine code calls Go functions, what ABIInternal has fixed holds (abi-internal.md, amd64).

Each rule has a fault of the machine code that breaks it and nothing else: what Go's own sources do
there (sigtramp, the linker's ABI0 wrappers) is left out or turned round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from small_runtime import LOOP

from asm import go
from pushcall.api import check
from runtime_model import assembly

if TYPE_CHECKING:
    from collections.abc import Iterator

# The interrupted code has something else in R14 and X15 than Go code has at calls.
SNIPPET = LOOP.replace(
    "\tMOVQ	$1000000, CX\n", "\tMOVQ $3, CX; MOVQ $1, R14; PCMPEQL X15, X15\n"
)
assert SNIPPET != LOOP

# File, pattern, what it becomes, what is said.
FAULTS = {
    "sigtramp sets X15": (  # left alone it is zero: Linux clears vectors on delivery
        "sys_linux_amd64.s", r"PXOR\tX15, X15\n", r"PCMPEQL\tX15, X15\n",
        "sigtrampgo is called against ABIInternal: X15 is 0xff",
    ),
    "sigtramp leaves R14": (
        "sys_linux_amd64.s", r"\tMOVQ\tg\(R12\), R14\n", "",
        "sigtrampgo is called against ABIInternal: R14 is 0x1, and g is 0x",
    ),
    "sigtramp sets DF": (
        "sys_linux_amd64.s", r"\tCLD\n", r"\tSTD\n",
        "sigtrampgo is called against ABIInternal: DF is set",
    ),
    "sigtramp's frame is odd": (
        "sys_linux_amd64.s", r"\$(-?)24\b", r"$\g<1>26",
        "sigtrampgo is called against ABIInternal: RSP is 0x",
    ),
    "asyncPreempt2's wrapper leaves X15": (
        "preempt2_amd64.s", r"\tXORPS\tX15, X15\n", "",
        " is called against ABIInternal: X15 is 0xff",
    ),
}  # fmt: skip


@pytest.fixture
def fresh() -> Iterator[None]:
    """The runtime's code is assembled anew, and nothing of it is kept."""
    assembly._base.cache_clear()
    yield
    assembly._base.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("version", ["1.22", "1.27"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_against_abi_internal_is_named(
    fault: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, right, wrong, expected = FAULTS[fault]
    original = go.text

    def text(wanted: str) -> str:
        found = original(wanted)
        if wanted != name:
            return found
        start = max(found.find("TEXT runtime·sigtramp("), 0)
        changed, count = re.subn(right, wrong, found[start:])
        assert count
        return found[:start] + changed

    assert check(SNIPPET, go=version).ok
    assembly._base.cache_clear()
    monkeypatch.setattr(go, "text", text)
    result = check(SNIPPET, go=version)
    assert not result.ok
    assert expected in "\n".join(str(loss) for loss in result.losses)
