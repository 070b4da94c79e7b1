"""Executables that others built: esbuild from npm, of Go 1.14 to 1.26, most of them stripped.

    pytest -s tests/conformance/test_prebuilt.py

Names, entries, files and lines are compared with those that Go's own debug/gosym reads, verdicts
with the executable's own isAsyncSafePoint; the Go version with the one that the package is known
to be built by. The newest have no build information.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_verdicts import agreement
from toolchains import CACHE, build, npm_file, versions

from runtime_model.moduledata import GoBinary
from runtime_model.preempt import Reason

GOSYM = Path(__file__).parent / "programs/gosym"
EVERY = 8  # every eighth function is asked about
ESBUILD = {  # `go version`; for the last two, what `strings` finds behind "go1."
    "0.5.0": "go1.14.2",
    "0.7.0": "go1.15",
    "0.12.15": "go1.16.3",
    "0.14.20": "go1.17.6",
    "0.14.44": "go1.18.3",
    "0.17.0": "go1.19.4",
    "0.21.5": "go1.20.12",
    "0.23.1": "go1.22.5",
    "0.25.5": "go1.23.8",
    "0.27.0": "go1.25.4",
    "0.28.2": "go1.26.5",
}


def esbuild(version: str) -> Path:
    old = tuple(map(int, version.split("."))) < (0, 16)
    return npm_file("esbuild-linux-64" if old else "@esbuild/linux-x64", version, "bin/esbuild")


@pytest.mark.parametrize("version", ESBUILD)
def test_functions_of_prebuilt_executables_are_those_that_gosym_reads(version: str) -> None:
    reader = build(versions()[-1], GOSYM, CACHE / "gosym")
    path = esbuild(version)
    listed = subprocess.run([reader, path], capture_output=True, text=True, check=True).stdout
    wanted = {
        int(entry, 16): (file, int(line), name)
        for entry, file, line, name in (each.split("\t") for each in listed.splitlines())
    }
    with GoBinary(path) as binary:
        assert binary.build_version == ESBUILD[version]
        ours = {f.entry: (*f.file_line(f.entry), f.name) for f in binary}
    wanted = {  # no line tables: "" and -1 to gosym, "?" and 0 to the runtime's funcline
        at: ("?", 0, name) if line == -1 else (file, line, name)
        for at, (file, line, name) in wanted.items()
    }
    assert ours.keys() == wanted.keys()
    different = [(ours[at], wanted[at]) for at in ours if ours[at] != wanted[at]]
    assert not different
    print(f"\nesbuild {version}, {ESBUILD[version]}: {len(ours):,} functions as gosym reads them")
    assert len(ours) > 2000


@pytest.mark.parametrize("version", ESBUILD)
def test_verdicts_on_prebuilt_executables_are_their_own(version: str) -> None:
    counts = agreement(esbuild(version), EVERY)
    total = sum(counts.values())
    by_reason = {reason.name: count for reason, count in counts.items()}
    print(f"\nesbuild {version}, {ESBUILD[version]}: {total:,} of {total:,} PCs agree: {by_reason}")
    assert {Reason.SAFE, Reason.UNSAFE_POINT, Reason.ASSEMBLY, Reason.PACKAGE} <= counts.keys()
