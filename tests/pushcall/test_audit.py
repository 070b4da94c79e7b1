"""`pushcall audit`: which loops it finds, and which it must not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import keystone
import pytest
from click.testing import CliRunner
from go_binary import ASM_FLAG, Function, GoBinaryWriter

from pushcall.audit.binary import Finding, audit, diff, lines
from pushcall.audit.control_flow import Kind, components, decode, scan, suspects
from pushcall.audit.sarif import to_sarif
from pushcall.cli.binary import KINDS
from pushcall.cli.binary import audit as audit_command
from pushcall.usage import UsageError
from runtime_model.preempt import Reason

GAP = 256  # bytes between functions, so that calls can name their addresses
START = 0x401000


def code(text: str, number: int) -> bytes:
    """The code of the function with that number; `start` in the text is its address."""
    engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    address = START + GAP * number
    encoded, _ = engine.asm(text.replace("start", hex(address)), address)
    return bytes(encoded)


def assembly(name: str, text: str, number: int = 0) -> Function:
    return Function(name, code(text, number), locals="none", flag=ASM_FLAG)


def compiled(name: str, text: str, number: int = 0, unsafe: tuple[int, int] = (0, 0)) -> Function:
    data = code(text, number)
    runs = [(unsafe[0], -1), (unsafe[1], -2), (len(data), -1)]
    return Function(name, data, tables={0: [run for run in runs if run[0]]} if unsafe[1] else {})


def write(tmp_path: Path, *functions: Function, name: str = "binary") -> Path:
    path = tmp_path / name
    path.write_bytes(bytes(GoBinaryWriter((1, 24), list(functions), gap=GAP)))
    return path


def kinds(path: Path, **options: bool) -> list[tuple[str, Kind]]:
    return [(f.function, f.kind) for f in audit(path, **options).findings]


def test_an_assembly_loop_is_found_with_its_lines_and_count(tmp_path: Path) -> None:
    function = assembly("a.sum", "xor eax, eax; l: add rax, [rsi]; add rsi, 8; dec rcx; jnz l; ret")
    function.lines = [(2, 10), (5, 11), (9, 12), (14, 13), (15, 14)]
    (finding,) = audit(write(tmp_path, function)).findings
    assert (finding.start, finding.end) == (START + 2, START + 14)
    assert (finding.kind, finding.bound) == (Kind.COUNTED, "RCX counts down")
    assert (finding.reason, finding.instructions) == (Reason.ASSEMBLY, 4)
    assert finding.lines == (11, 13)


def test_a_compiled_loop_with_a_safe_boundary_is_none(tmp_path: Path) -> None:
    loop = "l: add rax, rcx; dec rcx; jnz l; ret"
    assert kinds(write(tmp_path, compiled("a.safe", loop))) == []
    assert kinds(write(tmp_path, compiled("a.partly", loop, unsafe=(0, 6)))) == []
    found = kinds(write(tmp_path, compiled("a.unsafe", loop, unsafe=(0, 8))))
    assert found == [("a.unsafe", Kind.COUNTED)]


def test_a_cycle_that_goes_round_the_safe_part_is_found(tmp_path: Path) -> None:
    # test rax; jz past the safe nop; nop (safe); dec; jnz: the way by the branch has no safe PC.
    text = "l: test rax, rax; jz n; nop; n: dec rcx; jnz l; ret"
    data = code(text, 0)
    function = Function("a.round", data, tables={0: [(5, -2), (6, -1), (11, -2), (12, -1)]})
    assert kinds(write(tmp_path, function)) == [("a.round", Kind.COUNTED)]


@pytest.mark.parametrize(
    ("text", "kind", "bound"),
    [
        ("mov ecx, 7; l: dec ecx; jnz l; ret", Kind.CONSTANT, "RCX counts from 7"),
        ("xor eax, eax; l: inc rax; cmp rax, 9; jl l; ret", Kind.CONSTANT, "RAX goes from 0 to 9"),
        ("l: add rsi, 16; cmp rsi, rdi; jb l; ret", Kind.COUNTED, "RSI goes to RDI"),
        (
            "l: inc rax; cmp rax, [rsp + 8]; jl l; ret",
            Kind.COUNTED,
            "RAX goes to a value in memory",
        ),
        ("l: pause; cmp dword ptr [rax], 0; jne l; ret", Kind.UNBOUNDED, ""),
        ("l: jmp l", Kind.UNBOUNDED, ""),
        ("mov ecx, 181; rep movsq; ret", Kind.CONSTANT, "RCX counts from 181"),
        ("rep stosb; ret", Kind.REP, "the count in RCX"),
        ("l: nop; loop l; ret", Kind.COUNTED, "RCX counts down"),
    ],
)
def test_what_bounds_a_loop(tmp_path: Path, text: str, kind: Kind, bound: str) -> None:
    (finding,) = audit(write(tmp_path, assembly("a.f", text))).findings
    assert (finding.kind, finding.bound) == (kind, bound)


def test_loops_in_loops_are_found_apart(tmp_path: Path) -> None:
    text = "o: mov ecx, 4; i: dec ecx; jnz i; dec rdx; jnz o; ret"
    findings = audit(write(tmp_path, assembly("a.nested", text))).findings
    assert [(f.kind, f.instructions) for f in findings] == [(Kind.COUNTED, 5), (Kind.CONSTANT, 2)]


def test_a_call_that_checks_the_stack_stops_a_loop(tmp_path: Path) -> None:
    callee = START + GAP
    loop = assembly("a.calls", f"l: call {callee:#x}; dec rbx; jnz l; ret")
    nosplit = "ret"
    check = "cmp rsp, qword ptr [r14 + 16]; jbe start; ret"
    big = "mov r12, rsp; sub r12, 4096; jb start; cmp r12, qword ptr [r14 + 16]; jbe start; ret"

    def found(function: Function) -> list[tuple[str, Kind]]:
        return [f for f in kinds(write(tmp_path, loop, function)) if f[0] == "a.calls"]

    assert found(assembly("a.nosplit", nosplit, 1)) == [("a.calls", Kind.COUNTED)]
    assert found(assembly("a.checks", check, 1)) == []
    assert found(assembly("a.big", big, 1)) == []
    assert found(compiled("a.compiled", nosplit, 1)) == []  # its entry is a safe point
    assert found(assembly("runtime.morestack", nosplit, 1)) == []


def test_a_call_of_an_unknown_function_may_stop_a_loop(tmp_path: Path) -> None:
    assert kinds(write(tmp_path, assembly("a.f", "l: call rax; dec rbx; jnz l; ret"))) == []


def test_jumps_through_a_table_make_loops(tmp_path: Path) -> None:
    # The table lies behind the code: its one entry is the function's start.
    data = code("lea rdx, [rip + 4]; jmp qword ptr [rdx + rax*8]; nop; nop; nop; nop", 0)
    jump = data.index(b"\xff\x24\xc2") + 3
    table = data[:jump] + START.to_bytes(8, "little")
    table = table[:3] + (jump - 7).to_bytes(4, "little") + table[7:]
    function = Function("a.table", table, locals="none", flag=ASM_FLAG)
    (finding,) = audit(write(tmp_path, function)).findings
    assert (finding.kind, finding.instructions) == (Kind.UNBOUNDED, 2)


def test_the_runtimes_go_code_is_left_out_but_not_its_assembly(tmp_path: Path) -> None:
    loop = "l: dec rcx; jnz l; ret"
    functions = compiled("runtime.lock2", loop), assembly("runtime.memmove", loop, 1)
    path = write(tmp_path, *functions)
    assert kinds(path) == [("runtime.memmove", Kind.COUNTED)]
    assert len(kinds(path, include_runtime=True)) == 2


def test_totals_count_instructions_by_reason(tmp_path: Path) -> None:
    functions = compiled("a.f", "nop; nop; ret"), assembly("b.g", "nop; ret", 1)
    totals = audit(write(tmp_path, *functions)).to_json()["totals"]
    assert totals["instructions"] == 6  # and runtime.call32's RET
    assert totals["by_reason"] == {"safe": 3, "assembly": 3}
    assert totals["preemptible"] == 0.5


def test_diff_reports_what_became_worse(tmp_path: Path) -> None:
    loop = "l: dec rcx; jnz l; ret"
    before = audit(write(tmp_path, assembly("a.f", loop), name="old"))
    grown = assembly("a.f", "nop; " + loop), assembly("a.g", loop, 1)
    after = audit(write(tmp_path, *grown, name="new"))
    assert [f.function for f in diff(before, after)] == ["a.g"]
    assert diff(after, before) == []


def test_jobs_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, assembly("a.f", "l: dec rcx; jnz l; ret"), compiled("a.g", "ret", 1))
    assert audit(path, jobs=2).to_json() == audit(path).to_json()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_ctrl_c_ends_an_audit_with_what_is_known(tmp_path: Path, jobs: int) -> None:
    path = write(tmp_path, assembly("a.f", "l: dec rcx; jnz l; ret"))

    def ctrl_c(_: int) -> None:
        raise KeyboardInterrupt

    result = audit(path, jobs=jobs, report=ctrl_c)
    assert result.to_json()["interrupted"] is True
    assert [finding.function for finding in result.findings] == ["a.f"]
    assert next(lines(result)) == f"! interrupted: {result.functions} functions were audited"


def test_the_command_fails_only_on_what_it_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, assembly("a.f", "l: dec rcx; jnz l; ret"))

    def status(*options: str) -> int:
        run = CliRunner().invoke(
            audit_command, [str(path), *options], catch_exceptions=False, standalone_mode=False
        )
        return int(run.return_value)

    assert status() == 0
    assert status("--fail-on", "unbounded") == 0
    assert status("--fail-on", "counted") == 1
    assert status("--fail-on", "any") == 1
    assert status("--fail-on", "any", "--diff", str(path)) == 0


def test_sarif_names_function_rule_and_lines(tmp_path: Path) -> None:
    function = assembly("a.f", "l: dec rcx; jnz l; ret")
    function.lines = [(6, 42)]
    path, log = write(tmp_path, function), tmp_path / "log.sarif"
    arguments = [str(path), "--json", "--sarif", str(log)]
    run = CliRunner().invoke(
        audit_command, arguments, catch_exceptions=False, standalone_mode=False
    )
    document = json.loads(run.output)
    assert document["schema"] == "pushcall.audit/1"
    assert document["findings"][0]["lines"] == [42, 42]
    sarif = json.loads(log.read_text())
    assert sarif["version"] == "2.1.0"
    (result,) = sarif["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("counted", "warning")
    place = result["locations"][0]
    assert place["physicalLocation"]["region"] == {"startLine": 42, "endLine": 42}
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "a.f"


def test_a_broken_function_is_told_and_the_rest_is_audited(tmp_path: Path) -> None:
    broken = Function("a.broken", b"\x90" * 8, tables={0: [(4, -1), (8, -2)]})
    path = write(tmp_path, broken, assembly("a.f", "l: dec rcx; jnz l; ret", 1))
    path.write_bytes(path.read_bytes().replace(bytes.fromhex("0004 0104 00"), b"\0\4\1\xff\7"))
    result = audit(path)
    assert [f.function for f in result.findings] == ["a.f"]
    assert "goes past its function" in result.broken[0]


def test_components_are_those_with_a_cycle() -> None:
    edges = {0: [1], 1: [2], 2: [1, 3], 3: [3], 4: [0]}
    assert sorted(components(edges, edges)) == [[1, 2], [3]]
    deep = {n: [n + 1] for n in range(50_000)} | {50_000: [0]}
    assert len(components(deep, deep)) == 1


def test_what_scan_calls_certain_is_certain() -> None:
    """Of random code, whatever branches back, jumps anywhere or repeats itself is suspected."""
    chance = random.Random(3)
    leads = [b"\x75", b"\xeb", b"\xe2", b"\x0f\x85", b"\xe9", b"\xff\x24", b"\xff\xe0", b"\xf3\xa4"]
    leads += [b"\xf2\x48\xaf", b"\x66\xf3\xa5", b"\xf3\x26\x66\x40\xab", b"\xe8", b"\xc7\xf8"]
    suspected = 0
    for _ in range(20_000):
        head = chance.choice(leads) if chance.random() < 0.7 else b""
        data = (
            chance.randbytes(chance.randint(0, 3)) + head + chance.randbytes(chance.randint(1, 9))
        )
        number, may_loop = scan(data)
        instructions = list(decode(data, START))
        assert number == len(instructions)
        found = list(suspects(instructions))
        assert may_loop or not found, data.hex()
        suspected += bool(found)
    assert suspected > 2000


def test_sarif_names_files_by_uris_and_generated_code_by_its_address() -> None:
    """RFC 3986 has no spaces and no angle brackets; Microsoft's validator refuses them."""
    finding = Finding("a.f", 7, 9, Kind.REP, Reason.ASSEMBLY, "", 1, "/my src/a.s", (3, 4))
    generated = replace(finding, file="<autogenerated>", lines=(1, 1))
    places = [
        result["locations"][0]["physicalLocation"]
        for result in to_sarif(Path("x"), [finding, generated])["runs"][0]["results"]
    ]
    assert places[0]["artifactLocation"] == {"uri": "/my%20src/a.s"}
    assert places[0]["region"] == {"startLine": 3, "endLine": 4}
    assert places[1] == {"address": {"absoluteAddress": 7}}


def test_a_misspelt_package_suggests_near_ones(tmp_path: Path) -> None:
    path = write(tmp_path, assembly("example.com/engine.f", "ret"))
    with pytest.raises(UsageError, match=r"no package example\.com/engin; there is .*/engine"):
        CliRunner().invoke(
            audit_command,
            [str(path), "--package", "example.com/engin"],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_the_options_words_are_all_kinds() -> None:
    assert sorted(KINDS) == sorted(kind.value for kind in Kind)
