"""Batching of concurrent requests."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Generic, TypeVar

from stillwatch.errors import StorageError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Batcher(Generic[Asked, Answered]):
    """Calls a function of a batch with the items of concurrent requests; for one event loop.

    Args:
        function: returns one answer for each item, in the order of the items. If a call with
            several items fails, the function is called for each item alone, so that one bad item
            does not fail the others; not so after a ``StorageError``, which no item causes.
        executor: runs the function.
        most: maximum number of items in one call.
        wait_seconds: how long the first item waits for others while no call is running. Items that
            arrive during a call are in the next call.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Asked]], Sequence[Answered]],
        executor: Executor,
        *,
        most: int,
        wait_seconds: float,
    ) -> None:
        self._function = function
        self._executor = executor
        self._most = most
        self._wait_seconds = wait_seconds
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._full = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, item: Asked) -> Answered:
        """Return the answer for one item.

        Raises:
            Exception: what the function raised for the item.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answered] = loop.create_future()
        self._waiting.append((item, answer))
        if len(self._waiting) >= self._most:
            self._full.set()
        if self._work is None:
            self._work = loop.create_task(self._compute())
        return await answer

    async def _compute(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), self._wait_seconds)
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            await self._answer(batch)
        self._full.clear()
        self._work = None

    async def _answer(self, batch: Sequence[tuple[Asked, "asyncio.Future[Answered]"]]) -> None:
        items = [item for item, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._executor, self._function, items)
        except StorageError as error:
            # Each item alone would wait for the locked file as long again.
            _fail(batch, error)
            return
        except Exception as error:  # raised in the waiting request
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            else:
                _fail(batch, error)
            return
        for (_, answer), value in zip(batch, answers, strict=True):
            # A client that closed its connection has cancelled its answer.
            if not answer.done():
                answer.set_result(value)


def _fail(batch: Sequence[tuple[Asked, "asyncio.Future[Answered]"]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
