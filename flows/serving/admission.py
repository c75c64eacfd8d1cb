"""Which requests are admitted: limits on their number and on the megapixels of their images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from fastapi import HTTPException

from stillwatch.settings import ServingSettings

RETRY_AFTER = {"Retry-After": "1"}  # seconds


class Admission:
    """The requests in progress; for one event loop."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._megapixels: dict[object, float] = {}
        """Of each request in progress."""

    @contextmanager
    def admit(self, megapixels: float) -> Iterator[Callable[[float], None]]:
        """Count a request as long as the context lasts.

        Args:
            megapixels: of its image, as far as is known.

        Yields:
            A function that corrects the megapixels; it raises as this method does.

        Raises:
            HTTPException: 503, too many requests, or with others too many megapixels.
        """
        if len(self._megapixels) >= self._settings.max_requests:
            raise _busy(f"{self._settings.max_requests} requests are in progress")
        request = object()
        try:
            self._count(request, megapixels)
            yield lambda corrected: self._count(request, corrected)
        finally:
            self._megapixels.pop(request, None)

    def _count(self, request: object, megapixels: float) -> None:
        others = [value for one, value in self._megapixels.items() if one is not request]
        if others and sum(others) + megapixels > self._settings.max_megapixels:
            raise _busy(
                f"images of {sum(others):.3g} megapixels are in progress, and this one has about "
                f"{megapixels:.3g}"
            )
        self._megapixels[request] = megapixels


def _busy(what: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE, f"{what}: try again in a second", RETRY_AFTER
    )
