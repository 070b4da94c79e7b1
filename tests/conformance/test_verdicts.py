"""Verdicts against each binary's own runtime.isAsyncSafePoint, for every PC of every function.

    pytest -s tests/conformance/test_verdicts.py

prints the counts. One program with one of each kind of code, built by every Go version, with
and without optimisation, stripped and not; and copies whose tables were patched to hold restart
sequences, which amd64's compiler never writes.
"""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safe_point_oracle import Oracle
from toolchains import CACHE, build, goroot, versions

from runtime_model.moduledata import GoBinary
from runtime_model.preempt import MAX_RESTART_DISTANCE, Reason, static_verdict
from runtime_model.safepoints import function_ranges

if TYPE_CHECKING:
    from runtime_model.pcvalue import PcValues

PROGRAM = Path(__file__).parent / "programs/verdicts"
WAYS = {
    "optimised": ("-trimpath",),
    "stripped": ("-trimpath", "-ldflags=-s -w"),
    "plain": ("-trimpath", "-gcflags=all=-N -l"),
    "plain-stripped": ("-trimpath", "-gcflags=all=-N -l", "-ldflags=-s -w"),
}


def program(version: str, way: str) -> Path:
    return build(version, PROGRAM, CACHE / "verdicts" / f"{way}-{version}", *WAYS[way])


def agreement(path: Path, every: int = 1) -> dict[Reason, int]:
    """Compares every PC of each `every`th function; the number of PCs by reason."""
    counts: dict[Reason, int] = {}
    differences = []
    with GoBinary(path) as binary:
        oracle = Oracle(binary)
        resumes = binary.version.number >= (1, 15)  # before, it said no more than yes or no
        for function in itertools.islice(binary, 0, None, every):
            answers = oracle.ask(function.entry, function.end)
            ranges = iter(function_ranges(function, function.end, binary.version))
            current = next(ranges)
            for pc, (safe, resume) in enumerate(answers, function.entry):
                verdict = static_verdict(binary, pc, binary.version)
                current = next(ranges) if pc == current.end else current
                assert current.verdict.reason is verdict.reason, f"range of {pc:#x}"
                counts[verdict.reason] = counts.get(verdict.reason, 0) + 1
                same = safe == verdict.safe and (
                    not safe or not resumes or resume == verdict.resume
                )
                if not same:
                    differences.append(f"{pc:#x} {function.name}: {verdict}, {safe} {resume:#x}")
        outside = (binary.table.start - 1, binary.table.end, 0)
        assert [safe for pc in outside for safe, _ in oracle.ask(pc, pc + 1)] == [False] * 3
        assert all(
            static_verdict(binary, pc, binary.version).reason is Reason.NOT_GO for pc in outside
        )
    assert not differences, f"{len(differences)} PCs differ: {differences[:5]}"
    return counts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", versions())
def test_verdict_and_resume_pc_are_the_runtimes_own(version: str, way: str) -> None:
    counts = agreement(program(version, way))
    total = sum(counts.values())
    by_reason = {reason.name: count for reason, count in counts.items()}
    print(f"\nGo {version} {way}: {total:,} of {total:,} PCs agree: {by_reason}")
    assert {Reason.SAFE, Reason.UNSAFE_POINT, Reason.ASSEMBLY, Reason.PACKAGE} <= counts.keys()


@pytest.mark.parametrize("version", versions())
def test_funcids_and_flags_are_those_of_the_sources(version: str) -> None:
    """FuncIDs are counted in symtab.go; the wrappers are those that the compiler makes."""
    root = goroot(version) / "src"
    texts = [path.read_text() for path in root.glob("*/**/symtab.go")]
    (listed,) = (
        found[1]
        for text in texts
        for found in re.finditer(
            r"(?si)\tfuncid_?normal funcID = iota.*?\n(.*?\n\tfuncid_?wrapper)", text
        )
    )
    number = len(re.findall(r"(?mi)^\tfuncid", listed))
    with GoBinary(program(version, "optimised")) as binary:
        assert binary.table.rules.FuncIDWrapper == number
        labels = {function.name: function.labels for function in binary}
    assert labels["runtime.goexit"] == ("TOPFRAME", "ASM")
    # asm_amd64.s: goexit is TOPFRAME; these move to SP, and runtime.gogo jumps to gogo.
    assert {labels[name] for name in ("gogo", "runtime.mcall")} == {("SPWRITE", "ASM")}
    assert labels["runtime.gogo"] == ("ASM",)
    wrappers = [name for name in labels if re.search(r"-fm$|\.(go|defer)wrap\d+$", name)]
    assert all("wrapper" in labels[name] for name in wrappers)
    print(f"\nGo {version}: FuncIDWrapper is {number}, {len(wrappers)} functions bear its name")


@pytest.mark.parametrize("version", versions())
def test_restart_values_are_read_as_the_runtime_reads_them(version: str, tmp_path: Path) -> None:
    """-2 becomes -3, -4 or -5 in the copy's tables, where the run is short enough to restart."""
    copy = tmp_path / "patched"
    shutil.copy(program(version, "optimised"), copy)
    assert patch_restarts(copy) > 100
    counts = agreement(copy)
    print(f"\nGo {version}: {counts[Reason.RESTART]:,} restarts agree")
    print(f"Go {version}: {counts[Reason.RESTART_AT_ENTRY]:,} restarts at entry agree")


def patch_restarts(path: Path) -> int:
    """Rewrites the single-byte value steps -1→-2→-1 of tables in the file; the tables written."""
    data = bytearray(path.read_bytes())
    offsets: dict[int, PcValues] = {}
    with GoBinary(path) as binary:
        table = binary.table
        base = data.index(bytes(table.view[:64])) + table._pctab
        for function in binary:
            found = function.pcdata(0)
            if found is not None and set(found.values) == {-1, -2}:
                number = function.offset + table.format.func.size
                offsets[table._u32(number, "PCDATA")] = found
    for count, (offset, values) in enumerate(sorted(offsets.items())):
        runs = zip(values.ends, (0, *values.ends), values.values, strict=False)
        short = all(
            end - start <= MAX_RESTART_DISTANCE + 1 for end, start, value in runs if value == -2
        )
        at = base + offset
        restart = -(3 + count % 3) if short else -5
        for value in values.values:
            # -1 to -2 is a step of -1, as zigzag 1; back is +1, as zigzag 2.
            if data[at] in (1, 2):
                down = -1 - restart
                data[at] = 2 * down - 1 if value == -2 else 2 * down
            at += 1
            while data[at] & 0x80:
                at += 1
            at += 1
    path.write_bytes(data)
    return len(offsets)
