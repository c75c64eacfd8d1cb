"""The forms of the deployments: a category is chosen from a list, a version is a plain number."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Categories:
    """The categories that the forms offer; where there are none, a form takes any name."""

    registered: Sequence[str]
    """For a parameter ``category``."""
    in_image_set: Sequence[str]
    """For a parameter ``categories``."""


def offered_categories(settings: Settings, tracking: Tracking) -> Categories:
    """The present categories."""
    try:
        found = category_folders(settings.workspace.data)
    except LayoutError:  # there is none yet
        found = {}
    return Categories(registered_categories(tracking), list(found))


def update_forms(categories: Categories) -> None:
    """Offer these categories in the forms of all deployments of the work pool."""
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(work_pool_filter=pool):
            before = deployment.parameter_openapi_schema or {}
            form = form_schema(before, categories)
            if form != before:
                update = DeploymentUpdate(parameter_openapi_schema=form)
                client.update_deployment(deployment.id, update)


def form_schema(schema: Schema, categories: Categories) -> dict[str, Any]:
    """The schema of a flow's parameters as a person fills them in."""
    form = deepcopy(dict(schema))
    fields = {name: _plain(field) for name, field in form.get("properties", {}).items()}
    if "category" in fields:
        fields["category"] = _choice(fields["category"], categories.registered)
    if "categories" in fields:
        items = _choice(fields["categories"].get("items", {}), categories.in_image_set)
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
