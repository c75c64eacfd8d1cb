"""Inspecting the image of a request."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from fastapi import HTTPException, Request

from stillwatch.flows.serving.admission import RETRY_AFTER, Admission
from stillwatch.flows.serving.answers import Answer, answer
from stillwatch.flows.serving.champions import Champions
from stillwatch.flows.serving.metrics import Metrics
from stillwatch.flows.serving.served_model import ServedModel
from stillwatch.flows.serving.uploads import announced_megapixels, read_image_file
from stillwatch.machine.threads import thread_count
from stillwatch.settings import ServingSettings
from stillwatch.text import unknown_name

Result = TypeVar("Result")


class InspectionService:
    """Inspects the images of the requests that are admitted."""

    def __init__(self, champions: Champions, settings: ServingSettings, metrics: Metrics) -> None:
        self._champions = champions
        self._admission = Admission(settings)
        self._metrics = metrics
        # Bounded by the cores: decoding needs several times the memory of the decoded image.
        self._decoding = ThreadPoolExecutor(thread_count(), "decoding")

    def close(self) -> None:
        """End the threads."""
        self._decoding.shutdown()

    async def inspect(
        self, request: Request, category: str, *, overlay: bool, mask: bool
    ) -> Answer:
        """Read, decode, inspect and log the image of a request.

        Raises:
            HTTPException: the category has no model, the request is not admitted, or it has no
                usable body.
            StillwatchError: the image cannot be used, or the log cannot be written.
        """
        largest = self._model(category).max_megapixels
        with self._admission.admit(announced_megapixels(request, largest)) as correct:
            data = await read_image_file(request, largest)
            # Again, because the champion may have changed while the body arrived.
            model = self._model(category)
            correct(await self._in_thread(partial(model.megapixels, data)))
            upload = await self._in_thread(partial(model.read, data, overlay=overlay))
            del data  # may be hundreds of megabytes
            inspected = await model.inspect(upload)
            found = await self._in_thread(partial(answer, model, upload, inspected, mask=mask))
        self._metrics.count(found)
        return found

    def _model(self, category: str) -> ServedModel:
        model = self._champions.model(category)
        if model is not None:
            return model
        states = self._champions.states()
        if category in states or not self._champions.looked:
            problem = states[category].problem if category in states else "not loaded yet"
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"nothing serves {category}: {problem}",
                RETRY_AFTER,
            )
        raise HTTPException(HTTPStatus.NOT_FOUND, unknown_name("category", category, list(states)))

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function)
