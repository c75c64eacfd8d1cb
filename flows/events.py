"""Events that the Prefect server has taken for certain before anything else is done."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from prefect import get_client
from prefect.events import Event, Resource
from prefect.events.related import related_resources_from_run_context
from prefect.exceptions import ObjectNotFound

from stillwatch.errors import ServerError


def deliver(event: str, *, resource: Mapping[str, str], payload: Mapping[str, Any]) -> None:
    """Emit an event about a resource, related to the flow run that this is called in.

    Prefect's own ``emit_event`` leaves it to a thread, which keeps to itself that it failed.

    Args:
        event: its name.
        resource: labels, ``prefect.resource.id`` among them.
        payload: JSON values.

    Raises:
        ServerError: the server did not take it.
    """
    told = Event(event=event, resource=Resource(dict(resource)), payload=dict(payload))
    try:
        asyncio.run(_post(told))
    except (httpx.HTTPError, ObjectNotFound) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ServerError(
            f"the Prefect server did not take the event {event} ({reason}), so nothing follows "
            "from it yet. See that the server runs ('stillwatch status'); the next run of this "
            "deployment announces it again."
        ) from error


async def _post(event: Event) -> None:
    async with get_client() as client:
        event.related += await related_resources_from_run_context(
            client=client, exclude={event.resource.id}
        )
        await client.request("POST", "/events", json=[event.model_dump(mode="json")])
