"""The parts of a check on other processes, or other machines, through an Executor.

Whatever executor does them, results are taken in the order of the parts, and the parts are fixed by
the program: what comes out is the same.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pushcall.check.worker import worker_for
from pushcall.processes import worker_processes
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pushcall.check.exhaustive import DirectPart, SurveyPart
    from pushcall.check.survey import Surveyed
    from pushcall.check.verdict import CheckResult
    from runtime_model.boot import Config


class Shared:
    """A pool of an executor's workers (check.Pool)."""

    def __init__(self, executor: Executor, config: Config) -> None:
        self._executor = executor
        self._config = config

    def of(self, config: Config) -> Shared:
        """The same workers, for another program."""
        return Shared(self._executor, config)

    def survey(
        self, parts: Sequence[SurveyPart], progress: Callable[[int], None]
    ) -> Iterable[Surveyed]:
        """Worker.survey of each."""
        for found in self._each(_survey, parts):
            progress(found.taken)
            yield found

    def direct(
        self, parts: Sequence[DirectPart], progress: Callable[[int], None]
    ) -> Iterable[tuple[CheckResult, int]]:
        """Worker.direct of each."""
        for part, found in zip(parts, self._each(_direct, parts), strict=True):
            progress(len(part[0]))
            yield found

    def _each(self, function: Callable[..., Any], parts: Sequence[Any]) -> Iterator[Any]:
        futures = [self._executor.submit(function, self._config, part) for part in parts]
        try:
            for future in futures:
                yield future.result()
        except BrokenExecutor as error:
            raise UsageError(f"a process that shared the work has died: {error}") from None
        finally:
            for future in futures:
                future.cancel()


def _survey(config: Config, part: SurveyPart) -> Surveyed:
    return worker_for(config).survey(*part)


def _direct(config: Config, part: DirectPart) -> tuple[CheckResult, int]:
    return worker_for(config).direct(*part)


def _ready(config: Config) -> None:
    worker_for(config)


@contextmanager
def processes(jobs: int, config: Config) -> Iterator[Shared]:
    """A pool of so many processes, which end with the context, whatever they are doing then."""
    with worker_processes(jobs, _ready, config) as executor:
        yield Shared(executor, config)


@contextmanager
def cluster(address: str, config: Config) -> Iterator[Shared]:
    """A pool of the workers of a Dask cluster."""
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--dask needs the extra: pip install 'pushcall[dask]'") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"--dask {address}: {error}") from None
    with client:
        yield Shared(client.get_executor(), config)
