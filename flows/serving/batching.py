"""What arrives at about the same time is computed together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Generic, TypeVar

from stillwatch.errors import StorageError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Batcher(Generic[Asked, Answered]):
    """Calls a function of many with what single requests bring; for one event loop.

    Args:
        function: gives as many answers as it is asked, in their order. When it fails for several,
            it is asked for each alone, so that one cannot spoil the answers of the others; but not
            after a ``StorageError``, which is nothing that one of them has brought along.
        executor: where it runs.
        most: items in one call.
        wait_seconds: how long the first item waits for others when nothing is being computed; what
            comes during a call is taken by the next one.
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
        """The answer for one item.

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
            # Each alone would wait for a locked file as long again.
            _fail(batch, error)
            return
        except Exception as error:  # it is the waiting request's own
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            else:
                _fail(batch, error)
            return
        for (_, answer), value in zip(batch, answers, strict=True):
            # Whoever hung up meanwhile has cancelled it.
            if not answer.done():
                answer.set_result(value)


def _fail(batch: Sequence[tuple[Asked, "asyncio.Future[Answered]"]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
