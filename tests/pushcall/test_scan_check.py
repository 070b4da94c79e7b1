"""`check --scan`: pointers that only registers hold are found by the stack scan, or it says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asm.mkpreempt import stack_text
from pushcall.api import program
from pushcall.check.scan import POINTERS, VECTORS, ScanResult, check
from runtime_model import mgcmark
from runtime_model.boot import BadProgramError

if TYPE_CHECKING:
    from runtime_model.mgcmark import stackScanState
    from runtime_model.runtime import Runtime

EXAMPLES = Path(__file__).parents[2] / "examples"

SHORT = """\
#include "textflag.h"

TEXT main·main(SB), 0, $24-0
	MOVQ	$3, 0(SP)
again:
	CALL	main·f(SB)
	DECQ	0(SP)
	JNE	again
	RET

TEXT main·f(SB), NOSPLIT, $0-0
	PUSHQ	AX
	MOVQ	$5, AX
	POPQ	AX
	RET
"""


def scanned(text: str = SHORT, **given: Any) -> ScanResult:
    return check(program(text, EXAMPLES, **given).config)


# scanframeworker scans asyncPreempt's frame (general registers; vectors up to 1.25); xRegScan is
# called by scanstack of 1.27, and by that of no other version (mgcmark.go, preempt_xreg.go).
@pytest.mark.parametrize(
    ("go", "vectors"),
    [("1.14", True), ("1.20", True), ("1.25", True), ("1.26", False), ("1.27", True)],
)
def test_every_register_that_go_scans_is_found(go: str, vectors: bool) -> None:
    result = scanned(go=go)
    assert result.verdict == "found", result.lines()
    assert result.expected == POINTERS + (VECTORS if vectors else ())
    assert len(POINTERS) == 14
    assert result.points + sum(result.refusals.values()) == result.boundaries
    assert result.points > 20


@pytest.mark.parametrize("name", ["carry_chain.s", "nested.s"])
def test_examples_are_scanned_at_every_boundary(name: str) -> None:
    result = check(program(EXAMPLES / name, EXAMPLES).config)
    assert result.verdict == "found", result.lines()
    assert result.points > 30


def hidden(text: str, save: str, restore: str, register: str) -> str:
    """A trampoline that keeps a register inverted: restored well, and no pointer to a scan."""
    assert text.count(save) == text.count(restore) == 1
    return text.replace(save, f"NOTQ {register}\n\t{save}").replace(
        restore, f"{restore}\n\tNOTQ {register}"
    )


def test_a_register_that_a_trampoline_hides_is_missed() -> None:
    text = hidden(stack_text(), "MOVQ R9, 56(SP)", "MOVQ 56(SP), R9", "R9")
    result = scanned(go="1.22", trampoline=text)
    assert (result.verdict, result.status) == ("missed", 1)
    assert set(result.missed) == {"R9"}
    missed = result.missed["R9"]
    assert not missed.changed
    assert missed.points == result.points
    assert "R9 was not scanned at" in "\n".join(result.lines())


def test_a_register_that_a_trampoline_loses_is_told_from_one_that_it_hides() -> None:
    text = stack_text().replace("\tMOVQ 64(SP), R10\n", "")
    result = scanned(go="1.22", trampoline=text)
    assert {m.register: m.changed for m in result.missed.values()} == {"R10": True}


@pytest.mark.parametrize(("go", "slot"), [("1.22", 40), ("1.27", 40)])
def test_one_slot_left_out_of_the_scan_is_one_register_missed(
    go: str, slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Word 5 of asyncPreempt's frame holds DI (mkpreempt.go).
    whole = mgcmark.scanblock

    def partly(rt: Runtime, address: int, size: int, state: stackScanState) -> None:
        if state.frames and state.frames[-1] == "runtime.asyncPreempt" and size > slot:
            whole(rt, address, slot, state)
            address, size = address + slot + 8, size - slot - 8
        whole(rt, address, size, state)

    monkeypatch.setattr(mgcmark, "scanblock", partly)
    result = scanned(go=go)
    assert set(result.missed) == {"RDI"}
    assert result.missed["RDI"].points == result.points


def test_vectors_that_1_27_did_not_scan_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mgcmark, "xRegScan", lambda *_: None)
    result = scanned(go="1.27")
    assert set(result.missed) == set(VECTORS)


def test_go_1_13_has_nothing_to_scan_asynchronously() -> None:
    with pytest.raises(BadProgramError, match="has no asynchronous preemption"):
        scanned(go="1.13")


def test_the_document() -> None:
    document = scanned().to_json()
    assert document["schema"] == "pushcall.check-scan/1"
    assert document["verdict"] == "found"
    assert document["points"] + document["unsafe"] == document["boundaries"]
    assert document["registers"] == list(POINTERS + VECTORS)
    assert document["missed"] == []


def test_a_scan_that_was_cut_short_does_not_claim_a_loss() -> None:
    endless = "TEXT main·main(SB), 4|512, $0-0\nloop:\n\tJMP loop\n"
    config = program(endless).config
    assert check(config, budget=5).lines()[0] == "nothing missed so far"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    result = check(config, stop, budget=5)
    assert (result.status, result.to_json()["interrupted"]) == (130, True)
    assert result.lines()[0] == "nothing missed so far"
    assert result.lines()[-1] == "! interrupted: this is what is known so far"


def test_a_file_that_is_never_preempted_is_not_said_to_miss_anything() -> None:
    result = scanned(as_assembly=True)
    assert (result.points, result.missed, result.status) == (0, {}, 1)
    assert result.lines()[0] == "no preemption was possible: nothing was scanned"
