"""Assembly files as tests: what a header expects passes, and everything else fails by name.

The final register values are what the processor's ADDQ makes of the operands in the text.
"""

from __future__ import annotations

import re

import pytest

pytest_plugins = ["pytester"]

ADD = """\
// pushcall: go=1.22 entry=main·sum {expect}
#include "textflag.h"

TEXT main·sum(SB), NOSPLIT, $0-0
	MOVQ	$40, AX
	ADDQ	$2, AX
	RET
"""

RED_ZONE = """\
// pushcall: go=1.22 {expect}
#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$7, R9
	MOVQ	R9, -8(SP)
	NOP
	MOVQ	-8(SP), AX
	RET
"""


FILES = {
    "both.s": ADD.format(expect="expect=preserved expect=AX:42"),
    "nothing.s": ADD.format(expect=""),
    "nothing_lost.s": RED_ZONE.format(expect=""),
    "lost.s": RED_ZONE.format(expect="expect=lost"),
    "lost_named.s": RED_ZONE.format(expect="expect=lost:MEMORY"),
    "lost_other.s": RED_ZONE.format(expect="expect=lost:RAX"),
    "lost_more.s": RED_ZONE.format(expect="expect=lost:MEMORY,RAX"),
    "wrong_value.s": ADD.format(expect="expect=AX:41"),
    "key.s": "// pushcall: expects=preserved\n",
    "twice.s": "// pushcall: expect=lost expect=preserved\n",
    "syntax.s": ADD.format(expect="").replace("ADDQ", "ADDDQ"),
}


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_file_passes_or_fails_by_what_its_header_expects(
    pytester: pytest.Pytester, processes: str
) -> None:
    pytester.makeini("[pytest]\npushcall_files = asm/*.s\n")
    (pytester.path / "asm").mkdir()
    for name, text in FILES.items():
        (pytester.path / "asm" / name).write_text(text, "utf-8")
    (pytester.path / "other.s").write_text("no assembly", "utf-8")
    result = pytester.runpytest_subprocess(
        "-rA", "--continue-on-collection-errors", "-n", processes
    )
    result.assert_outcomes(passed=5, failed=5, errors=2)
    lines = result.stdout.str()
    outcomes = {
        name: outcome
        for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) asm/(\S+)", lines, re.MULTILINE)
    }
    assert outcomes == {
        "both.s::check": "PASSED",
        "both.s::run": "PASSED",
        "nothing.s::check": "PASSED",
        "lost.s::check": "PASSED",
        "lost_named.s::check": "PASSED",
        "nothing_lost.s::check": "FAILED",
        "lost_other.s::check": "FAILED",
        "lost_more.s::check": "FAILED",
        "wrong_value.s::run": "FAILED",
        "syntax.s::check": "FAILED",
        "key.s": "ERROR",
        "twice.s": "ERROR",
    }
    for part in (
        "expected: preserved\nlost: MEMORY",
        "expected: lost:MEMORY,RAX\nlost: MEMORY",
        "AX:41",
        "key.s:1:14: pushcall: no setting expects",
        "twice.s: expect preserved: lost is expected already",
        "syntax.s:6:2:",
    ):
        assert part in lines
    assert "Traceback" not in lines
    assert "/other.s" not in lines


def test_a_file_outside_the_root_folder_is_nobodys(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\npushcall_files = *.s\n")
    root = pytester.mkdir("root")
    outside = pytester.makefile(".s", other="no assembly")
    result = pytester.runpytest(f"--rootdir={root}", "-c", str(pytester.path / "tox.ini"), outside)
    assert "ValueError" not in result.stdout.str()
