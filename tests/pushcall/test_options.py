"""An option is obeyed or refused, whatever it is combined with: none is silently ignored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pushcall import api
from pushcall.cli.main import cli
from pushcall.pytest_plugin import Checker
from pushcall.snippet.program import Options, Program, load
from pushcall.usage import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
ADD = str(EXAMPLES / "add.s")
ELF = sys.executable
ENDLESS = "TEXT main·main(SB), 4|512, $0-0\nloop:\n\tJMP loop\n"


def invoke(*arguments: str) -> str:
    """What a command that succeeds prints."""
    result = CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("run", "no-such-file", "--strace"),
            "no-such-file: No such file",
        ),  # rather than a snippet
        (("run", ADD, "--at", ""), "--at : not numbers"),
        (("run", ADD, "--stack", "0"), "stack: a power of two from 2048"),
        (("run", ADD, "--expect", "preserved"), "--expect preserved: of a run"),
        (("run", ADD, "--expect", "dies"), "--expect dies: of a run"),
        (("run", ADD, "--events"), "--events goes with --json"),
        (("run", ADD, "--trampoline-syntax", "intel"), "--trampoline-syntax goes with"),
        (("check", ADD, "--scan", "--seed", "3"), "--seed is for executables"),
        (("check", ADD, "--scan", "--quick"), "--quick is for executables"),
        (("mutants", "--syntax", "intel"), "--syntax is of a TRAMPOLINE"),
        (("trace", ADD, "--plain", "--json"), "--plain and --json cannot"),
        (("trace", ADD, "--json", "--only", "events"), "--only goes with --plain"),
        (("trace", ADD, "--svg", "x", "--registers"), "--registers goes with --plain"),
        (("trace", ADD, "--svg", "x", "--from", "1"), "--from and --to go with"),
        (("trace", ADD, "--plain", "--from", "5", "--to", "2"), "the end lies before the start"),
        (("trace", ELF, "--plain", "--at", "5"), "--at is for snippets"),
        (("run", ELF, "--kernel-bug", "sigreturn-drops-vectors"), "--kernel-bug is for snippets"),
        (("run", ELF, "--godebug", "asyncpreemptoff=1"), "--godebug is for snippets"),
        (("run", ELF, "--syntax", "go"), "--syntax is for snippets"),
        (("run", ELF, "--goos", "linux"), "--goos is for snippets"),
        (("run", ELF, "--variant", "broken"), "--variant is for snippets"),
        (("check", ELF, "--function", "f", "--package", "p"), "--package is for snippets"),
        (("check", ELF, "--function", "f", "--goroot", "/"), "--goroot is for snippets"),
        (("check", ELF, "--function", "f", "--quick", "--arg", "5", "--seed", "1"), "--seed is"),
        (("safepoints", ELF, "-D", "A=1"), "-D is for snippets"),
        (("safepoints", ELF, "--as-assembly"), "--as-assembly is for snippets"),
        (("audit", ELF, "--variant", "broken"), "--variant is for snippets"),
        (("audit", ADD, "--include-runtime"), "--include-runtime: a snippet has no packages"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert words in str(result.exception)
    assert result.stdout == ""


def test_only_run_tells_system_calls() -> None:
    assert "--strace" in invoke("run", "--help")
    for command in ("check", "trace"):
        assert "--strace" not in invoke(command, "--help")


def test_asm_has_no_options_of_a_run() -> None:
    for option in ("--budget", "--trampoline", "--kernel-bug", "--as-assembly", "--cpu"):
        assert option not in invoke("asm", "--help")


def loaded(path: Path, header: str, **options: Any) -> Program:
    path.write_text(f"// pushcall: {header}\n{ENDLESS}", "utf-8")
    return load(path, Options(**options))


def test_an_option_wins_over_the_header(tmp_path: Path) -> None:
    path = tmp_path / "snippet.s"
    assert loaded(path, "goos=darwin").config.goos == "darwin"
    assert loaded(path, "goos=darwin", goos="linux").config.goos == "linux"
    (tmp_path / "own.s").write_text("TEXT ·asyncPreempt(SB), 4, $0-0\n\tRET\n", "utf-8")
    header = "go=1.26 trampoline=own.s"
    for more, name in (({}, "own.s"), ({"cpu": "avx2"}, "xregs")):
        trampoline = loaded(path, header, **more).config.trampoline
        assert trampoline is not None
        assert name in trampoline.name
    expected = loaded(path, "expect=AX:1 expect=copies:2", expect=("copies:>3",)).expected
    assert str(expected) == "copies:>3, AX:1"


@pytest.mark.parametrize(
    ("header", "words"),
    [("goos=lunix", "did you mean linux"), ("every=0", "--every 0"), ("stack=0", "stack: a power")],
)
def test_the_header_is_refused_as_an_option_is(tmp_path: Path, header: str, words: str) -> None:
    path = tmp_path / "snippet.s"
    path.write_text(f"// pushcall: {header}\n{ENDLESS}", "utf-8")
    result = CliRunner().invoke(cli, ["run", str(path)], standalone_mode=False)
    assert words in str(result.exception)


def test_a_check_ends_with_the_budget_that_the_header_or_the_fixture_gives(tmp_path: Path) -> None:
    path = tmp_path / "endless.s"
    path.write_text(f"// pushcall: budget=20\n{ENDLESS}", "utf-8")
    assert "does not end within 20 instructions" in invoke("check", str(path))
    assert "does not end within 20 instructions" in invoke("check", str(path), "--scan")
    assert api.check(path, budget=10).boundaries == 10
    with pytest.raises(pytest.fail.Exception, match="does not end within 10 instructions"):
        Checker(tmp_path).check(path.name, budget=10)


def test_the_api_takes_one_timer() -> None:
    with pytest.raises(UsageError, match="every and never cannot be used together"):
        api.run(ADD, every=5, never=True)


def test_a_pattern_chooses_functions_of_a_snippet_too() -> None:
    shown = invoke("safepoints", ADD, "*.a?d")
    assert [line.split()[0] for line in shown.splitlines() if "bytes" in line] == ["main.add"]


def test_the_list_of_commands_cuts_no_sentence() -> None:
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["run", "check", "asm", "audit", "safepoints"])
def test_a_pipe_is_read_once_from_its_first_byte(command: str) -> None:
    with subprocess.Popen(["cat", ADD], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        pipe = f"/dev/fd/{cat.stdout.fileno()}"
        there = invoke(command, ADD, "--json")
        piped = invoke(command, pipe, "-I", str(EXAMPLES), "--json")
    assert json.loads(piped.replace(pipe, ADD)) == json.loads(there)
