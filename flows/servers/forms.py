"""The forms of the deployments: a category is chosen from a list, a version is a plain number."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

from stillwatch.errors import LayoutError
from stillwatch.flows.servers.worker import WORK_POOL
from stillwatch.images.layout import category_folders
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import registered_categories
from stillwatch.tasks.tracking.client import Tracking

Schema = Mapping[str, Any]
"""JSON schema."""


def update_forms(settings: Settings, tracking: Tracking) -> None:
    """Offer the present categories in the forms of all deployments of the work pool.

    A parameter ``category`` is one of the registered categories; ``categories`` are categories of
    the image set. Without such categories, the form takes any name.
    """
    registered = registered_categories(tracking)
    in_image_set = _image_set_categories(settings)
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(work_pool_filter=pool):
            before = deployment.parameter_openapi_schema or {}
            form = form_schema(before, registered, in_image_set)
            if form != before:
                update = DeploymentUpdate(parameter_openapi_schema=form)
                client.update_deployment(deployment.id, update)


def form_schema(
    schema: Schema, registered: Sequence[str], in_image_set: Sequence[str]
) -> dict[str, Any]:
    """The schema of a flow's parameters as a person fills them in."""
    form = deepcopy(dict(schema))
    fields = {name: _plain(field) for name, field in form.get("properties", {}).items()}
    if "category" in fields:
        fields["category"] = _choice(fields["category"], registered)
    if "categories" in fields:
        items = _choice(fields["categories"].get("items", {}), in_image_set)
        fields["categories"] = {**fields["categories"], "items": items}
    return {**form, "properties": fields}


def _plain(field: Schema) -> Schema:
    """An optional value as a field that may stay empty.

    Prefect shows the union with null that pydantic makes of it as a choice between two fields, and
    refuses an empty field whose default is null.
    """
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return field
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return {**rest, **kinds[0]}


def _choice(field: Schema, names: Sequence[str]) -> Schema:
    rest = {key: value for key, value in field.items() if key != "enum"}
    return rest | ({"enum": list(names)} if names else {})


def _image_set_categories(settings: Settings) -> list[str]:
    try:
        return list(category_folders(settings.workspace.path / settings.workspace.image_set))
    except LayoutError:  # there is none yet
        return []
