"""The audit of the `go` command, held against its loops when they run.

    pytest -s tests/conformance/test_audit_runs.py

Findings and loops that are none are run in the emulator (loop_runner.py), and at each PC that is
executed, in called functions too, preempt.static_verdict and the command's own machine code of
runtime.isAsyncSafePoint are asked. A finding goes round without a safe boundary and without a
stack check; of the others every way round that was taken has one.
"""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from loop_runner import LoopRunner
from safe_point_oracle import Oracle
from toolchains import goroot, versions

from pushcall.audit import control_flow
from pushcall.audit.binary import Auditor
from pushcall.audit.control_flow import Code64, Loop, decode, loops
from runtime_model.moduledata import GoBinary
from runtime_model.preempt import static_verdict
from runtime_model.safepoints import StaticVerdicts

if TYPE_CHECKING:
    from loop_runner import Round

    from runtime_model.func_info import GoFunc

LOOPS = 100  # of each sort
ROUNDS = 10  # of a loop with several ways


class Command:
    """The `go` command of the newest version, its loops and its own verdicts."""

    def __init__(self) -> None:
        self.binary = GoBinary(goroot(versions()[-1]) / "bin/go")
        self.oracle = Oracle(self.binary)
        self.auditor = Auditor(self.binary, include_runtime=True)
        self.findings = self.auditor.audit(self.binary).findings
        self.program = Code64(self.auditor.can_stop, self.binary.elf.u64)
        self.everything = Code64(lambda _: False, self.binary.elf.u64)

    def instructions(self, function: GoFunc) -> list[Any]:
        return list(decode(self.binary.code(function.entry, function.end), function.entry))

    def loops_without_a_stop(self, function: GoFunc) -> list[Loop]:
        """As the audit finds them, with the addresses of their instructions."""
        verdicts = StaticVerdicts(self.binary.table, self.binary.version)
        refused = verdicts.refused(function, function.end)
        unsafe = {
            pc
            for start, stop, _ in refused
            for pc in range(function.entry + start, function.entry + stop)
        }
        return loops(self.instructions(function), unsafe.__contains__, self.program)

    @cache  # noqa: B019  # it lives as long as the tests
    def accepts(self, pc: int) -> bool:
        """What both say of a PC, which must be the same."""
        ((own, _),) = self.oracle.ask(pc, pc + 1)
        assert own == static_verdict(self.binary, pc, self.binary.version).safe, hex(pc)
        return own


@cache
def command() -> Command:
    return Command()


def rounds(
    go: Command, runner: LoopRunner, function: GoFunc, loop: Loop, number: int
) -> list[Round]:
    """Ways round the loop, from its first instruction."""
    instructions = go.instructions(function)
    index = {each.ip: i for i, each in enumerate(instructions)}
    at = {each.ip: each for each in instructions}
    inside = set(loop.addresses)

    def successors(pc: int) -> list[int]:
        if loop.start == pc and len(inside) == 1:
            return [pc]  # a repeated instruction, or a branch to itself
        return control_flow.successors(instructions, index[pc], go.program)

    found = [runner.go_round(loop.start, inside, at, successors) for _ in range(number)]
    return [each for each in found if each is not None]


def test_findings_never_reach_a_safe_boundary_when_they_run() -> None:
    go = command()
    runner = LoopRunner(go.binary, seed=1)
    chance = random.Random(1)
    ran = executed = stepped_over = called = unfinished = 0
    names = set()
    for finding in chance.sample(go.findings, len(go.findings)):
        if ran == LOOPS:
            break
        function = go.binary.findfunc(finding.start)
        assert function is not None
        (loop,) = (
            each
            for each in go.loops_without_a_stop(function)
            if (each.start, each.end, len(each.addresses))
            == (finding.start, finding.end, finding.instructions)
        )
        ways = rounds(go, runner, function, loop, ROUNDS)
        assert ways, f"{finding.function} {finding.start:#x} does not go round"
        for way in ways:
            where = f"{finding.function} {finding.start:#x}"
            assert not any(map(go.accepts, way.executed)), where
            assert not way.stack_checks, where
            assert not way.indirect_calls, where
            executed += len(way.executed)
            stepped_over += way.stepped_over
            called += any(pc not in loop.addresses for pc in way.executed)
            unfinished += len(way.unfinished_calls)
        ran += 1
        names.add(function.name)
    print(
        f"\n{ran} findings in {len(names)} functions ran {executed:,} instructions, "
        f"{stepped_over:,} of them stepped over; {called} rounds with calls, {unfinished} of them "
        "not followed to their end: no safe boundary"
    )
    assert ran == LOOPS


def test_other_loops_reach_a_safe_boundary_or_a_stack_check_on_every_way() -> None:
    go = command()
    runner = LoopRunner(go.binary, seed=2)
    chance = random.Random(2)
    known = {(finding.start, finding.end) for finding in go.findings}
    functions = [f for f in go.binary if not f.is_assembly]
    ran = by_boundary = by_call = executed = 0
    for function in chance.sample(functions, len(functions)):
        if ran == LOOPS:
            break
        everything = loops(go.instructions(function), lambda _: True, go.everything)
        others = [
            loop
            for loop in everything
            if not any(s >= loop.start and e <= loop.end for s, e in known)
        ]
        if not others:
            continue
        loop = chance.choice(others)
        ways = rounds(go, runner, function, loop, ROUNDS)
        if not ways:
            continue
        for way in ways:
            boundary = any(map(go.accepts, way.executed))
            stopped = way.stack_checks or way.indirect_calls
            assert boundary or stopped, f"{function.name} {loop.start:#x} {way}"
            by_boundary += boundary
            by_call += not boundary
            executed += len(way.executed)
        ran += 1
    print(
        f"\n{ran} loops that are no findings ran {executed:,} instructions: {by_boundary} rounds "
        f"with a safe boundary, {by_call} with a stack check or an indirect call alone"
    )
    assert ran == LOOPS
