"""canPreemptM, wantAsyncPreempt, isAsyncSafePoint and newstack decide as Go's machine code did.

go_decisions.json holds what the functions of programs of three Go versions answered, called in an
emulator on random bytes of g, m and p (tests/conformance/test_model_agrees.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from decision_cases import FUNCTIONS, RECORDED, Bytes, Model, cases, conditions

from emulator.memory import Memory
from runtime_model.layout import parse_version
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decision_cases import Condition

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("go_decisions.json").read_text())
# Conditions on the version alone, which are the same in all of the record.
TRUE_SINCE_1_17 = {
    "rt.version.asynchronous",
    "not rt.version.asynchronous",
    "rt.version.grows_to_fit",
}


@dataclass
class Function:
    """What the decisions ask about a function of the recorded program."""

    entry: int
    funcMaxSPDelta: int
    name: str = "main.main"
    is_assembly: bool = False
    has_locals_pointer_maps: bool = True

    def pcdatavalue2(self, table: int, pc: int) -> tuple[int, int]:  # noqa: ARG002
        return -1, self.entry

    def innermost_name(self, pc: int) -> str:  # noqa: ARG002
        return self.name


class Functions:
    """The recorded program's: main.main has the first PC, the second one is assembly's."""

    def __init__(self, record: dict[str, Any]) -> None:
        safe, assembly, _ = record["pcs"]
        self.by_pc = {
            safe: Function(safe, 0),
            assembly: Function(assembly, 0, "runtime.memmove", True, False),
        }
        self.by_pc |= {pc: Function(pc, d) for pc, d in record["functions"] if d is not None}

    def findfunc(self, pc: int) -> Function | None:
        return self.by_pc.get(pc)


def differences(release: str, without: Condition | None = None) -> Iterator[str]:
    """Where the model answers otherwise than the program did."""
    record = RECORD[release]
    version = GoVersion(*parse_version(release))
    state = Bytes(version, Memory())
    model = Model(version, state, Functions(record), without)
    functions = tuple(pc for pc, _ in record["functions"])
    for i, case in enumerate(cases(record["seed"], RECORDED, tuple(record["pcs"]), functions)):
        state.lay_out(case)
        for name in FUNCTIONS:
            ours, theirs = model.ask(name, case), record["answers"][name][i]
            if ours != theirs:
                yield f"{name}: {ours}, Go: {theirs}: {case}"


def caught(release: str, without: Condition) -> bool:
    """Whether a model without one condition differs, or fails itself."""
    try:
        return next(differences(release, without), None) is not None
    except AttributeError:  # of None, which the condition kept it from
        return True


@pytest.mark.parametrize("release", RECORD)
def test_the_model_answers_as_gos_machine_code_did(release: str) -> None:
    assert list(differences(release)) == []


def test_a_model_that_drops_any_one_condition_is_caught() -> None:
    found = conditions()
    assert len(found) > 35
    uncaught = [
        condition
        for condition in found
        if condition.text not in TRUE_SINCE_1_17
        and not any(caught(release, condition) for release in reversed(RECORD))
    ]
    assert uncaught == []
