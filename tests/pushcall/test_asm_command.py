"""`pushcall asm`, and other inputs than Go assembly in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from elftools.elf.elffile import ELFFile

from pushcall import api
from pushcall.cli import cli

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
