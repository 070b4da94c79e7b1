"""`pushcall scenarios`: preemption bugs that programs have met, each broken and mended.

A scenario is a snippet under examples/issues. Its first comment names the issues and says what
broke; its header names the variants and what each is expected to come to (variants.py).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from emulator.engines import UNICORN
from pushcall.scenarios.variants import Case, Happened, cases, expectation, perform, without_styles
from pushcall.snippet.program import Options, read_source
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLACES: Final = (
    Path(__file__).parents[2] / "examples" / "issues",  # a checkout
    Path(sys.prefix) / "share" / "pushcall" / "examples" / "issues",  # an installation
)
_ISSUES: Final = re.compile(r"([\w.-]+/[\w.-]+) issues? (\d+(?:(?:, | and )\d+)*): (.*)", re.DOTALL)
_SETTINGS: Final = re.compile(r"\s*//\s*pushcall(\s+\S+)?:")
_LEFT_OUT: Final = "Not here: "


@dataclass(frozen=True)
class Scenario:
    """One file: whose issues it shows, in whose words, and its variants."""

    path: Path
    repository: str
    numbers: tuple[int, ...]
    title: str
    prose: tuple[str, ...]  # paragraphs
    left_out: str  # what of it cannot be shown here, and why
    cases: tuple[Case, ...]

    @property
    def files(self) -> list[str]:
        """Its own name, and those of the trampolines beside it."""
        given = [case.program.config.trampoline for case in self.cases]
        beside = {Path(each.name) for each in given if each is not None}
        return [self.path.name, *sorted(p.name for p in beside if p.parent == self.path.parent)]

    @property
    def name(self) -> str:
        """The issues, as one writes them."""
        numbers = ", ".join(map(str, self.numbers))
        return numbers if self.repository == "golang/go" else f"{self.repository} {numbers}"


@dataclass(frozen=True)
class Verdict:
    """What became of a scenario's variants."""

    scenario: Scenario
    happened: tuple[Happened, ...]

    @property
    def held(self) -> bool:
        """Whether all came out as the header says."""
        return all(each.held for each in self.happened)

    def to_json(self) -> dict[str, Any]:
        """An entry of `scenarios`."""
        scenario = self.scenario
        return {
            "repository": scenario.repository,
            "numbers": list(scenario.numbers),
            "title": scenario.title,
            "files": scenario.files,
            "variants": [
                {
                    "name": case.variant,
                    "command": case.command,
                    "go": _version(case),
                    "expected": expectation(case),
                    "happened": happened.summary,
                    "verdict": _word(happened.held),
                }
                for case, happened in zip(scenario.cases, self.happened, strict=True)
            ],
            "left_out": scenario.left_out or None,
            "verdict": _word(self.held),
        }


def _word(held: bool) -> str:
    return "as expected" if held else "not as expected"


def folder() -> Path:
    """Where the scenarios are. UsageError: nowhere."""
    for place in PLACES:
        if place.is_dir():
            return place
    raise UsageError(f"the scenarios are not installed: there is no {PLACES[0]} and no {PLACES[1]}")


def scenarios(
    number: int | None = None, place: Path | None = None, engine: str = UNICORN
) -> list[Scenario]:
    """All, by number, to be tried on an engine; or those that quote one. UsageError: none."""
    found = [read(path, engine) for path in sorted((place or folder()).glob("[0-9]*.s"))]
    found.sort(key=lambda scenario: scenario.numbers)
    if number is None:
        return found
    chosen = [each for each in found if number in each.numbers]
    if not chosen:
        known = ", ".join(str(n) for each in found for n in each.numbers)
        raise UsageError(f"no scenario {number}; there are: {known}")
    return chosen


def read(path: Path, engine: str = UNICORN) -> Scenario:
    """The scenario in a file. Raises AsmError and UsageError for what is none."""
    path = shown(path)
    source = read_source(path)
    paragraphs = list(_paragraphs(source.text))
    match = _ISSUES.fullmatch(paragraphs[0]) if paragraphs else None
    if match is None:
        raise UsageError(f"{path}:1: not a comment such as // golang/go issue 10958: what broke.")
    title, _, rest = match[3].partition(". ")
    prose = [rest] if rest else []
    prose += [text for text in paragraphs[1:] if not text.startswith(_LEFT_OUT)]
    left_out = [t.removeprefix(_LEFT_OUT) for t in paragraphs if t.startswith(_LEFT_OUT)]
    options = Options(include_dirs=(path.parent, path.parent.parent), engine=engine)
    return Scenario(
        path,
        match[1],
        tuple(int(number) for number in re.findall(r"\d+", match[2])),
        title.rstrip("."),
        tuple(prose),
        " ".join(left_out),
        tuple(cases(source, options)),
    )


def _paragraphs(text: str) -> Iterator[str]:
    """The comment at the start of a text, without settings."""
    paragraph: list[str] = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        words = line.removeprefix("//").strip()
        if words and not _SETTINGS.match(line):
            paragraph.append(words)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def judge(scenario: Scenario, *, explained: bool = False) -> Verdict:
    """Tries each variant. Raises AsmError and BadProgramError."""
    return Verdict(scenario, tuple(perform(case, explained=explained) for case in scenario.cases))


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The document of `pushcall scenarios --json`."""
    return {
        "schema": "pushcall.scenarios/1",
        "scenarios": [verdict.to_json() for verdict in verdicts],
        "verdict": _word(all(verdict.held for verdict in verdicts)),
    }


def lines(verdict: Verdict) -> Iterator[str]:
    """A scenario in a line, and a line for each variant."""
    scenario = verdict.scenario
    yield f"# {scenario.name}: {scenario.title}"
    for case, happened in zip(scenario.cases, verdict.happened, strict=True):
        mark = "+" if happened.held else "!"
        yield f"{mark}   {_called(case)}: {happened.summary}"
        if not happened.held:
            yield f"!     expected: {expectation(case)}"
    if scenario.left_out:
        yield f"    not here: {scenario.left_out}"


def explained(verdict: Verdict) -> Iterator[str]:
    """A scenario in full: what broke, and what happened in each variant."""
    scenario = verdict.scenario
    yield f"# {scenario.name}: {scenario.title}"
    yield from scenario.prose
    if scenario.left_out:
        yield f"Not here: {scenario.left_out}"
    for case, happened in zip(scenario.cases, verdict.happened, strict=True):
        yield ""
        yield f"# {_called(case)}"
        options = f" --variant {case.variant}" if case.variant else ""
        if case.program.config.engine != UNICORN and case.command != "audit":
            options += f" --engine {case.program.config.engine}"
        yield f"pushcall {case.command} {scenario.path}{options}"
        yield f"expected: {expectation(case)}"
        yield f"{'+' if happened.held else '!'} {_word(happened.held)}: {happened.summary}"
        yield from (f"    {line}" for line in without_styles(happened.lines))


def _called(case: Case) -> str:
    name = case.variant or "as it stands"
    return f"{name} ({case.command}, Go {_version(case)})"


def _version(case: Case) -> str:
    version = case.program.config.version
    return f"{version}.{version.patch}" if version.patch is not None else str(version)


def shown(path: Path) -> Path:
    """The path as short as it can be given here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
