"""The command line's contract: JSON documents, exit statuses, and one clear message for bad input.

Keys and statuses are those that the design document of the project promises; signals and addresses
are what Linux reports for the same instruction.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asm.mkpreempt import stack_text
from pushcall.cli import main as cli

EXAMPLES = Path(__file__).parents[2] / "examples"


def pushcall(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str | Path
) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["pushcall", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *args: pushcall(capsys, monkeypatch, *args)


@pytest.fixture
def snippet(tmp_path: Path) -> Any:
    def write(body: str, flags: str = "NOSPLIT, $0-0", name: str = "snippet.s") -> Path:
        path = tmp_path / name
        lines = "".join(f"\t{line}\n" for line in body.splitlines())
        path.write_text(f'#include "textflag.h"\nTEXT main·main(SB), {flags}\n{lines}')
        return path

    return write


def is_address(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("0x") and int(text, 16) >= 0


def test_run_json_has_the_documented_keys(run: Any) -> None:
    status, out, err = run("run", EXAMPLES / "golang_nuts.s", "--every", "50", "--json")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["schema"] == "pushcall.run/1"
    assert document["exit"] == {"status": 0, "how": "exit"}
    for key in ("instructions", "preemptions", "signals"):
        assert isinstance(document[key], int)
    assert document["preemptions"] == document["survived"] > 0
    assert len(document["goroutines"]) == 30
    for goroutine in document["goroutines"]:
        assert all(is_address(value) for value in goroutine["registers"].values())
        assert goroutine["registers"]["RAX"] == hex(400)
    assert "events" not in document


def test_run_json_has_events_when_asked(run: Any) -> None:
    _, out, _ = run("run", EXAMPLES / "nested.s", "--every", "9", "--json", "--events")
    events = json.loads(out)["events"]
    kinds = {event["event"] for event in events}
    assert {"PreemptRequested", "FrameBuilt", "SafePointVerdict", "PushedCall", "Resumed"} <= kinds
    assert all({"event", "time", "m", "g", "pc"} <= event.keys() for event in events)
    assert all(is_address(event["pc"]) for event in events)


def test_check_json_has_the_documented_keys(run: Any) -> None:
    status, out, err = run("check", EXAMPLES / "lost" / "red_zone.s", "--json")
    document = json.loads(out)
    assert (status, err) == (1, "")
    assert document["schema"] == "pushcall.check/1"
    assert document["verdict"] == "lost"
    assert isinstance(document["points"], int)
    assert isinstance(document["unsafe"], int)
    (loss,) = document["losses"]
    assert loss["register"] == "MEMORY"
    assert is_address(loss["address"])
    assert loss["points"] == 1
    first = loss["first"]
    assert first.keys() == {"index", "pc", "symbol", "source", "before", "after"}
    assert first["index"] == 3
    assert first["source"] == "MOVQ -8(SP), BX"
    assert all(is_address(first[key]) for key in ("pc", "before", "after"))
    assert first["before"] == hex(42)


def test_asm_json_has_the_documented_keys(run: Any) -> None:
    status, out, _ = run("asm", EXAMPLES / "carry_chain.s", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["schema"] == "pushcall.asm/1"
    (function,) = document["functions"]
    assert function["name"] == "main.main"
    joined = "".join(i["bytes"] for i in function["instructions"])
    assert len(joined) == 2 * function["size"]
    assert joined in document["bytes"]
    assert all(i["line"] > 0 and is_address(i["address"]) for i in function["instructions"])


@pytest.mark.parametrize(
    "command",
    [
        ("run", "golang_nuts.s", "--random", "7", "--goroutines", "3", "--events"),
        ("check", "add.s"),
    ],
)
def test_two_runs_give_the_same_bytes(command: tuple[str, ...]) -> None:
    name, file, *options = command
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "pushcall", name, EXAMPLES / file, "--json", *options],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# Bad input: exit status 2, nothing on standard output, one message that names the place.


def refused(run: Any, *args: str | Path) -> str:
    status, out, err = run(*args)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    return str(err)


def test_a_missing_file_is_named(run: Any, tmp_path: Path) -> None:
    err = refused(run, "run", tmp_path / "no.s")
    assert err == f"pushcall: {tmp_path}/no.s: No such file or directory\n"


def test_a_directory_is_named(run: Any, tmp_path: Path) -> None:
    assert refused(run, "check", tmp_path) == f"pushcall: {tmp_path}: Is a directory\n"


def test_bytes_that_are_no_text_are_named_with_their_line(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "noise.s"
    path.write_bytes(b"// a\n\xff\xfe")
    assert refused(run, "run", path) == f"pushcall: {path}:2: not text: byte 0xff\n"


def test_an_elf_file_is_told_apart(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\x7fELF" + bytes(60))
    assert "an ELF file" in refused(run, "asm", path)
    assert "is an executable" in refused(run, "check", path)
    assert "not" in refused(run, "run", path)


@pytest.mark.parametrize(
    ("line", "column", "length", "words"),
    [
        ("MOVEQ $1, AX", 2, 5, "did you mean MOVQ?"),
        ("MOVQ $1, QX", 11, 2, "QX"),
        ("JMP nowhere", 6, 7, "no label nowhere"),
        ("CALL main·nothing(SB)", 7, 16, "main.nothing"),
    ],
)
def test_an_assembly_error_has_file_line_column_and_caret(
    run: Any, snippet: Any, line: str, column: int, length: int, words: str
) -> None:
    path = snippet(line + "\nRET")
    err = refused(run, "run", path)
    first, shown, caret, *_ = err.splitlines()
    assert first.startswith(f"{path}:3:{column}: ")
    assert shown == f"\t{line}"
    assert caret == "\t" + " " * (column - 2) + "^" + "~" * (length - 1)
    assert words in err


def test_all_errors_of_a_file_are_shown(run: Any, snippet: Any) -> None:
    err = refused(run, "run", snippet("MOVEQ $1, AX\nMOVQ $1, QX\nRET"))
    assert ":3:2:" in err
    assert ":4:11:" in err


def test_an_unknown_setting_of_the_header_is_shown_in_place(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "header.s"
    path.write_text("// pushcall: goroutine=3\nTEXT main·main(SB), 4, $0\n\tRET\n")
    first, shown, caret, *_ = refused(run, "run", path).splitlines()
    assert first.startswith(f"{path}:1:14: ")
    assert "goroutines" in first
    assert shown[13:].startswith("goroutine=3")
    assert caret == " " * 13 + "^" + "~" * 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--go", "1.12"), "Go 1.12 is not known: 1.13 to 1.27 are"),
        (("--go", "banana"), "banana"),
        (("--entry", "main·foo"), "no function main·foo; there are: main.main, main.add"),
        (("--every", "1", "--never"), "--every and --never cannot be used together"),
        (("--quantum", "soon"), "soon: not a duration"),
        (("--at", "1,x"), "--at 1,x: not numbers"),
        (("--at-pc", "main·add+1"), "no instruction of the file starts at"),
        (("--at-pc", "main·nope"), "no symbol main·nope"),
        (("--expect", "AX"), "expect AX"),
        (("-D", "1X=2"), "-D 1X=2"),
        (("--goroutines", "0"), "goroutines: 1 to"),
        (("--procs", "1000"), "procs: 1 to"),
    ],
)
def test_a_bad_option_is_one_message(run: Any, options: tuple[str, ...], words: str) -> None:
    err = refused(run, "run", EXAMPLES / "add.s", *options)
    assert words in err
    assert err.count("\n") == 1


def test_go_113_has_nothing_to_check(run: Any) -> None:
    err = refused(run, "check", EXAMPLES / "add.s", "--go", "1.13")
    assert "no asynchronous preemption" in err


def test_a_trampoline_without_asyncpreempt_is_refused(run: Any, snippet: Any) -> None:
    path = snippet("RET", name="trampoline.s")
    err = refused(run, "check", EXAMPLES / "add.s", "--trampoline", path)
    assert "asyncPreempt" in err


# Programs that die: exit status 1 and one report.


@pytest.mark.parametrize(
    ("body", "flags", "words", "source"),
    [
        (
            "MOVQ $0x1234, AX\nMOVQ (AX), BX\nRET",
            "NOSPLIT, $0-0",
            "SIGSEGV: read of unmapped memory at 0x1234",
            "MOVQ (AX), BX",
        ),
        (
            "XORL AX, AX\nMOVQ BX, 0x30(AX)\nRET",
            "NOSPLIT, $0-0",
            "SIGSEGV: write to unmapped memory at 0x30",
            "MOVQ BX, 0x30(AX)",
        ),
        (
            "MOVQ $0xdead0000, AX\nJMP AX",
            "NOSPLIT, $0-0",
            "SIGSEGV: jump to unmapped memory at 0xdead0000",
            "at 0xdead0000 (no symbol)",
        ),
        ("XORL CX, CX\nDIVQ CX\nRET", "NOSPLIT, $0-0", "SIGFPE: divide error", "DIVQ CX"),
        ("UD2\nRET", "NOSPLIT, $0-0", "SIGILL: invalid instruction", "UD2"),
        ("CLI\nRET", "NOSPLIT, $0-0", "SIGSEGV: privileged instruction", "CLI"),
        ("VADDPS X1, X2, X3\nRET", "NOSPLIT, $0-0", "cannot execute exactly (vaddps", "VADDPS"),
        ("CALL main·main(SB)\nRET", "NOSPLIT, $0-0", "stack overflow", "CALL main·main(SB)"),
        (
            "again: JMP again",
            "NOSPLIT, $0-0",
            "the budget of 50000 instructions is used up",
            "JMP again",
        ),
    ],
)
def test_a_program_that_dies_is_one_report(
    run: Any, snippet: Any, body: str, flags: str, words: str, source: str
) -> None:
    path = snippet(body, flags)
    status, out, err = run("run", path, "--budget", "50000")
    assert (status, err) == (1, "")
    assert words in out
    assert source in out
    assert "in goroutine 1" in out
    assert "RAX " in out
    assert "RIP " in out
    assert "Traceback" not in out
    status, out, _ = run("run", path, "--budget", "50000", "--json")
    crash = json.loads(out)["crash"]
    assert status == 1
    assert words in crash["message"]
    assert crash["goroutine"] == 1
    assert is_address(crash["pc"])


def test_a_stack_beyond_max_stack_is_a_stack_overflow(run: Any, snippet: Any) -> None:
    path = snippet("CALL main·main(SB)\nRET", "0, $64-0")
    status, out, _ = run("run", path, "--stack", "4KiB", "--max-stack", "20kB".upper())
    assert status == 1
    assert "goroutine stack exceeds 20000-byte limit; fatal error: stack overflow" in out
    assert "CALL main·main(SB)" in out
    for bad in ("3000", "1KiB", "many"):
        status, out, err = run("run", path, "--stack", bad)
        assert (status, out) == (2, "")
        assert len(err.splitlines()) == 1


def test_a_program_that_dies_alone_is_not_called_preserved(run: Any, snippet: Any) -> None:
    status, out, _ = run("check", snippet("XORL AX, AX\nMOVQ (AX), AX\nRET"))
    assert status == 1
    assert "does not run to its end even when left alone" in out
    assert "preserved: every" not in out


def test_a_trampoline_that_never_yields_is_found(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "return_only.s"
    path.write_text('#include "textflag.h"\nTEXT ·asyncPreempt(SB), NOSPLIT|NOFRAME, $0-0\n\tRET\n')
    status, out, _ = run("check", EXAMPLES / "nested.s", "--trampoline", path)
    assert status == 1
    assert "never came to asyncPreempt2" in out


def test_a_run_with_a_trampoline_that_breaks_a_rule_of_calls_is_no_success(
    run: Any, tmp_path: Path
) -> None:
    path = tmp_path / "backwards.s"
    call = "\tCALL runtime·asyncPreempt2(SB)\n"
    path.write_text(stack_text().replace(call, f"\tSTD\n{call}"))
    arguments = ("run", EXAMPLES / "nested.s", "--trampoline", path, "--every", "40")
    finding = "asyncPreempt calls asyncPreempt2 with DF set, which is clear at every call"
    status, out, _ = run(*arguments)
    assert (status, finding in out) == (1, True)
    status, out, _ = run(*arguments, "--json")
    assert (status, json.loads(out)["findings"]) == (1, [finding])


def test_a_failed_expectation_is_found(run: Any) -> None:
    status, out, _ = run("run", EXAMPLES / "nested.s", "--expect", "AX:37")
    assert status == 1
    assert "goroutine 1: RAX is 0x24, not 0x25" in out


def test_what_no_two_runs_share_is_not_blamed_on_preemption(run: Any, snippet: Any) -> None:
    body = "MOVL $9, CX\nloop: RDTSC\nSHLQ $32, DX\nORQ DX, AX\nDECL CX\nJNE loop\nRET"
    status, out, _ = run("check", snippet(body))
    assert (status, out.splitlines()[0][:9]) == (0, "preserved")


def test_assembly_functions_are_never_preempted_under_gos_own_rule(run: Any) -> None:
    status, out, _ = run("run", EXAMPLES / "register_loop.s", "--every", "100", "--as-assembly")
    assert status == 0
    assert "0 asynchronous preemptions" in out
    assert "refused: assembly function" in out


def test_a_setting_that_is_no_number_is_shown_in_place(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "header.s"
    path.write_text("// pushcall: procs=many\nTEXT main·main(SB), 4, $0\n\tRET\n")
    first, _, caret, *_ = refused(run, "run", path).splitlines()
    assert first.startswith(f"{path}:1:14: pushcall: procs is a number, not many")
    assert caret == " " * 13 + "^" + "~" * 9


def test_an_endless_file_is_refused(run: Any) -> None:
    assert "more than 16 MiB" in refused(run, "run", "/dev/zero")


@pytest.mark.parametrize("options", [("--at=-5",), ("--budget", "0"), ("--every", "0")])
def test_a_number_below_its_range_is_refused(run: Any, options: tuple[str, ...]) -> None:
    refused(run, "run", EXAMPLES / "add.s", *options)


def test_check_gives_up_on_a_program_that_does_not_end(run: Any, snippet: Any) -> None:
    status, out, _ = run("check", snippet("again: JMP again"), "--budget", "3000")
    assert status == 1
    assert "does not end within 3000 instructions" in out
    assert "preserved: every" not in out


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("5", "'5': not AFTER:WHAT"),
        ("5:sleep", "nothing is called sleep; there are: preempt, signal"),
        ("5:preempt", "preempt has a number, =<P>"),
        ("5:scan=1", "scan has no number"),
        ("5:slice=0", "at least 1 ns"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused(run: Any, schedule: str, message: str) -> None:
    status, out, err = run("run", EXAMPLES / "add.s", "--schedule", schedule)
    assert (status, out) == (2, "")
    assert message in err


def test_a_schedule_is_carried_out_and_the_invariants_are_checked(run: Any) -> None:
    schedule = "0:slice=50,3:preempt=0,10:scan,90:stop,90:each,50:signal=1,20:locks,9:preempt=0"
    status, out, _ = run(
        "run", EXAMPLES / "growth.s", "--schedule", schedule, "--json", "--events",
        "--goroutines", 2,
    )  # fmt: skip
    assert status == 0
    kinds = {event["event"] for event in json.loads(out)["events"]}
    assert {"PreemptRequested", "StackScanned", "WorldStopped", "SafePointFunction"} <= kinds


def test_check_refuses_a_program_whose_system_call_is_missing(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket.s"  # 41: arch/x86/entry/syscalls/syscall_64.tbl
    path.write_text("TEXT main·main(SB), 4, $0-0\n\tMOVQ $41, AX\n\tSYSCALL\n\tRET\n", "utf-8")
    status, out, err = run("check", path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pushcall: system call 41 \(socket\) at 0x\w+ is not modelled\n", err)


def test_all_preemptions_that_lose_are_counted(run: Any, snippet: Any, tmp_path: Path) -> None:
    """A document shows a hundred losses; what survived is what is left of all."""
    trampoline = tmp_path / "loses.s"
    text = stack_text().replace("\tMOVQ 56(SP), R9\n", "")
    trampoline.write_text(text, "utf-8")
    path = snippet("MOVQ $500, CX\nloop:\nDECQ CX\nJNE loop\nRET")
    given = ("--every", "5", "--go", "1.22", "--trampoline", trampoline, "--json")
    status, out, _ = run("run", path, *given)
    document = json.loads(out)
    assert status == 1
    assert document["preemptions"] > 150
    assert (len(document["losses"]), document["survived"]) == (100, 0)
