"""`check --scan` at every boundary of every example, in every version, and with registers left out.

    pytest -s tests/conformance/test_scan.py

prints the figures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pushcall.api import program
from pushcall.check.scan import POINTERS, VECTORS, check
from runtime_model import mgcmark

if TYPE_CHECKING:
    from runtime_model.mgcmark import stackScanState
    from runtime_model.runtime import Runtime

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NAMES: Final = sorted(path.name for path in EXAMPLES.glob("*.s"))
VERSIONS: Final = [f"1.{minor}" for minor in range(14, 28)]

# mkpreempt.go: the order in which asyncPreempt's frame holds the general registers, in words; up to
# 1.25 X0 to X15 lie behind them, 16 bytes each. Since 1.26 they lie in xRegs, 64 bytes each.
_ORDER: Final = "RAX RCX RDX RBX RSI RDI R8 R9 R10 R11 R12 R13 R14 R15"
ORDER: Final = _ORDER.split(" ")


def short(name: str) -> str:
    """An example's text with few rounds: the same boundaries, only visited less often."""
    text = (EXAMPLES / name).read_text("utf-8")
    return re.sub(r"^#define (ROUNDS|LOOPS) \d+", r"#define \1 2", text, flags=re.MULTILINE)


@pytest.mark.parametrize("go", VERSIONS)
def test_a_pointer_in_any_register_is_found_at_every_boundary(go: str) -> None:
    boundaries = scans = 0
    registers: tuple[str, ...] = ()
    for name in NAMES:
        result = check(program(short(name), EXAMPLES, go=go).config)
        assert result.verdict == "found", f"{name}: " + "\n".join(result.lines())
        assert result.points + sum(result.refusals.values()) == result.boundaries
        boundaries += result.boundaries
        scans += result.points
        registers = result.expected
    print(
        f"\nGo {go}: {len(NAMES)} examples, {boundaries} boundaries, {scans} scans with pointers "
        f"in {len(registers)} registers, all found"
    )
    assert registers == POINTERS + (VECTORS if go != "1.26" else ())


@pytest.mark.parametrize("register", [*ORDER, *VECTORS])
@pytest.mark.parametrize("go", ["1.14", "1.22", "1.27"])
def test_any_one_register_left_out_of_the_scan_is_missed(
    go: str, register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if register in ORDER:
        where, offset, width = "frame", 8 * ORDER.index(register), 8
    elif go == "1.27":
        where, offset, width = "xRegs", 64 * VECTORS.index(register), 16
    else:
        where, offset, width = "frame", 8 * len(ORDER) + 16 * VECTORS.index(register), 16
    whole = mgcmark.scanblock
    left_out = 0

    def partly(rt: Runtime, address: int, size: int, state: stackScanState) -> None:
        nonlocal left_out
        of_xregs = rt.version.scans_extended_registers and size == rt.layout.size("xRegState")
        in_frame = bool(state.frames) and state.frames[-1] == "runtime.asyncPreempt"
        if size > offset and (of_xregs if where == "xRegs" else in_frame):
            left_out += 1
            whole(rt, address, offset, state)
            address, size = address + offset + width, size - offset - width
        whole(rt, address, size, state)

    monkeypatch.setattr(mgcmark, "scanblock", partly)
    result = check(program(short("carry_chain.s"), EXAMPLES, go=go).config)
    assert left_out > 0
    assert set(result.missed) == {register}
    assert result.missed[register].points == result.points > 0
    assert not result.missed[register].changed
