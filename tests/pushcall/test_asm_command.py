"""`pushcall asm`, and other inputs than Go assembly in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from elftools.elf.elffile import ELFFile

from asm.source import AsmError
from pushcall import api
from pushcall.cli.main import cli
from pushcall.usage import UsageError
from runtime_model.toolchain import ToolchainError

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTINGS = Path(__file__).parents[1] / "asm/recorded/listings"
SUM = "main:\n\tmov ecx, 100\n\txor eax, eax\n1:\tadd rax, rcx\n\tdec rcx\n\tjnz 1b\n\tret\n"


def test_o_writes_an_executable_whose_entry_is_the_entry(tmp_path: Path) -> None:
    output = tmp_path / "out.elf"
    arguments = ["asm", str(EXAMPLES / "carry_chain.s"), "-o", str(output), "--json"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None
    document = json.loads(result.stdout)
    (function,) = document["functions"]
    with output.open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_entry"] == int(function["address"], 16)
        assert elf.get_section_by_name(".text").data().hex() == document["bytes"]


@pytest.mark.parametrize("version", ["1.19", "1.22", "1.27"])
def test_a_pasted_listing_runs_and_every_register_survives(version: str) -> None:
    # The program's own test, main.go: add(spin(10)) + scale(2) is 21, which Go leaves in AX.
    path = LISTINGS / f"compile_{version}.txt"
    rt, out = api.run(path, go=version, entry="main.main", every=3, expect=["AX:21"])
    assert out.status == 0
    assert rt.user.function("main.main") is not None
    # objdump lists code only: what has no data runs.
    for name in (f"compile_{version}.txt", f"objdump_{version}.txt"):
        result = api.check(LISTINGS / name, go=version, entry="main.spin")
        assert result.verdict == "preserved"


def test_intel_text_runs(tmp_path: Path) -> None:
    path = tmp_path / "sum.s"
    path.write_text(SUM)
    _, out = api.run(path, syntax="intel", every=7, expect=["AX:5050"])
    assert out.status == 0
    arguments = ["check", str(path), "--syntax", "intel", "--json"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert json.loads(result.stdout)["verdict"] == "preserved"


# Files of a GOROOT, and go_asm.h. What a real GOROOT gives is in tests/conformance.

RUNTIME_FILE = """\
#include "go_asm.h"
#include "textflag.h"
TEXT ·f(SB), NOSPLIT, $0-0
	MOVQ g_stackguard0(R14), AX
	CALL runtime·nowhere(SB)
	RET
