"""Bytes as `go tool asm` made them; recorded/record.py says with which versions and how."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asm.assemble import Source, Target, assemble

if TYPE_CHECKING:
    from types import ModuleType

    from asm.image import Image

RECORDED = Path(__file__).parent / "recorded"
EXTERNS = {"runtime.morestack_noctxt": 0x3F0000, "runtime.morestack": 0x3F1000, "other": 0x3F2000}


def _recording() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", RECORDED / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDING = _recording()
RECORDS = {
    path.stem: RECORDING.recorded(path.with_suffix(".json")) for path in RECORDED.glob("*.s")
}
CASES = [(name, version) for name in sorted(RECORDS) for version in RECORDS[name]]


def image(name: str, version: str) -> Image:
    text = (RECORDED / f"{name}.s").read_text(encoding="utf-8")
    for word in RECORDING.MISSING.get(version, ()):
        text = "".join(line for line in text.splitlines(keepends=True) if word not in line)
    major, minor = version.split(".")
    return assemble(
        [Source(f"{name}.s", text)],
        Target(
            go=(int(major), int(minor)),
            package="runtime" if name == "matrix_abiinternal" else "main",
        ),
        text_address=0x400000,
        data_address=0x500000,
        externs=EXTERNS,
    )


def without_references(data: bytes, expected: str) -> str:
    """The bytes in hex, with .. where the recorded ones have what the linker fills in."""
    pairs = [f"{byte:02x}" for byte in data]
    for at in range(0, len(expected) - 1, 2):
        if expected[at] == "." and at // 2 < len(pairs):
            pairs[at // 2] = ".."
    return "".join(pairs)


@pytest.mark.parametrize(("name", "version"), CASES)
def test_bytes_equal_those_of_go_tool_asm(name: str, version: str) -> None:
    expected = RECORDS[name][version]
    assembled = image(name, version)
    for function_name, want in expected.items():
        function = assembled.function(function_name)
        assert function is not None, function_name
        code = b"".join(i.data for i in function.instructions)
        assert without_references(code, want) == want, function_name


def test_instructions_of_a_function_touch_each_other() -> None:
    for function in image("instructions", "1.27").functions:
        at = function.address
        for instruction in function.instructions:
            assert instruction.address == at
            at = instruction.end
        assert at == function.end


def test_ret_of_a_register_is_a_tail_call_from_1_27_on() -> None:
    # go tool asm of 1.27.3; 1.26.6 refuses it.
    text = "TEXT \u00b7f(SB), 4, $0\n\tRET AX\n"
    target = Target(go=(1, 27))
    found = assemble([Source("ret.s", text)], target, text_address=0x400000, data_address=0x500000)
    assert found.segments[0].data.hex() == "ffe0"


def test_a_zero_that_xorps_makes_needs_no_constant() -> None:
    text = "TEXT \u00b7f(SB), 4, $0\n\tMOVSD $0.0, X1\n\tRET\n"
    found = assemble(
        [Source("zero.s", text)], Target(), text_address=0x400000, data_address=0x500000
    )
    # go tool asm 1.22.10: the object has no $f64.0000000000000000.
    assert found.segments[0].data.hex() == "0f57c9c3"
    assert found.data == ()
