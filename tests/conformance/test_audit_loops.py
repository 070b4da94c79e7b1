"""Findings of the audit, and loops that are none, asked of each binary's own isAsyncSafePoint.

A finding's PCs must all be refused by the runtime's machine code. A loop of the whole
control-flow graph without a finding in it must have a PC that the runtime accepts, or a call.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from safe_point_oracle import Oracle
from test_verdicts import PROGRAM, program
from toolchains import CACHE, build, goroot, versions

from pushcall.audit.binary import Auditor
from pushcall.audit.control_flow import Code64, decode, loops
from runtime_model.moduledata import GoBinary


@pytest.mark.parametrize("version", versions())
def test_findings_are_refused_everywhere_and_other_loops_are_not(version: str) -> None:
    with GoBinary(program(version, "optimised")) as binary:
        oracle = Oracle(binary)
        result = Auditor(binary, include_runtime=True).audit(binary)
        assert not result.broken
        findings: dict[str, list[tuple[int, int, int]]] = {}
        for finding in result.findings:
            place = finding.start, finding.end, finding.instructions
            findings.setdefault(finding.function, []).append(place)
            for pc in range(finding.start, finding.end):
                assert finding.instructions > 1 or not oracle.ask(pc, pc + 1)[0][0]
        # No call stops a loop here, so that every loop is seen, those with calls included.
        program_without_stops = Code64(lambda _: False, binary.elf.u64)
        others = 0
        for function in binary:
            instructions = list(decode(binary.code(function.entry, function.end), function.entry))
            at = {each.ip: each for each in instructions}
            everything = loops(instructions, lambda _: True, program_without_stops)
            answers = oracle.ask(function.entry, function.end) if everything else []
            known = findings.get(function.name, [])
            for loop in everything:
                accepted = [pc for pc in loop.addresses if answers[pc - function.entry][0]]
                # With fewer instructions, it is one of the ways through this loop that was found.
                if (loop.start, loop.end, len(loop.addresses)) in known:
                    assert not accepted
                elif not any(s >= loop.start and e <= loop.end for s, e, _ in known):
                    others += 1
                    calls = [pc for pc in loop.addresses if at[pc].is_call_near]
                    indirect = [pc for pc in loop.addresses if at[pc].is_call_near_indirect]
                    assert accepted or calls or indirect, f"{function.name} {loop}"
    print(f"\nGo {version}: {len(result.findings)} findings, {others} loops that are none")
    assert len(result.findings) > 100
    assert others > 100


def test_the_go_command_has_loops_in_hashing_bytealg_and_clearing() -> None:
    version = versions()[-1]
    path = goroot(version) / "bin/go"
    with GoBinary(path) as binary:
        names = {f.function for f in Auditor(binary).audit(binary).findings}
    for wanted in (r"crypto/.*sha\d+\.block", r"internal/bytealg|^indexbody|^countbody"):
        assert any(re.search(wanted, name) for name in names), wanted
    assert {"runtime.memclrNoHeapPointers", "runtime.memmove"} <= names


@pytest.mark.parametrize("way", ["pie", "cgo", "cgo-pie"])
@pytest.mark.parametrize("version", versions())
def test_position_independent_and_cgo_executables_are_read(version: str, way: str) -> None:
    """Names and entries against `go tool nm`."""
    options = [
        *(["-buildmode=pie"] if "pie" in way else []),
        *(["-ldflags=-linkmode=external"] if "cgo" in way else []),
    ]
    path = build(
        version, PROGRAM, CACHE / "verdicts" / f"{way}-{version}", *options, cgo="cgo" in way
    )
    go = str(goroot(version) / "bin/go")
    listed = subprocess.run([go, "tool", "nm", path], capture_output=True, text=True, check=True)
    symbols = {
        fields[2]: int(fields[0], 16)
        for line in listed.stdout.splitlines()
        if len(fields := line.split(maxsplit=2)) == 3 and fields[1] in "Tt"
    }
    with GoBinary(path) as binary:
        ours = {f.name: f.entry for f in binary}
        result = Auditor(binary).audit(binary)
    assert not result.broken
    common = ours.keys() & symbols.keys()
    assert len(common) > 1500
    different = {n for n in common if ours[n] != symbols[n] and "." in n}
    print(f"\nGo {version} {way}: {len(common)} functions, {len(different)} ABI twins")
    # nm lists both ABIs of one name; its last one need not be the table's.
    assert len(different) < 40
