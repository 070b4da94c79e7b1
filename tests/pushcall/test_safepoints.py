"""`pushcall safepoints`: the view and the JSON document, of binaries and of snippets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import keystone
import pytest
from click.testing import CliRunner
from go_binary import ASM_FLAG, Function, GoBinaryWriter

from pushcall.audit.safepoints import (
    binary_listing,
    open_binary,
    select,
    text_lines,
    to_json,
)
from pushcall.audit.unsafe_kinds import UnsafeKind
from pushcall.cli.binary import safepoints
from pushcall.usage import UsageError
from runtime_model.moduledata import GoBinary
from runtime_model.symtab import funcpkgpath

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def assemble(text: str, address: int = 0x401000) -> bytes:
    code, _ = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64).asm(text, address)
    return bytes(code)


# cmp; jbe (unsafe); nop; a write barrier's flag, its branch and store (unsafe); call; ret.
CODE = assemble(
    "cmp rsp, qword ptr [r14 + 16]; jbe 0x40101c; nop;"
    "cmp dword ptr [rip + 0x100], 0; jne 0x401012; mov qword ptr [rax], rcx; nop; nop; ret;"
    "call 0x401030; jmp 0x401000"
)
HOT = Function(
    "main.hotLoop",
    CODE,
    tables={
        0: [(4, -1), (6, -2), (14, -1), (19, -2), (len(CODE), -1)],
        2: [(6, -1), (7, 0), (len(CODE), -1)],
    },
    inlined=[("strings.Index", 4)],
    lines=[(6, 12), (len(CODE), 13)],
)
CHECK = Function("runtime.morestack_noctxt", b"\xc3", locals="none", flag=ASM_FLAG)
OTHER = Function("example.com/a/b.(*T).Method[go.shape.int]", b"\x90\xc3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "server"
    file.write_bytes(bytes(GoBinaryWriter((1, 24), [HOT, CHECK, OTHER], gap=16)))
    return file


@pytest.fixture
def pushcall(path: Path) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            safepoints, [str(path), *arguments], catch_exceptions=False, standalone_mode=False
        )
        return result.output

    return run


def test_the_document_gives_ranges_as_the_design_says(pushcall: Callable[..., str]) -> None:
    document = json.loads(pushcall("main.hotLoop", "--json"))
    assert document["schema"] == "pushcall.safepoints/1"
    (function,) = document["functions"]
    assert (function["name"], function["start"]) == ("main.hotLoop", "0x401000")
    assert function["end"] == f"{0x401000 + len(CODE):#x}"
    starts = [(r["start"], r["safe"], r["reason"], r["resume"]) for r in function["ranges"]]
    assert starts == [
        ("0x401000", True, "safe", "same"),
        ("0x401004", False, "unsafe-point", None),
        ("0x401006", True, "safe", "same"),
        ("0x40100e", False, "unsafe-point", None),
        ("0x401013", True, "safe", "same"),
    ]


def test_all_functions_make_one_document(pushcall: Callable[..., str]) -> None:
    document = json.loads(pushcall("--json"))
    assert [f["name"] for f in document["functions"]] == [
        "main.hotLoop",
        "runtime.morestack_noctxt",
        "example.com/a/b.(*T).Method[go.shape.int]",
        "runtime.call32",
    ]


def test_each_instruction_has_its_verdict_kind_source_and_inlining(path: Path) -> None:
    binary = GoBinary(path)
    lines = list(text_lines(binary_listing(binary, binary.names["main.hotLoop"])))
    assert lines[0].startswith("# main.hotLoop  0x401000-")
    assert "cmp rsp, qword ptr [r14 + 0x10]" in lines[1]
    assert lines[1].startswith("+ ")
    assert lines[1].endswith("main.go:12")
    assert lines[2].startswith("! ")
    assert "unsafe point: stack check of the prologue" in lines[2]
    assert "strings.Index, inlined at main.go:12" in lines[3]
    barrier = [line for line in lines if "write barrier" in line]
    assert len(barrier) == 2
    assert "%" in lines[-2]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("main.hotLoop", "main.hotLoop"),
        ("hotLoop", "main.hotLoop"),
        ("b.(*T).Method[go.shape.int]", "example.com/a/b.(*T).Method[go.shape.int]"),
        ("*Method*", "example.com/a/b.(*T).Method[go.shape.int]"),
        ("main.h?tLoop", "main.hotLoop"),
    ],
)
def test_functions_are_named_exactly_by_their_end_or_by_a_pattern(
    path: Path, wanted: str, found: str
) -> None:
    assert [f.name for f in select(GoBinary(path), wanted)] == [found]


def test_a_misspelt_function_suggests_near_ones(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no function main\.hotLop; there is main\.hotLoop"):
        select(GoBinary(path), "main.hotLop")


def test_an_address_outside_says_where_the_functions_lie(path: Path) -> None:
    binary = GoBinary(path)
    assert [f.name for f in select(binary, pc=0x401005)] == ["main.hotLoop"]
    with pytest.raises(UsageError, match="0x7 is not Go code: the functions lie in 0x401000-"):
        select(binary, pc=7)


def test_a_package_is_chosen_by_its_import_path(path: Path) -> None:
    binary = GoBinary(path)
    assert [f.name for f in select(binary, package="example.com/a/b")] == [OTHER.name]
    with pytest.raises(UsageError, match=r"no package .*/c; there is example\.com/a/b"):
        select(binary, package="example.com/a/c")


def test_packages_of_names() -> None:
    assert funcpkgpath("example.com/a.b/c.(*T).m") == "example.com/a.b/c"
    assert funcpkgpath("main.f[go.shape.struct { example.com/x.Y }]") == "main"
    assert funcpkgpath("memeqbody") == ""


def test_a_broken_table_is_one_message(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\0\0\1\x08", b"\0\0\4\x08"))
    with pytest.raises(UsageError, match=r"server: pclntab at 0x4400.*not of 64-bit x86"):
        open_binary(path)


def test_go_1_13_has_no_safe_points(path: Path) -> None:
    path.write_bytes(bytes(GoBinaryWriter((1, 13), [OTHER])))
    with pytest.raises(UsageError, match=r"Go 1\.13 has no asynchronous preemption"):
        open_binary(path)


SNIPPET = """
TEXT main·main(SB), 0, $200-0
	MOVQ $3, CX
