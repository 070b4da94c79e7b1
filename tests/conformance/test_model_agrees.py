"""The model's decisions against Go's own machine code, on the same bytes of g, m and p.

    pytest -s tests/conformance/test_model_agrees.py

canPreemptM, wantAsyncPreempt, isAsyncSafePoint and newstack of each version, in an optimised
program and in one where nothing is inlined. Of newstack: which functions it comes to, with which
arguments, and every byte that it leaves in g, m and p where it goes on.

The first answers are recorded for `make test`, which has no toolchain; to record them again:

    PYTHONPATH=.:tests:tests/conformance python -m test_model_agrees
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from decision_cases import FUNCTIONS, RECORDED, Model, cases
from decision_oracle import Decisions
from test_verdicts import program
from toolchains import versions

from runtime_model.moduledata import GoBinary
from runtime_model.preempt import static_verdict

RECORD = Path(__file__).parents[1] / "runtime_model/go_decisions.json"
RECORDED_VERSIONS = ("1.22.10", "1.25.5", "1.27.3")
SEED = 1
# In an optimised program these are inlined.
INLINED = ("canPreemptM", "wantAsyncPreempt")


def chosen_pcs(binary: GoBinary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """PCs to ask isAsyncSafePoint about, and functions with a small, a large, a huge frame."""
    main = binary.names["main.main"]
    safe = next(
        pc for pc in range(main.entry, main.end) if static_verdict(binary, pc, binary.version).safe
    )
    assembly = binary.names["runtime.memmove"].entry
    deltas = sorted((f.funcMaxSPDelta, f.entry) for f in binary)
    large = next(entry for delta, entry in deltas if delta >= 3000)
    return (safe, assembly, 0), (main.entry, 0, large, deltas[-1][1])


@pytest.mark.parametrize("way", ["optimised", "plain"])
@pytest.mark.parametrize("version", versions())
def test_the_model_decides_as_gos_machine_code(version: str, way: str) -> None:
    count = 100_000 if version in RECORDED_VERSIONS else 10_000
    with GoBinary(program(version, way)) as binary:
        oracle = Decisions(binary)
        model = Model(binary.version, oracle.state, binary)
        asked = [f for f in FUNCTIONS if way != "optimised" or f not in INLINED]
        seen = {function: Counter[str]() for function in asked}
        differences = []
        for case in cases(SEED, count, *chosen_pcs(binary)):
            oracle.state.lay_out(case)
            for function in asked:
                theirs = oracle.ask(function, case)
                oracle.state.again()
                ours = model.ask(function, case)
                if ours != theirs:
                    differences.append((function, ours, theirs, case))
                seen[function][theirs.rpartition("; ")[0] or theirs] += 1
    print(f"\nGo {version} {way}: {count:,} cases each")
    for function, counts in seen.items():
        print(f"  {function}: {dict(counts.most_common())}")
        assert len(counts) >= 2, function
    assert not differences, f"{len(differences)} differ: {differences[:3]}"


def record() -> None:
    """Writes what Go answers to the first cases."""
    document = {}
    for version in RECORDED_VERSIONS:
        with GoBinary(program(version, "plain")) as binary:
            pcs, functions = chosen_pcs(binary)
            oracle = Decisions(binary)
            answers: dict[str, list[str]] = {function: [] for function in FUNCTIONS}
            for case in cases(SEED, RECORDED, pcs, functions):
                oracle.state.lay_out(case)
                for function in FUNCTIONS:
                    oracle.state.again()
                    answers[function].append(oracle.ask(function, case))
            found = [binary.findfunc(pc) for pc in functions]
            document[version] = {
                "seed": SEED,
                "pcs": pcs,
                "functions": [
                    [pc, f.funcMaxSPDelta if f else None]
                    for pc, f in zip(functions, found, strict=True)
                ],
                "answers": answers,
            }
    RECORD.write_text(json.dumps(document, indent=0) + "\n")


if __name__ == "__main__":
    record()
