"""Writes the machine code of hooks beside its text: `python -m pushcall.mkhooks`.

Constants NAME_TEXT hold assembly in Intel's syntax; the constant behind each gets the bytes that
our assembler makes of it. They stand in the files because emulator imports no assembler, and
because a start then costs nothing. A test has all of them made again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from asm.assemble import Target, assemble
from asm.source import Source

ROOT: Final = Path(__file__).parents[1]
FILES: Final = (
    "emulator/hooks.py",
    "emulator/native_cpu.py",
    "emulator/record_hooks.py",
    "pushcall/batch_hooks.py",
)
_PAIR: Final = re.compile(
    r'(?P<head>^(?P<name>\w+)_TEXT: Final = """\n(?P<text>.*?)"""\n\w+: Final = )'
    r"bytes\.fromhex\([^)]*\)",
    re.MULTILINE | re.DOTALL,
)
_ADDRESS: Final = 0x40_0000
_DIGITS: Final = 88  # in a line
_WIDTH: Final = 100


def machine_code(name: str, text: str) -> bytes:
    """The bytes of a piece of assembly; its own labels only. Raises AsmError."""
    source = Source(name, f"hook:\n{text}")
    target = Target(go=(1, 22), syntax="intel")
    image = assemble([source], target, text_address=_ADDRESS, data_address=2 * _ADDRESS, externs={})
    return next(segment.data for segment in image.segments if segment.executable)


def remade(text: str) -> str:
    """A file's text with the bytes of all pieces made anew."""

    def pair(match: re.Match[str]) -> str:
        digits = machine_code(match["name"], match["text"]).hex()
        last = match["head"].rpartition("\n")[2]
        literal = f'bytes.fromhex("{digits}")'
        if len(last + literal) > _WIDTH:
            lines = [digits[i : i + _DIGITS] for i in range(0, len(digits), _DIGITS)]
            literal = "".join(["bytes.fromhex(\n", *(f'    "{line}"\n' for line in lines), ")"])
        return match["head"] + literal

    return _PAIR.sub(pair, text)


def main() -> None:
    """Writes all files."""
    for name in FILES:
        path = ROOT / name
        path.write_text(remade(path.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
