"""Go programs in the emulator end as on the host, version by version: output and exit status.

    pytest -s tests/conformance/test_booted.py

The reference is the host: each program runs natively, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toolchains import CACHE, build, goroot, versions

from pushcall.booted.run import BinaryOutcome, run_binary
from runtime_model.booted import Settings
from runtime_model.events import PreemptRequested
from runtime_model.moduledata import GoBinary

PROGRAMS = Path(__file__).parent / "programs/booted"
NAMES = sorted(path.name for path in PROGRAMS.iterdir())


def program(version: str, name: str, *options: str) -> Path:
    way = hashlib.sha256(" ".join(options).encode()).hexdigest()[:6] if options else "plain"
    output = CACHE / "booted" / f"{name}-{version}-{way}"
    return build(version, PROGRAMS / name, output, "-trimpath", *options)


def emulated(path: Path, envp: tuple[bytes, ...] = (), **more: int) -> BinaryOutcome:
    with GoBinary(path) as binary:
        settings = Settings((b"program",), envp, budget=4_000_000_000, **more)
        return run_binary(binary, settings, [], keep_events=True)[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", versions())
def test_it_ends_as_on_the_host(version: str, name: str) -> None:
    path = program(version, name)
    host = subprocess.run([path], capture_output=True, check=False, env={})
    out = emulated(path)
    assert out.died == ""
    assert out.exit == host.returncode
    assert out.output == {1: host.stdout, 2: host.stderr}
    print(
        f"{version:8} {name:9} {out.instructions:>11} instructions, {len(out.preempted)} preempted"
    )


@pytest.mark.parametrize("version", versions())
def test_a_stripped_position_independent_program_ends_as_on_the_host(version: str) -> None:
    path = program(version, "maps", "-buildmode=pie", "-ldflags=-s -w -linkmode=internal")
    host = subprocess.run([path], capture_output=True, check=False, env={})
    out = emulated(path)
    assert (out.exit, out.output[1]) == (host.returncode, host.stdout)


COMPILED = """package p

type tree[T any] struct {
	left, right *tree[T]
	value       T
}

func (t *tree[T]) walk(f func(T) bool) bool {
	return t == nil || t.left.walk(f) && f(t.value) && t.right.walk(f)
}

func Sum(t *tree[float64]) (sum float64) {
	t.walk(func(v float64) bool { sum += v; return sum < 1e9 })
	return sum
}

func Primes(n int) (found []int) {
next:
	for i := 2; i < n; i++ {
		for _, p := range found {
			if i%p == 0 {
				continue next
			}
		}
		found = append(found, i)
	}
	return found
}
"""


@pytest.mark.parametrize("version", versions())
def test_gos_own_compiler_compiles_as_on_the_host(version: str, tmp_path: Path) -> None:
    source = tmp_path / "p.go"
    source.write_text(COMPILED)
    arguments = ["-p", "p", "-S", "-o", "/dev/null", str(source)]
    compiler = goroot(version) / "pkg/tool/linux_amd64/compile"
    host = subprocess.run([compiler, *arguments], capture_output=True, check=True, env={})
    assert b"TEXT\tp.Primes(SB)" in host.stdout or b"p.Primes STEXT" in host.stdout
    settings = Settings(
        (b"compile", *map(os.fsencode, arguments)),
        files=((str(source), COMPILED.encode()),),
        budget=4_000_000_000,
    )
    with GoBinary(compiler) as binary:
        out = run_binary(binary, settings, [])[1]
    assert (out.died, out.exit) == ("", 0)
    assert out.output.get(1) == host.stdout
    print(f"{version:8} compile {out.instructions:>11} instructions")


# GOAMD64=v2: SSE4.2, POPCNT and CMPXCHG16B without asking; v3 has AVX2, which is not told of.
@pytest.mark.parametrize(("level", "status"), [("v2", 0), ("v3", 1)])
def test_processor_levels_are_those_that_cpuid_tells_of(level: str, status: int) -> None:
    version = versions()[-1]
    path = build(
        version,
        PROGRAMS / "library",
        CACHE / "booted" / f"library-{version}-{level}",
        goamd64=level,
    )
    host = subprocess.run([path], capture_output=True, check=True, env={})
    out = emulated(path)
    assert (out.died, out.exit) == ("", status)
    if status == 0:
        assert out.output.get(1) == host.stdout
    else:
        assert b"can only be run on AMD64 processors with v3" in out.output[2]


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("way", ["-gcflags=-N", "-gcflags=-l"])
def test_its_own_sysmon_preempts_the_golang_nuts_program(version: str, way: str) -> None:
    """Retake asks, as proc.go says; every preemption lies in the loop that calls nothing."""
    out = emulated(program(version, "nuts", way), quantum=7_000)
    assert out.exit == 0
    assert len(out.preempted) >= 1
    assert {each.why for each in out.preempted} == {"retake"}
    assert {each.function for each in out.preempted} <= {"main.loop", "main.main.func1"}
    assert out.resumed == len(out.preempted)


@pytest.mark.parametrize("version", versions()[::7])
def test_each_preemption_of_the_run_is_the_traces_of_that_number(version: str) -> None:
    """Requests to several Ms overlap; the goroutine may go on without another's turn between."""
    path = str(program(version, "nuts", "-gcflags=-N"))

    def told(*arguments: str) -> str:
        command = [sys.executable, "-m", "pushcall", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    preempted = json.loads(told("run", "--json", path))["preempted"]
    assert len(preempted) > 1
    for each in preempted[:4]:
        trace = told("trace", "--plain", "--preemption", str(each["number"]), path)
        assert f"SIGURG lands at {each['pc']} " in trace
        assert "every register and the stack are as they were" in trace
        assert len(trace.splitlines()) < 10_000  # a goroutine's turn is of millions


@pytest.mark.parametrize("version", versions())
def test_with_asyncpreemptoff_no_signal_is_sent(version: str) -> None:
    path = program(version, "nuts", "-gcflags=-N")
    out = emulated(path, (b"GODEBUG=asyncpreemptoff=1",))
    assert out.exit == 0
    assert out.signals == 0
    assert "tgkill" not in out.calls
    assert not any(isinstance(event, PreemptRequested) for event in out.events)


LOG = """
import hashlib, sys
from pathlib import Path
from pushcall.booted.run import run_binary
from runtime_model.booted import Settings
from runtime_model.moduledata import GoBinary
settings = Settings((b"p",), seed=int(sys.argv[2]), counting=sys.argv[3] or None)
_, out = run_binary(GoBinary(Path(sys.argv[1])), settings, [], keep_events=True)
print(out.exit, len(out.events), hashlib.sha256(repr(out.events).encode()).hexdigest())
"""


def log(path: Path, seed: int, counting: str, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", LOG, str(path), str(seed), counting],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("version", versions()[1::3])
def test_one_seed_gives_one_log_and_another_seed_another(version: str) -> None:
    """With other hash seeds, and on either way of counting instructions."""
    path = program(version, "selects")
    first = log(path, 5, "", "1")
    assert first.startswith("0 ")
    assert log(path, 5, "", "2") == first
    assert log(path, 5, "machine-code", "3") == first
    assert log(path, 6, "", "1") != first


def test_the_commands_json_says_how_it_went(tmp_path: Path) -> None:
    path = program(versions()[-1], "nilderef")
    command = [sys.executable, "-m", "pushcall", "run", "--json", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    document = json.loads(ended.stdout)
    assert document["schema"] == "pushcall.run/1"
    assert document["exit"] == {"status": 3, "how": "exit"}
    assert document["stderr"] == "to standard error\n"
    assert document["repeat"] == f"pushcall run {path}"
