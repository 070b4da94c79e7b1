"""Findings of `pushcall audit` as SARIF 2.1.0, which code hosts show beside the source."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from pushcall.control_flow import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pushcall.audit import Finding

_TEXT: Final = {
    Kind.UNBOUNDED: ("error", "Nothing visible bounds this loop, and nothing can preempt it."),
    Kind.COUNTED: ("warning", "This loop runs for as long as its count and cannot be preempted."),
    Kind.REP: ("warning", "A repeated instruction that cannot be preempted between its rounds."),
    Kind.CONSTANT: ("note", "A constant number of rounds that cannot be preempted."),
}


def to_sarif(binary: Path, findings: Iterable[Finding]) -> dict[str, Any]:
    """The SARIF log of one run."""
    rules = [
        {
            "id": kind.value,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": level},
        }
        for kind, (level, text) in _TEXT.items()
    ]
    driver = {"name": "pushcall", "version": version("pushcall"), "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "artifacts": [{"location": {"uri": binary.name}}],
                "results": [_result(finding) for finding in findings],
            }
        ],
    }


def _result(finding: Finding) -> dict[str, Any]:
    level, text = _TEXT[finding.kind]
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": finding.function, "kind": "function"}],
        "physicalLocation": {
            "address": {"absoluteAddress": finding.start},
            "artifactLocation": {"uri": finding.file},
        },
    }
    if finding.lines[0] > 0:
        first, last = finding.lines
        location["physicalLocation"]["region"] = {"startLine": first, "endLine": last}
    why = f"{finding.reason.value}{f'; {finding.bound}' if finding.bound else ''}"
    return {
        "ruleId": finding.kind.value,
        "level": level,
        "message": {"text": f"{finding.function}: {text} ({why})"},
        "locations": [location],
        "partialFingerprints": {
            "function/v1": f"{finding.function}:{finding.kind.value}:{finding.reason.name}"
        },
    }
