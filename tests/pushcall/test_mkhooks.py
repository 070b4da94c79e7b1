"""The machine code of hooks is what our own assembler makes of the text beside it."""

from __future__ import annotations

import re

import pytest

from pushcall.check.mkhooks import FILES, ROOT, machine_code, remade


@pytest.mark.parametrize("name", FILES)
def test_the_bytes_are_those_of_the_text(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert remade(name, text) == text
    # Whatever is wrong in the bytes is made anew.
    spoilt, count = re.subn(r'(fromhex\(\s*")\w\w', r"\g<1>f4", text)
    assert spoilt != text
    assert remade(name, spoilt) == text
    assert count == len(re.findall(r'_TEXT: Final = f?"""', text))


def test_every_piece_of_machine_code_is_in_these_files() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("emulator", "runtime_model", "pushcall")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r'^\w+_TEXT: Final = f?"""', path.read_text("utf-8"), re.MULTILINE)
    }
    assert found == set(FILES)


# `go tool asm` writes ADDQ $8, AX; RET so.
def test_a_piece_is_assembled_by_itself() -> None:
    assert (
        machine_code("piece", "        add rax, 8 ; comment\n        ret\n").hex() == "4883c008c3"
    )