loop:
	DECQ CX
	JNE  loop
	RET
"""


@pytest.mark.parametrize("as_assembly", [False, True])
def test_snippets_have_the_same_view(tmp_path: Path, as_assembly: bool) -> None:
    file = tmp_path / "snippet.s"
    file.write_text(SNIPPET)
    options = [str(file), "--json", *(["--as-assembly"] if as_assembly else [])]
    result = CliRunner().invoke(safepoints, options, catch_exceptions=False, standalone_mode=False)
    (function,) = json.loads(result.output)["functions"]
    reasons = [r["reason"] for r in function["ranges"]]
    if as_assembly:
        assert reasons == ["assembly", "unsafe-point", "assembly", "unsafe-point", "assembly"]
    else:
        # -2 from behind the compare up to the branch, and on the call of morestack.
        assert reasons == ["safe", "unsafe-point", "safe", "unsafe-point", "safe"]
    text = CliRunner().invoke(safepoints, options[:1], standalone_mode=False).output
    assert "DECQ CX" in text
    assert "snippet.s:5" in text


def marked(name: str, text: str, *runs: tuple[int, int], flag: int = 0) -> Function:
    code = assemble(text)
    return Function(name, code, tables={0: [*runs, (len(code), -3 - runs[-1][1])]}, flag=flag)


CHECKED = "cmp rsp, qword ptr [r14 + 16]; jbe 0x401000; push rbp; mov rbp, rsp; "
BODY = "add rax, 1; add rax, 2; add rax, 3; add rax, 4; add rax, 5; add rax, 6; add rax, 7;"


@pytest.mark.parametrize(
    ("functions", "kind"),
    [
        # -+ makes all of a function unsafe behind its prologue; nosplit ones check no stack.
        ([marked("a.f", CHECKED + BODY + "ret", (4, -1), (6, -2), (10, -1))], UnsafeKind.RUNTIME),
        (
            [
                marked("a.f", "push rbp; " + BODY + "ret", (1, -1)),
                marked("a.g", CHECKED + BODY + "ret", (4, -1), (6, -2)),
            ],
            UnsafeKind.NOSPLIT,
        ),
        (
            [
                marked("a.f", "push rbp; " + BODY + "ret", (1, -1)),
                marked("a.g", CHECKED + BODY + "ret", (4, -1), (6, -2), (10, -1)),
            ],
            UnsafeKind.RUNTIME,
        ),
        ([marked("a.f", "push rbp; " + BODY + "ret", (1, -1))], UnsafeKind.NOSPLIT_OR_RUNTIME),
        # A load of TLS in two instructions: the second must follow the first.
        (
            [marked("a.f", BODY + "mov rcx, -8; mov rcx, fs:[rcx]; ret", (35, -1), (39, -2))],
            UnsafeKind.TLS,
        ),
    ],
)
def test_unsafe_points_are_told_apart(
    functions: list[Function], kind: UnsafeKind, tmp_path: Path
) -> None:
    file = tmp_path / "kinds"
    file.write_bytes(bytes(GoBinaryWriter((1, 24), functions)))
    with GoBinary(file) as binary:
        lines = list(binary_listing(binary, binary.names["a.f"]).lines())
    found = {line.kind for line in lines if not line.verdict.safe}
    assert found - {UnsafeKind.STACK_CHECK.value} == {kind.value}


def test_labels_are_those_of_funcid_and_flags(path: Path) -> None:
    with GoBinary(path) as binary:
        entry = to_json(binary_listing(binary, binary.names["runtime.morestack_noctxt"]))
        assert entry["labels"] == ["ASM"]
        kinds = [r["kind"] for r in to_json(binary_listing(binary, next(iter(binary))))["ranges"]]
    assert kinds == ["", "stack check of the prologue", "", "write barrier", ""]


def test_a_listing_without_marks_says_so(tmp_path: Path) -> None:
    file = tmp_path / "listing.txt"
    file.write_text(
        "TEXT main.f(SB) /src/f.go\n  f.go:3\t0x45d140\t90\tNOPL\n  f.go:3\t0x45d141\tc3\tRET\n"
    )
    result = CliRunner().invoke(safepoints, [str(file)], standalone_mode=False)
    assert "go tool objdump prints no PCDATA" in result.stderr