"""


@pytest.fixture
def goroot(tmp_path: Path) -> Path:
    """A GOROOT of Go 1.24 whose go command writes a header and counts its calls."""
    root = tmp_path / "go"
    for directory in ("src/runtime", "src/internal/x", "bin"):
        (root / directory).mkdir(parents=True)
    (root / "VERSION").write_text("go1.24.3\ntime 2025-05-01T00:00:00Z\n")
    (root / "src/runtime/runtime2.go").write_text("package runtime\n")
    command = root / "bin/go"
    command.write_text(
        '#!/bin/sh\nfor last; do :; done\necho "$last $GOOS" >> "$GOROOT/calls"\n'
        'mkdir -p "$GOTMPDIR/go-build1/b001"\n'
        'echo "#define const_answer 42" > "$GOTMPDIR/go-build1/b001/go_asm.h"\n'
        'echo "#define g_stackguard0 16" >> "$GOTMPDIR/go-build1/b001/go_asm.h"\n'
    )
    command.chmod(0o755)
    return root


@pytest.fixture(autouse=True)
def no_other_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOROOT", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def asm(*arguments: str | Path) -> dict[str, Any]:
    command = ["asm", "--json", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def at_line(document: dict[str, Any], line: int) -> dict[str, Any]:
    """The instruction of a line, which has one."""
    (found,) = (i for i in document["functions"][0]["instructions"] if i["line"] == line)
    assert isinstance(found, dict)
    return found


def test_a_file_of_a_goroot_has_its_package_version_and_relocations(goroot: Path) -> None:
    file = goroot / "src/runtime/f_amd64.s"
    file.write_text(RUNTIME_FILE)
    document = asm(file)
    assert document["go"] == "1.24"
    assert document["functions"][0]["name"] == "runtime.f"
    assert document["undefined"] == ["runtime.nowhere"]
    (relocation,) = document["relocations"]
    call = at_line(document, 5)
    assert relocation == {
        "address": f"{int(call['address'], 16) + 1:#x}",
        "type": "R_X86_64_PLT32",
        "symbol": "runtime.nowhere",
        "addend": -4,
    }
    # The table has what the file needs: nobody is asked.
    assert document["go_asm_h"] == "go_asm.h (the table of Go 1.24)"
    assert not (goroot / "calls").exists()
    listed = CliRunner().invoke(cli, ["asm", str(file)]).stdout
    assert "R_X86_64_PLT32 runtime.nowhere-0x4" in listed
    with pytest.raises(AsmError, match=r"undefined symbol runtime\.nowhere"):
        asm(file, "-o", goroot / "f.elf")
    asm(file, "-o", goroot / "f.o")
    assert (goroot / "f.o").read_bytes()[16] == 1  # ET_REL


def test_a_toolchain_is_asked_for_the_names_that_the_table_lacks(goroot: Path) -> None:
    file = goroot / "src/runtime/f_amd64.s"
    file.write_text(RUNTIME_FILE.replace("g_stackguard0(R14)", "$const_answer"))
    document = asm(file, "--goos", "linux")
    assert document["go_asm_h"] == f"go_asm.h (package runtime of go1.24.3 in {goroot})"
    assert at_line(document, 4)["bytes"] == "48c7c02a000000"  # MOVQ $42, AX
    assert (goroot / "calls").read_text() == "runtime linux\n"


def test_a_package_without_a_table_gets_the_header_of_a_toolchain(goroot: Path) -> None:
    file = goroot / "src/internal/x/f_amd64.s"
    file.write_text(RUNTIME_FILE)
    document = asm(file)
    assert document["functions"][0]["name"] == "internal/x.f"
    assert (goroot / "calls").read_text() == "internal/x linux\n"


def test_goroot_asks_its_toolchain_and_gives_the_version(goroot: Path, tmp_path: Path) -> None:
    file = tmp_path / "f.s"
    file.write_text(RUNTIME_FILE)
    document = asm(file, "--goroot", goroot)
    assert (document["go"], document["functions"][0]["name"]) == ("1.24", "main.f")
    assert document["go_asm_h"] == f"go_asm.h (package runtime of go1.24.3 in {goroot})"
    with pytest.raises(UsageError, match=r"is go1\.24\.3, not Go 1\.22"):
        asm(file, "--goroot", goroot, "--go", "1.22")
    with pytest.raises(ToolchainError, match="not a GOROOT"):
        asm(file, "--goroot", tmp_path)


def test_without_a_toolchain_of_the_version_the_table_is_named(goroot: Path) -> None:
    file = goroot / "src/runtime/f_amd64.s"
    file.write_text(RUNTIME_FILE.replace("g_stackguard0", "const_answer"))
    with pytest.raises(AsmError) as caught:
        asm(file, "--go", "1.23")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == "const_answer: not in the table of Go 1.23"
    assert f"only go1.24.3 in {goroot}" in str(diagnostic)


def test_the_header_beside_the_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "f.s").write_text(RUNTIME_FILE)
    (tmp_path / "go_asm.h").write_text("#define g_stackguard0 1\n")
    document = asm(tmp_path / "f.s")
    assert document["go_asm_h"] == str(tmp_path / "go_asm.h")
    assert at_line(document, 4)["bytes"] == "498b4601"  # MOVQ 1(R14), AX


def test_package_names_what_begins_with_a_dot(tmp_path: Path) -> None:
    (tmp_path / "f.s").write_text("TEXT ·f(SB), 4, $0\n\tRET\n")
    # The last element's dots are escaped, as cmd/internal/objabi.PathToPrefix has it.
    document = asm(tmp_path / "f.s", "--package", "example.com/a.b")
    assert document["functions"][0]["name"] == "example.com/a%2eb.f"
