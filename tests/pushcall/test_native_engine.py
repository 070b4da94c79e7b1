"""The real processor under the whole runtime: what happens is what happens on Unicorn."""

from __future__ import annotations

import pytest
from both_engines import EXAMPLES, documents, short
from native_host import native_objection

from emulator import extended
from emulator.host_cpuid import NativeUnavailableError
from pushcall.api import ProgramOptions, check
from pushcall.cli.main import main
from pushcall.snippet.injection import Injection


@pytest.fixture(autouse=True)
def _native() -> None:
    if why := native_objection():
        pytest.skip(why)


@pytest.mark.parametrize(("name", "go", "every"), [("add.s", "1.14", 9), ("growth.s", "1.26", 40)])
def test_events_and_registers_are_those_of_the_emulator(name: str, go: str, every: int) -> None:
    given: ProgramOptions = {"go": go, "goroutines": 2}
    unicorn, native = documents(short(name), Injection(every=every), given)
    assert unicorn["preemptions"] > 5
    assert native == unicorn


# VPCMPEQD and VPADDQ are none of those that the emulator does.
ADDS = """
#include "textflag.h"
TEXT main·main(SB), NOSPLIT, $32-0
	VPCMPEQD Y1, Y1, Y1
	VPADDQ Y1, Y1, Y2
	MOVQ $2, CX
loop:
	VPADDQ Y2, Y1, Y2
	DECQ CX
	JNE loop
	VMOVDQU Y2, 0(SP)
	RET
"""


def test_what_the_emulator_refuses_is_checked_all_the_same() -> None:
    if why := native_objection(extended.AVX):
        pytest.skip(why)
    refused = check(ADDS, go="1.27", cpu="avx2")
    assert refused.crash is not None
    assert "vpcmpeqd ymm1" in refused.crash.title.lower()
    kept = check(ADDS, go="1.27", cpu="avx2", engine="native")
    assert (kept.verdict, kept.points, kept.crash) == ("preserved", kept.boundaries, None)
    assert kept.boundaries > 10


def test_a_host_that_has_none_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NativeUnavailableError("the native engine needs ptrace")

    monkeypatch.setattr("emulator.native.cpu.FencedChild", refuse)
    name = str(EXAMPLES / "add.s")
    monkeypatch.setattr("sys.argv", ["pushcall", "run", name, "--engine", "native"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "pushcall: the native engine needs ptrace\n")
