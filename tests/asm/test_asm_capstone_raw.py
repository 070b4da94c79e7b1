"""Capstone by ctypes reads what its Python package reads."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import capstone

from asm import capstone_raw

if TYPE_CHECKING:
    import pytest


def test_the_raw_reader_agrees_with_the_package() -> None:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    read = capstone_raw.reader()
    generator = random.Random(5)
    for _ in range(2000):
        data = generator.randbytes(generator.randrange(1, 40))
        address = generator.randrange(1 << 40)
        assert read(data, address) == list(engine.disasm_lite(data, address))


def test_without_the_library_the_package_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capstone_raw, "_library", lambda: None)
    read = capstone_raw.reader.__wrapped__()
    assert read(b"\x90\xc3", 16) == [(16, 1, "nop", ""), (17, 1, "ret", "")]
