"""Go programs that are saved in the middle go on, in another process, as if they had not been.

    pytest -s tests/conformance/test_saved.py

The reference is the run that was never stopped: its document and its events, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from test_booted import program
from toolchains import versions

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = {"gc": (), "selects": (), "timer": (), "nilderef": (), "nuts": ("-gcflags=-N",)}


def run(path: Path, *arguments: object, hash_seed: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "pushcall", "run", path, "--json", "--events", *arguments]
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
    )
    assert ended.returncode in (0, 1), ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("version", versions()[::3])
def test_it_goes_on_as_if_it_had_not_stopped(version: str, name: str, tmp_path: Path) -> None:
    """At three places: the second file is made from the first, and so on."""
    path = program(version, name, *PROGRAMS[name])
    options = ("--quantum", "7us", "--seed", 3)
    whole = run(path, *options)
    events = whole.pop("events")
    total = whole["instructions"]
    chosen = random.Random(f"{version} {name}")
    places = sorted(chosen.randrange(1000, total) for _ in range(3))
    if whole["preempted"]:  # and just in a preemption
        places[1] = places[0] + 1
    told = []
    file, given = path, options
    for number, at in enumerate(places):
        part = run(file, *given, "--save", tmp_path / str(number), "--at", at, hash_seed=number)
        assert part["instructions"] == at
        told += part.get("events", [])
        file, given = tmp_path / str(number), ()
    last = run(file, hash_seed=9)
    told += last.pop("events", [])
    assert json.dumps(told) == json.dumps(events)
    assert last.pop("repeat") != whole.pop("repeat")
    assert json.dumps(last) == json.dumps(whole)
    size = (tmp_path / "2").stat().st_size
    print(f"\n{version} {name}: {total} instructions, saved at {places}, {size >> 10} KiB")


@pytest.mark.parametrize("version", versions()[::3])
def test_saved_before_a_preemption_it_goes_on_with_that(version: str, tmp_path: Path) -> None:
    """It is the last one's tgkill, and the first thing that the saved run does."""
    path = program(version, "nuts", *PROGRAMS["nuts"])
    whole = run(path)
    number = len(whole["preempted"])
    assert number > 1
    part = run(path, "--save", tmp_path / "file", "--preemption", number)
    assert part["preempted"] == whole["preempted"][: part["preemptions"]]
    last = run(tmp_path / "file", hash_seed=9)
    assert part["events"] + last["events"] == whole["events"]
    assert last["preempted"] == whole["preempted"]
    request, sent, call = last["events"][:3]
    assert (request["event"], sent["event"]) == ("PreemptRequested", "SignalSent")
    assert call["name"] == "tgkill"
    assert request["target_m"] == whole["preempted"][-1]["m"]
