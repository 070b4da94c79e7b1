"""The status changes that the invariants allow against those that Go's sources write out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from toolchains import goroot, versions

from runtime_model.invariants import transitions
from runtime_model.layout import parse_version
from runtime_model.runtime2 import G_STATUS, _Gscan
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("proc.go", "stack.go", "preempt.go", "mgc.go", "mgcmark.go")
NUMBERS = {name: number for number, name in G_STATUS.items()} | {"_Gscan|_Gpreempted": 0x1009}
NUMBERS["Gcopystack"] = NUMBERS["_Gcopystack"]
# newproc1 of 1.27 sets a variable to it; casgcopystack's loop takes either of the two.
NUMBERS["status"] = NUMBERS["_Grunnable"]


def written_out(root: Path) -> set[tuple[int, int]]:
    """(old, new) of each call of casgstatus and its like."""
    text = "".join((root / "src/runtime" / name).read_text() for name in FILES)
    calls = re.findall(r"\bcas[gG]\w*\([\w.]+, ([\w|]+), ([\w|]+)\)", text)
    return {(NUMBERS[a], NUMBERS[b]) for a, b in calls if a in NUMBERS and b in NUMBERS}


@pytest.mark.parametrize("version", versions())
def test_each_change_is_one_that_the_runtime_makes(version: str) -> None:
    root = goroot(version)
    legal = transitions(GoVersion(*parse_version(version)))
    found = written_out(root)
    with_bit = {pair for pair in legal if (pair[0] ^ pair[1]) == _Gscan}
    assert legal - with_bit <= found
    # castogscanstatus sets the bit of these, and of no others; preemptPark comes with it set.
    text = (root / "src/runtime/proc.go").read_text()
    body = re.search(r"(?s)^func castogscanstatus\(.*?^}", text, re.MULTILINE)
    assert body is not None
    named = re.search(r"case (_Grunnable,[^:]*):", body[0])
    assert named is not None
    scannable = {NUMBERS[name] for name in re.findall(r"_G\w+", named[1]) if name in NUMBERS}
    assert {min(pair) for pair in with_bit} - {NUMBERS["_Gpreempted"]} <= scannable
    print(f"\nGo {version}: {len(legal)} changes, all of them Go's")
