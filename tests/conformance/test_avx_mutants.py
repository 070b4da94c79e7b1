"""Every single save and restore of the AVX2 and AVX-512 layouts, dropped or halved, is found out.

Layouts: Go's mkpreempt.go since 1.26. A check of each mutant must blame the register, by the widest
name that it has in the layout, and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pushcall"))

from test_avx_trampolines import LAYOUTS, SNIPPET, blamed, halved, text_of

from asm.mkpreempt import GPRS, Slot
from pushcall.api import check

VECTORS = [
    pytest.param(family, slot, id=f"{family} {slot.register}")
    for family, layout in LAYOUTS.items()
    for slot in layout.slots
    if slot.register not in GPRS
]
# By the kind of a register: how it gets a value, and how half of it moves.
LOADS = {"Y": "VMOVDQU", "Z": "VMOVDQU64", "K": "KMOVQ"}


def names(slot: Slot) -> tuple[list[str], list[str]]:
    """Intel's names of what is lost with the whole register, and with the half above."""
    kind, number = slot.register[0], int(slot.register[1:])
    if kind == "K":
        return [slot.register], [slot.register]
    wide = f"{kind}MM{number}"
    return ([f"XMM{number}", wide] if number < 16 else [wide]), [wide]


def half(slot: Slot) -> tuple[str, str]:
    """The move of the lower half, and the half's name."""
    kind, number = slot.register[0], slot.register[1:]
    if kind == "K":
        return "KMOVD", slot.register
    if kind == "Y":
        return "VMOVDQU", f"X{number}"
    return "VMOVDQU64", f"Y{number}"


@pytest.mark.parametrize(("family", "slot"), VECTORS)
def test_each_mutant_is_blamed_on_its_register(family: str, slot: Slot) -> None:
    judge_mutants(family, slot)


def judge_mutants(family: str, slot: Slot, engine: str = "unicorn") -> None:
    """Checks the layout as it is, and without a save or restore of the register, or half of it."""
    layout = LAYOUTS[family]
    saves, restores = layout.saves(), layout.restores()
    snippet = SNIPPET % f"{LOADS[slot.register[0]]} main·data(SB), {slot.register}"
    whole, upper = names(slot)
    save, restore = slot.save_line(layout.base), slot.restore_line(layout.base)
    dropped = [
        text_of(layout, saves=[line for line in saves if line != save]),
        text_of(layout, restores=[line for line in restores if line != restore]),
    ]
    move, part = half(slot)
    by_half = [
        text_of(layout, saves=halved(saves, slot.register, move, part)),
        text_of(layout, restores=halved(restores, slot.register, move, part)),
    ]
    assert check(snippet, trampoline=text_of(layout), engine=engine).ok
    for text in dropped:
        assert sorted(blamed(check(snippet, trampoline=text, engine=engine))) == sorted(whole)
    for text in by_half:
        assert blamed(check(snippet, trampoline=text, engine=engine)) == upper
