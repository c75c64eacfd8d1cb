import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from stillwatch.errors import StorageError
from stillwatch.flows.serving.batching import Batcher


class Doubled:
    """Doubles numbers, remembers its batches, and refuses those with a negative one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.error = error or ValueError("negative")

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        if min(numbers) < 0:
            raise self.error
        return [2 * number for number in numbers]


def answers(function: Doubled, *waves: Sequence[int], most: int, wait: float) -> list[object]:
    """What each number of each wave gets; a wave comes when the one before is answered."""

    async def ask() -> list[object]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(function, executor, most=most, wait_seconds=wait)
            found: list[object] = []
            for wave in waves:
                found += await asyncio.gather(*map(batcher, wave), return_exceptions=True)
            return found

    return asyncio.run(ask())


@pytest.mark.parametrize("wait", [0.0, 0.01, 60.0])
def test_what_comes_together_is_computed_together_and_each_gets_its_own(wait: float) -> None:
    function = Doubled()
    found = answers(function, range(8), range(8, 12), most=4, wait=wait)
    assert found == [2 * number for number in range(12)]
    assert function.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_one_alone_is_not_kept_waiting_for_a_full_batch() -> None:
    function = Doubled()
    assert answers(function, [1], [2], most=4, wait=0.001) == [2, 4]
    assert function.batches == [[1], [2]]


def test_what_fails_fails_for_itself_only() -> None:
    function = Doubled()
    found = answers(function, [1, -1, 2], [3], most=3, wait=0.01)
    assert [str(one) for one in found] == ["2", "negative", "4", "6"]
    assert function.batches == [[1, -1, 2], [1], [-1], [2], [3]]


def test_what_cannot_be_stored_is_not_tried_for_each_alone() -> None:
    function = Doubled(StorageError("locked"))
    found = answers(function, [1, -1, 2], [3], most=3, wait=0.01)
    assert [str(one) for one in found] == ["locked", "locked", "locked", "6"]
    assert function.batches == [[1, -1, 2], [3]]


def test_who_hangs_up_does_not_disturb_the_others() -> None:
    async def ask() -> int:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(Doubled(), executor, most=2, wait_seconds=0.01)
            leaving, staying = (asyncio.ensure_future(batcher(number)) for number in (1, 2))
            await asyncio.sleep(0)
            leaving.cancel()
            return await staying

    assert asyncio.run(ask()) == 4
