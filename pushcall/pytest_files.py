"""Assembly files as pytest tests: what their `// pushcall:` headers expect, each an item.

    // pushcall: go=1.22 entry=main·loop expect=preserved
    // pushcall: expect=AX:42

`check` is there for a verdict that the header expects, and for a file that expects nothing, which
is to be preserved; `run` for final registers. Header: see program.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from asm.source import AsmError
from pushcall import check, explain, run
from pushcall.program import ExpectedVerdict, Options, load
from pushcall.text import run_report
from pushcall.usage import UsageError
from runtime_model.boot import BadProgramError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from pathlib import Path

    from pushcall.program import Program

_BAD_INPUT = (AsmError, UsageError, BadProgramError)


class ExpectationError(Exception):
    """A file did not do what its header expects; the text says what it did."""


class AssemblyFile(pytest.File):
    """A file with one or two tests."""

    def collect(self) -> Iterator[pytest.Item]:
        """`check`, `run`, or both."""
        try:
            program = load(self.path, Options(include_dirs=(self.path.parent,)))
        except _BAD_INPUT as error:
            raise self.CollectError(_message(error, self.path)) from None
        if program.verdict is not None or not program.expectations:
            yield CheckItem.from_parent(self, name="check", program=program)
        if program.expectations:
            yield RunItem.from_parent(self, name="run", program=program)


class AssemblyItem(pytest.Item):
    """One of a file's tests."""

    def __init__(self, *, program: Program, **more: Any) -> None:
        super().__init__(**more)
        self.program = program

    def reportinfo(self) -> tuple[PathLike[str] | str, int | None, str]:
        """Where the test stands: the file, and its name."""
        return self.path, 0, f"{self.path.name}: {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report, without Python's frames, for what concerns the file."""
        if isinstance(excinfo.value, (ExpectationError, *_BAD_INPUT)):
            return _message(excinfo.value, self.path)
        return super().repr_failure(excinfo, style)


class CheckItem(AssemblyItem):
    """A preemption at every boundary gives the verdict that the header expects."""

    def runtest(self) -> None:
        """Checks the file."""
        expected = self.program.verdict or ExpectedVerdict(lost=False)
        result = check.check(self.program.config, budget=self.program.config.budget)
        if result.findings or result.crash or not expected.holds(x.register for x in result.losses):
            explain.attach(self.program.config, result)
            lines = [line.removeprefix("! ") for line in result.lines()]
            raise ExpectationError("\n".join([f"expected: {expected}", *lines]))


class RunItem(AssemblyItem):
    """A run under sysmon's timer ends with the registers that the header expects."""

    def runtest(self) -> None:
        """Runs the file."""
        rt, out = run.run(self.program, run.Injection())
        if out.status:
            # What failed first: the short summary shows one line.
            lines = sorted(run_report(rt, out), key=lambda line: not line.startswith("! "))
            raise ExpectationError("\n".join(line.removeprefix("! ") for line in lines))


def _message(error: BaseException, path: Path) -> str:
    if isinstance(error, AsmError):
        return "\n".join(str(diagnostic) for diagnostic in error.diagnostics)
    return str(error) if isinstance(error, ExpectationError) else f"{path}: {error}"
