"""What MLflow hands out in pages, as a whole."""

from collections.abc import Callable
from typing import Any


def every_page(search: Callable[..., Any], **what: Any) -> list[Any]:
    """Everything that a search of MLflow's client finds, in its order.

    Args:
        search: a method of the client that takes a ``page_token``.
        what: its other arguments.

    Raises:
        MlflowException: the store does not answer.
    """
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(page_token=token, **what)
        found += page
        token = page.token
        if not token:
            return found
