"""One program on both engines: what `pushcall run --json --events` says of it on each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from emulator.engines import ENGINES
from pushcall.api import ProgramOptions, program
from pushcall.snippet import run as running
from pushcall.snippet.injection import Injection
from runtime_model.policy import Policy

EXAMPLES = Path(__file__).parents[1] / "examples"


def short(name: str) -> str:
    """An example's text with few rounds: the boundaries are the same, only visited less often."""
    text = (EXAMPLES / name).read_text("utf-8")
    return re.sub(r"^#define (ROUNDS|LOOPS) \d+", r"#define \1 2", text, flags=re.MULTILINE)


def documents(
    source: str | Path, timer: Injection | int, given: ProgramOptions
) -> list[dict[str, Any]]:
    """The documents of both engines, without the engine's name; a number is sysmon's quantum."""
    made = []
    for engine in ENGINES:
        exact = isinstance(timer, Injection)
        policy = Policy(None if exact else timer)  # type: ignore[arg-type]
        options = ProgramOptions(**given, engine=engine)  # type: ignore[typeddict-item]
        loaded = program(source, EXAMPLES, policy=policy, **options)
        injection = timer if isinstance(timer, Injection) else Injection()
        rt, out = running.run(loaded, injection, keep_events=True)
        document = running.to_json(rt, out)
        assert engine in document.pop("engine")
        made.append(document)
    return made
