"""Assembly files as pytest tests: what their `// pushcall:` headers expect, each an item.

    // pushcall: go=1.22 entry=main·loop expect=preserved
    // pushcall: expect=AX:42

`check` is there for a verdict that the header expects, and for a file that expects nothing, which
is to be preserved; `run` for final registers; variants have items of their own (variants.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from asm.source import AsmError
from pushcall.scenarios.variants import cases, expectation, perform, without_styles
from pushcall.snippet.program import Options, read_source
from pushcall.usage import refusals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from pathlib import Path

    from pushcall.scenarios.variants import Case

_BAD_INPUT: Final[tuple[type[Exception], ...]] = (AsmError, *refusals())


class ExpectationError(Exception):
    """A file did not do what its header expects; the text says what it did."""


class AssemblyFile(pytest.File):
    """A file with a test for each of its variants, or one or two for itself."""

    def collect(self) -> Iterator[pytest.Item]:
        """Items are named after the command, behind the variant: `check`, `broken-run`."""
        try:
            options = Options(include_dirs=(self.path.parent,))
            found = cases(read_source(self.path), options)
        except _BAD_INPUT as error:
            raise self.CollectError(_message(error, self.path)) from None
        for case in found:
            command = case.command.replace(" --", "-")
            name = f"{case.variant}-{command}" if case.variant else command
            yield AssemblyItem.from_parent(self, name=name, case=case)


class AssemblyItem(pytest.Item):
    """One of a file's tests: what its header expects happens."""

    def __init__(self, *, case: Case, **more: Any) -> None:
        super().__init__(**more)
        self.case = case

    def reportinfo(self) -> tuple[PathLike[str] | str, int | None, str]:
        """Where the test stands: the file, and its name."""
        return self.path, 0, f"{self.path.name}: {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report, without Python's frames, for what concerns the file."""
        if isinstance(excinfo.value, (ExpectationError, *_BAD_INPUT)):
            return _message(excinfo.value, self.path)
        return super().repr_failure(excinfo, style)

    def runtest(self) -> None:
        """Does what the case is for."""
        happened = perform(self.case)
        if happened.held:
            return
        # What failed first: the short summary shows one line.
        lines = sorted(happened.lines, key=lambda line: not line.startswith("! "))
        first = [f"expected: {expectation(self.case)}"] if self.case.command != "run" else []
        raise ExpectationError("\n".join([*first, *without_styles(lines)]))


def _message(error: BaseException, path: Path) -> str:
    if isinstance(error, AsmError):
        return "\n".join(str(diagnostic) for diagnostic in error.diagnostics)
    return str(error) if isinstance(error, ExpectationError) else f"{path}: {error}"
