"""The bugs of golang/go and FEX-Emu/FEX that amd64 can express: broken, then mended.

Which issues there are, and what each broke, comes from their trackers; each example quotes its own.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from emulator.linux.kernel_bugs import KernelBug
from pushcall.cli.main import cli
from pushcall.cli.snippet import KERNEL_BUGS
from pushcall.scenarios import catalogue as scenarios
from pushcall.scenarios import variants
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from pushcall.scenarios.catalogue import Scenario

# https://github.com/golang/go/issues
GO = [
    10958, 24543,  # tight loops without calls
    35326, 35777, 46272, 49233, 81209, 37174,  # vector and mask registers
    35349, 67108, 35470, 62433, 68090,  # TLS pairs and prologues
    73259, 59692, 39499, 80147,  # unwinding and scanning
    37741, 35608, 47530, 64417, 69327, 71591,  # where nothing preempts
    38531, 38033, 37942,  # the signal itself
]  # fmt: skip
FEX = [5810]  # https://github.com/FEX-Emu/FEX/issues

ALL = scenarios.scenarios()


def test_every_issue_has_its_example_and_no_other_is_quoted() -> None:
    quoted = [(each.repository, number) for each in ALL for number in each.numbers]
    wanted = [("golang/go", number) for number in GO] + [("FEX-Emu/FEX", n) for n in FEX]
    assert sorted(quoted) == sorted(wanted)


def test_they_are_ordered_by_the_first_number_that_each_quotes() -> None:
    first = [each.numbers[0] for each in ALL]
    assert first == sorted(first)


@pytest.mark.parametrize("scenario", ALL, ids=lambda each: each.name.replace(" ", ""))
def test_each_variant_comes_out_as_the_header_says(scenario: Scenario) -> None:
    assert len(scenario.cases) >= 2  # broken and mended at least
    assert scenario.title
    verdict = scenarios.judge(scenario)
    assert verdict.held, "\n".join(scenarios.explained(verdict))
    # What happens differs between the first and the last variant: else there is nothing to see.
    assert verdict.happened[0].summary != verdict.happened[-1].summary


def test_the_kernel_bugs_of_the_command_line_are_those_of_the_kernel() -> None:
    assert sorted(KERNEL_BUGS) == sorted(bug.value for bug in KernelBug)


def test_a_trampoline_beside_a_scenario_is_among_its_files() -> None:
    (scenario,) = scenarios.scenarios(39499)
    assert scenario.files == ["39499_conservative_scan.s", "asyncPreempt_hides_di.S"]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small scenario in the place of all."""
    shutil.copy(scenarios.folder() / "38531_asyncpreemptoff.s", tmp_path)
    monkeypatch.setattr(scenarios, "PLACES", (tmp_path,))
    return tmp_path / "38531_asyncpreemptoff.s"


def status(*arguments: str) -> int:
    found = cli.main(["scenarios", *arguments], standalone_mode=False)
    assert isinstance(found, int)
    return found


def test_the_document_has_each_variant_with_its_verdict(
    one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one.exists()
    assert status("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "pushcall.scenarios/1"
    assert document["verdict"] == "as expected"
    (entry,) = document["scenarios"]
    assert (entry["numbers"], entry["repository"]) == ([38531], "golang/go")
    broken, mended = entry["variants"]
    assert (broken["name"], broken["command"], broken["go"]) == ("broken", "run", "1.14")
    assert broken["expected"] == "preemptions:1"
    assert "1 preemptions" in broken["happened"]
    assert (mended["name"], mended["verdict"]) == ("mended", "as expected")


def test_one_that_comes_out_otherwise_is_named_and_the_status_is_1(
    one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The version in which the handler did not ask, said to be the one in which it does.
    one.write_text(one.read_text("utf-8").replace("go=1.15", "go=1.14"), "utf-8")
    assert status() == 1
    out = capsys.readouterr().out
    assert "1 preemptions, not 0" in out
    assert "expected: preemptions:0" in out
    assert status("--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "not as expected"
    verdicts = [variant["verdict"] for variant in document["scenarios"][0]["variants"]]
    assert verdicts == ["as expected", "not as expected"]


def test_one_is_explained_with_place_and_command(
    one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("38531") == 0
    out = capsys.readouterr().out
    assert "preempted once at 0x480027 main.main+0x27   RET" in out
    assert f"pushcall run {one} --variant broken" in out


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            46272,
            "rt_sigreturn, of the signal at 0x480000 main.main   XORPS X15, X15, leaves XMM8",
        ),
        (5810, "goes on at 0x480000 main.main   MOVQ $9, CX, not at 0x450000 runtime.asyncPreempt"),
    ],
)
def test_what_the_kernel_lost_is_told_as_such(number: int, said: str) -> None:
    (scenario,) = scenarios.scenarios(number)
    (case,) = [c for c in scenario.cases if c.command == "check" and c.program.config.bugs]
    told = [line for line in variants.perform(case).lines if line.startswith("rt_sigreturn")]
    assert said in told[0]
    # What it lost is what the check lost, and nothing of the rest.
    assert len(told) == (8 if number == 46272 else 1)


def test_an_unknown_number_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="no scenario 1; there are: "):
        status("1")


def test_what_a_scenario_prints_to_be_typed_does_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(scenarios.folder() / "64417_assembly_hash.s")
    assert cli.main(["audit", file, "--variant", "audit"], standalone_mode=False) == 0
    assert "main.block" in capsys.readouterr().out
    assert cli.main(["run", file, "--variant", "mended"], standalone_mode=False) == 0
    assert "as expected: cooperative:>5" in capsys.readouterr().out
