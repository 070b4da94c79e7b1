"""Writes the machine code of hooks beside its text: `python -m pushcall.check.mkhooks`.

Constants NAME_TEXT hold assembly in Intel's syntax; NAME, or NAME_CODE, gets the bytes that our
assembler makes of it. They stand in the files because emulator imports no assembler, and
because a start then costs nothing. A test has all of them made again.
"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from asm.assemble import Target, assemble
from asm.source import Source

ROOT: Final = Path(__file__).parents[2]
FILES: Final = (
    "emulator/dead_stack.py",
    "emulator/frame_recorder.py",
    "emulator/hooks.py",
    "emulator/host_cpuid.py",
    "emulator/native/probe.py",
    "emulator/record_hooks.py",
    "pushcall/check/batch_hooks.py",
)
TEXT: Final = re.compile(r'^(?P<name>\w+)_TEXT: Final = f?"""\n', re.MULTILINE)
_BYTES: Final = r"^(?P<head>{}(?:_CODE)?: Final = )bytes\.fromhex\([^)]*\)"
_ADDRESS: Final = 0x40_0000
_DIGITS: Final = 88  # in a line
_WIDTH: Final = 100


def machine_code(name: str, text: str) -> bytes:
    """The bytes of a piece of assembly; its own labels only. Raises AsmError."""
    source = Source(name, f"hook:\n{text}")
    target = Target(go=(1, 22), syntax="intel")
    image = assemble([source], target, text_address=_ADDRESS, data_address=2 * _ADDRESS, externs={})
    return next(segment.data for segment in image.segments if segment.executable)


def remade(file: str, text: str) -> str:
    """A file's text with the bytes of all pieces made anew; ValueError if a piece has none."""
    module = import_module(file.removesuffix(".py").replace("/", "."))
    for piece in TEXT.finditer(text):
        digits = machine_code(piece["name"], getattr(module, f"{piece['name']}_TEXT")).hex()
        pattern = re.compile(_BYTES.format(piece["name"]), re.MULTILINE)
        text, count = pattern.subn(partial(_constant, digits), text)
        if count != 1:
            raise ValueError(f"{piece['name']}_TEXT has {count} constants with its bytes")
    return text


def _constant(digits: str, match: re.Match[str]) -> str:
    """The assignment of a constant that `match` found, with these bytes."""
    literal = f'bytes.fromhex("{digits}")'
    if len(match["head"] + literal) > _WIDTH:
        lines = [digits[i : i + _DIGITS] for i in range(0, len(digits), _DIGITS)]
        literal = "".join(["bytes.fromhex(\n", *(f'    "{line}"\n' for line in lines), ")"])
    return match["head"] + literal


def main() -> None:
    """Writes all files."""
    for name in FILES:
        path = ROOT / name
        path.write_text(remade(name, path.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
