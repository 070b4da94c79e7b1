"""Processes that share work: a Ctrl-C is for the one that started them, and they end with it."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def worker_processes(
    jobs: int, ready: Callable[..., None], *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """An executor of so many processes, which end with the context, whatever they are doing then.

    `ready` is called in each of them with the arguments, before anything else.
    """
    before = set(active_children())
    # Spawned: a fork would share the guests' memory, which is mapped shared.
    executor = ProcessPoolExecutor(jobs, get_context("spawn"), ready, arguments)
    # They inherit what is blocked.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(jobs):
            executor.submit(int)  # a process is started for each that nobody is free for
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - before:
            child.terminate()
            child.join()
