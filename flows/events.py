"""Emitting Prefect events that must not be lost."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from prefect import get_client
from prefect.events import Event, Resource
from prefect.events.related import related_resources_from_run_context
from prefect.exceptions import ObjectNotFound

from stillwatch.errors import ServerError


def emit_and_confirm(
    event: str, *, resource: Mapping[str, str], payload: Mapping[str, Any]
) -> None:
    """Emit an event about a resource, related to the current flow run; return once it is accepted.

    Prefect's ``emit_event`` leaves the event to a thread, which does not report failures. Its
    ``get_events_client`` sends it through a websocket, where the server answers no single event: a
    pong says that the bytes arrived, not that the server accepted the event. The response to
    ``POST /events`` does.

    Args:
        event: name of the event.
        resource: labels, ``prefect.resource.id`` among them.
        payload: JSON values.

    Raises:
        ServerError: the server did not accept the event.
    """
    emitted = Event(event=event, resource=Resource(dict(resource)), payload=dict(payload))
    try:
        asyncio.run(_post(emitted))
    except (httpx.HTTPError, ObjectNotFound) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ServerError(
            f"the Prefect server did not accept the event {event} ({reason}), so no automation "
            "has started yet. Check that the server runs ('stillwatch status'); the next run of "
            "this deployment emits the event again."
        ) from error


async def _post(event: Event) -> None:
    async with get_client() as client:
        event.related += await related_resources_from_run_context(
            client=client, exclude={event.resource.id}
        )
        await client.request("POST", "/events", json=[event.model_dump(mode="json")])
