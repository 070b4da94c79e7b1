"""Booted Go executables: a start of hello-world, and a busy program beside qemu-user and the host.

Wanted: hello in 0.5 s, the golang-nuts program (30 goroutines, optimised) at a quarter of qemu's
speed. Toolchains and qemu-x86_64 are taken where they are installed already.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from pushcall.booted.run import run_binary
from runtime_model.booted import Settings
from runtime_model.moduledata import GoBinary
from tests.bench.measure import Contender, Group
from tests.conformance import toolchains

VERSION = "1.22.10"
PROGRAMS = Path(toolchains.__file__).parent / "programs/booted"


def _built(name: str) -> Path | None:
    if not (toolchains.CACHE / "go" / VERSION / "go/bin/go").exists():
        return None
    output = toolchains.CACHE / "booted" / f"{name}-{VERSION}-plain"
    return toolchains.build(VERSION, PROGRAMS / name, output, "-trimpath")


def _process(*command: str | Path, done: float = 1) -> float:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return done


def groups(scale: float) -> list[Group]:
    """Two groups; `scale` changes nothing, a program is a program."""
    del scale
    hello, busy = _built("hello"), _built("nuts")
    if hello is None or busy is None:
        return []
    pushcall = (sys.executable, "-m", "pushcall", "run")
    starts = [Contender("pushcall run hello", lambda: _process(*pushcall, hello), most=0.5)]

    def emulated() -> float:
        with GoBinary(busy) as binary:
            return run_binary(binary, Settings((b"nuts",)), [])[1].instructions

    instructions = emulated()
    runs = [Contender("pushcall", emulated)]
    wanted = []
    qemu = shutil.which("qemu-x86_64")
    if qemu is not None:
        starts.append(Contender("qemu-x86_64 hello", lambda: _process(qemu, hello)))
        runs.append(Contender("qemu-x86_64", lambda: _process(qemu, busy, done=instructions)))
        wanted = [("pushcall", "qemu-x86_64", 0.25)]
    runs.append(Contender("the host", lambda: _process(busy, done=instructions)))
    return [
        Group("boot", "starts", starts),
        Group("a busy booted program", "instructions", runs, wanted),
    ]
