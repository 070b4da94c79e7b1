"""esbuild executables from npm, Go 1.14 to the newest, do in the emulator what they do on the host.

pytest -s tests/conformance/test_booted_prebuilt.py
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from test_prebuilt import ESBUILD, esbuild

from pushcall.booted.run import BinaryOutcome, run_binary
from runtime_model.booted import Settings
from runtime_model.moduledata import GoBinary

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = b"""
interface Point { x: number; y: number }
enum Colour { Red = 1, Green, Blue }
export const distance = (a: Point, b: Point): number => {
    const horizontal = a.x - b.x, vertical = a.y - b.y
    return Math.sqrt(horizontal ** 2 + vertical ** 2)
}
export class Counter<T> {
    private counts = new Map<T, number>()
    add(value: T): void { this.counts.set(value, (this.counts.get(value) ?? 0) + 1) }
    get colours() { return [Colour.Red, Colour.Blue] }
}
"""


def emulated(
    version: str, *arguments: bytes, stdin: bytes = b"", files: dict[str, bytes] | None = None
) -> BinaryOutcome:
    with GoBinary(esbuild(version)) as binary:
        settings = Settings(
            (b"esbuild", *arguments),
            stdin=stdin,
            files=tuple((files or {}).items()),
            budget=4_000_000_000,
        )
        return run_binary(binary, settings, [])[1]


@pytest.mark.parametrize("version", ESBUILD)
def test_it_tells_its_version(version: str) -> None:
    host = subprocess.run([esbuild(version), "--version"], capture_output=True, check=True)
    out = emulated(version, b"--version")
    assert (out.died, out.exit) == ("", 0)
    assert out.output == {1: host.stdout, 2: host.stderr}
    assert version.encode() in host.stdout + host.stderr


@pytest.mark.parametrize("version", ESBUILD)
def test_it_minifies_standard_input_to_the_same_bytes(version: str) -> None:
    arguments = ("--minify", "--loader=ts")
    host = subprocess.run(
        [esbuild(version), *arguments], input=SOURCE, capture_output=True, check=True
    )
    out = emulated(version, *(text.encode() for text in arguments), stdin=SOURCE)
    assert (out.died, out.exit) == ("", 0)
    assert out.output[1] == host.stdout
    assert len(out.output[1]) > 100
    print(
        f"esbuild {version} ({out.go}): {out.instructions} instructions, {out.threads} threads, "
        f"{len(out.preempted)} preempted"
    )


@pytest.mark.parametrize("version", ESBUILD)
def test_it_bundles_files_that_were_handed_in(version: str, tmp_path: Path) -> None:
    """It lists directories, and finds what is imported relative to the file that imports it."""
    files = {
        "src/main.ts": b'import { Counter } from "./lib/counter"\nconsole.log(new Counter())\n',
        "src/lib/counter.ts": SOURCE,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    arguments = ("--bundle", "src/main.ts")
    host = subprocess.run(
        [esbuild(version), *arguments], cwd=tmp_path, capture_output=True, check=True
    )
    handed_in = {f"/{name}": content for name, content in files.items()}
    out = emulated(version, *(text.encode() for text in arguments), files=handed_in)
    assert (out.died, out.exit) == ("", 0)
    assert out.output[1] == host.stdout
    assert b"Counter" in host.stdout
