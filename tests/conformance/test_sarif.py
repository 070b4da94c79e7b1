"""SARIF of an audit against OASIS's schema of SARIF 2.1.0, as npm's jest-sarif ships it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner
from jsonschema import Draft4Validator
from toolchains import goroot, npm_file, versions

from pushcall.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = ("@microsoft/jest-sarif", "1.0.0-beta.0", "lib/schemas/sarif-2.1.0-rtm.5.json")


def test_the_audit_of_a_large_command_is_valid_sarif(tmp_path: Path) -> None:
    validator = Draft4Validator(json.loads(npm_file(*SCHEMA).read_text()))
    log = tmp_path / "log.sarif"
    command = goroot(versions()[-1]) / "bin/go"
    result = CliRunner().invoke(cli, ["audit", str(command), "--limit", "0", "--sarif", str(log)])
    assert result.exit_code == 0, result.output
    sarif = json.loads(log.read_text())
    assert len(sarif["runs"][0]["results"]) > 100
    assert [error.message for error in validator.iter_errors(sarif)] == []
    del sarif["runs"][0]["tool"]["driver"]["name"]
    assert not validator.is_valid(sarif)
