"""pytest fixture `pushcall`: checks a snippet or a trampoline and fails with what was lost.

    def test_my_trampoline(pushcall):
        pushcall.check("loop.s", trampoline="my_asyncPreempt.s", go="1.22")

Assembly files whose paths match a pattern of the ini option `pushcall_files` are collected as tests
(pytest_files.py). Registered as entry point `pytest11`; it does nothing, and imports nothing of the
emulator, until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pushcall.check.verdict import CheckResult
    from pushcall.snippet.run import Outcome

__all__ = ["Checker", "pushcall", "pytest_addoption", "pytest_collect_file"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini option `pushcall_files`: patterns such as `asm/*.s`, relative to the root folder."""
    parser.addini(
        "pushcall_files", "assembly files that are tests (patterns)", type="args", default=[]
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A file that matches one of `pushcall_files`."""
    patterns, root = parent.config.getini("pushcall_files"), parent.config.rootpath
    if not patterns or not file_path.is_relative_to(root):
        return None
    path = file_path.relative_to(root)
    if not any(path.match(pattern) for pattern in patterns):
        return None
    from pushcall.pytest_files import AssemblyFile

    return AssemblyFile.from_parent(parent, path=file_path)


class Checker:
    """What the fixture gives: paths are taken relative to the test's own file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check(self, source: str | Path, **options: Any) -> CheckResult:
        """Preempts at every boundary; fails unless all is preserved.

        source: a path, or assembly text (told apart by a line break in it). Options are those of
        pushcall.api.ProgramOptions: go, entry, trampoline, defines, budget and others.
        """
        __tracebackhide__ = True
        from pushcall import failure
        from pushcall.api import program
        from pushcall.check import exhaustive

        loaded = program(source, self.directory, **options)
        result = exhaustive.check(loaded.config, budget=loaded.budget)
        if not result.ok:
            pytest.fail(failure.of_snippet(loaded.config, result), pytrace=False)
        return result

    def check_function(self, binary: str | Path, function: str, **options: Any) -> CheckResult:
        """Preempts a Go executable at every boundary of a function's first call; fails on a loss.

        Options: go, arguments, environment (mapping), points, jobs, and seed and cpus of its run.
        """
        __tracebackhide__ = True
        from pushcall import failure
        from pushcall.api import function_check

        points, jobs = options.pop("points", None), options.pop("jobs", 1)
        with function_check(binary, function, self.directory, **options) as checked:
            result = checked.run(points, jobs)
            if not result.ok:
                pytest.fail(failure.of_function(checked), pytrace=False)
        return result

    def run(self, source: str | Path, **options: Any) -> Outcome:
        """Runs under preemption; fails if the program dies, loses state or misses an expectation.

        Options as for check, and one of: every, at, at_pc, random, quantum (ns), never.
        """
        __tracebackhide__ = True
        from pushcall.api import run
        from pushcall.snippet.text import run_report

        rt, out = run(source, self.directory, **options)
        if out.status:
            lines = [line.removeprefix("! ") for line in run_report(rt, out)]
            pytest.fail("\n".join(lines), pytrace=False)
        return out


@pytest.fixture
def pushcall(request: pytest.FixtureRequest) -> Checker:
    """Checks snippets and trampolines: pushcall.check(source, trampoline=..., go=...)."""
    return Checker(request.path.parent)
