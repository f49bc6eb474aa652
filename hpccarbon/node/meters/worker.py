"""Runs calls that may hang in a thread of their own, so that the caller waits for a bounded time. Knows no driver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
_STACK_BYTES = 256 * 1024


class Late(Exception):
    """The answer did not come in time; the call goes on, and its answer will be thrown away."""


class Worker:
    """One thread, made at the first call. While a call hangs, later ones fail at once instead of queueing up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answered: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._owed = 0

    @property
    def stuck(self) -> bool:
        """Whether an earlier call still has not come back."""
        self._collect()
        return self._owed > 0

    def call(self, job: Callable[[], Result], timeout_s: float) -> Result:
        """What `job` returns or raises. Raises: Late after `timeout_s`, or at once while an earlier call hangs."""
        self.ask(job)
        result: Result = self.answer(timeout_s)
        return result

    def ask(self, job: Callable[[], Any]) -> None:
        """Have `job` begun; `answer` is to be called next. Raises: Late, while an earlier call hangs."""
        if self.stuck:
            raise Late
        if self._thread is None:
            self._start()
        self._owed = 1
        self._asked.put(job)

    def answer(self, timeout_s: float) -> Any:
        """What the job returns or raises. Raises: Late after `timeout_s`."""
        try:
            answer, error = self._answered.get(timeout=timeout_s)
        except Empty:
            raise Late from None
        self._owed = 0
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """End the thread, once it is free; one that hangs ends with the process."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread = None

    def _collect(self) -> None:
        if self._owed:
            try:
                self._answered.get_nowait()
            except Empty:
                return
            self._owed = 0

    def _start(self) -> None:
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def _run(self) -> None:
        while (job := self._asked.get()) is not None:
            try:
                self._answered.put((job(), None))
            except BaseException as err:  # whatever it was belongs to the caller, not to this thread
                self._answered.put((None, err))
