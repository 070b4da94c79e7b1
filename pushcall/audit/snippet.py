"""`pushcall audit` of assembly text: its loops that asynchronous preemption can never stop.

The same question as of an executable (audit.py), asked of a snippet's functions: a cycle of the
control-flow graph without a safe boundary and without a call that may come to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pushcall.audit.binary import Audit, Finding
from pushcall.audit.control_flow import Code64, Loop, checks_stack, count, decode, is_target, loops
from pushcall.snippet.listing import assemble
from runtime_model.preempt import Reason
from runtime_model.safepoints import VerdictRange, snippet_ranges
from runtime_model.symtab import SnippetFunc

if TYPE_CHECKING:
    from asm.image import Function, Image
    from runtime_model.boot import Config


def audit(config: Config) -> Audit:
    """The findings in a snippet, worst first. Raises AsmError and BadProgramError."""
    return _Auditor(assemble(config).snippet, config).audit()


class _Auditor:
    """Audits the functions of one image."""

    def __init__(self, image: Image, config: Config) -> None:
        self.image = image
        self.config = config
        self._program = Code64(self.can_stop, self._u64)
        self._can_stop: dict[int, bool] = {}

    def audit(self) -> Audit:
        result = Audit()
        for function in self.image.functions:
            result.functions += 1
            ranges = self._ranges(function)
            for each in ranges:
                code = self._code(function, each.start, each.end)
                result.instructions[each.verdict.reason] += count(code)
            by_design = {each.verdict.reason for each in ranges} == {Reason.PACKAGE}
            if not by_design:
                result.findings += self._findings(function, ranges)
        result.findings.sort(key=lambda finding: finding.badness)
        return result

    def _ranges(self, function: Function) -> list[VerdictRange]:
        compiled = SnippetFunc(function, not self.config.as_assembly)
        return snippet_ranges(compiled, self.config.version)

    @staticmethod
    def _code(function: Function, start: int, end: int) -> bytes:
        parts = (i.data for i in function.instructions if start <= i.address < end)
        return b"".join(parts)

    def _instructions(self, function: Function) -> list[Any]:
        return list(decode(self._code(function, function.address, function.end), function.address))

    def _findings(self, function: Function, ranges: list[VerdictRange]) -> list[Finding]:
        def reason(address: int) -> Reason | None:
            verdict = next(r.verdict for r in ranges if r.start <= address < r.end)
            return None if verdict.safe else verdict.reason

        instructions = self._instructions(function)
        found = loops(instructions, lambda address: reason(address) is not None, self._program)
        return [self._finding(function, loop, reason(loop.start)) for loop in found]

    def _finding(self, function: Function, loop: Loop, reason: Reason | None) -> Finding:
        assert reason is not None
        places = [function.instruction_at(address) for address in loop.addresses]
        lines = [place.position.line for place in places if place is not None]
        return Finding(
            function.name,
            loop.start,
            loop.end,
            loop.kind,
            reason,
            loop.bound,
            len(loop.addresses),
            function.position.file,
            (min(lines), max(lines)),
        )

    def can_stop(self, address: int) -> bool:
        """Whether a call of this address may come to a safe boundary or a stack check."""
        known = self._can_stop.get(address)
        if known is None:
            self._can_stop[address] = False  # a recursion adds nothing
            known = self._can_stop[address] = self._look_into(address)
        return known

    def _look_into(self, address: int) -> bool:
        function = self.image.findfunc(address)
        if function is None:
            return True  # of the runtime: morestack, Gosched, a system call
        instructions = self._instructions(function)
        if any(r.verdict.safe for r in self._ranges(function)) or checks_stack(instructions):
            return True
        calls = [each for each in instructions if each.is_call_near or each.is_call_near_indirect]
        return any(not is_target(each) or self.can_stop(each.near_branch_target) for each in calls)

    def _u64(self, address: int) -> int:
        for segment in self.image.segments:
            if segment.address <= address <= segment.address + len(segment.data) - 8:
                offset = address - segment.address
                return int.from_bytes(segment.data[offset : offset + 8], "little")
        raise ValueError(f"no word at {address:#x}")
