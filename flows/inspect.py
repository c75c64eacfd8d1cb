"""Inspecting a folder of images with a category's champion, as a flow's body."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from stillwatch.errors import SettingsError
from stillwatch.flows.models import open_model
from stillwatch.inference.files import InspectionRow, inspect_files, write_rows
from stillwatch.inference.inspector import find_images
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import CHAMPION, ensure_registered, model_name
from stillwatch.tasks.tracking.client import open_tracking

FOLDER = "inspections"
"""In the state folder; holds a folder of results per run."""
_MOST_SHOWN = 200
"""Rows of the table in Prefect; the files have all of them."""


def inspect_folder(category: str, folder: str, settings: Settings) -> State[None]:
    """Give each image of a folder a verdict; the body of a flow.

    Overlays, ``inspection.csv`` and ``inspection.json`` go to the state folder, scores to the log.
    The state is Failed when a file could not be inspected; the others still are.

    Args:
        category: whose champion inspects.
        folder: inside ``inspection.path``; empty: the one that is named like the category.
        settings: all of them.

    Raises:
        SettingsError: the folder lies outside ``inspection.path``.
        ImageError: there is no such folder, or no image in it.
        TrackingError: the category has no champion, or the registry does not answer.
        StorageError: the state folder cannot be written to.
    """
    source = _inside(settings.inspection.path, folder or category)
    ensure_registered(open_tracking(settings), category)
    model = open_model(f"models:/{model_name(category)}@{CHAMPION}", settings)
    out = settings.state_dir / FOLDER / f"{category}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    rows = list(inspect_files(model, find_images([source]), settings=settings, out=out))
    write_rows(rows, out)
    create_table_artifact(
        table=_table(rows),
        key=f"inspect-{category.replace('_', '-')}",
        description=f"What version {model.version} of {category} did not pass; all of it: {out}",
    )
    counts = Counter(row.verdict or "not inspected" for row in rows)
    said = f"{len(rows)} images: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    failed = any(row.error for row in rows)
    return Failed(message=said) if failed else Completed(message=said)


def _inside(root: Path, folder: str) -> Path:
    """The folder in ``root``; the form of a deployment must reach no other."""
    wanted = (root / folder).resolve()
    if not wanted.is_relative_to(root.resolve()):
        raise SettingsError(
            f"folder is '{folder}', which lies outside {root}. Name a folder in it, or change the "
            "setting inspection.path."
        )
    return wanted


def _table(rows: list[InspectionRow]) -> list[dict[str, str]]:
    shown = sorted(
        (row for row in rows if row.verdict != "pass"),
        key=lambda row: -1.0 if row.p_value is None else row.p_value,
    )
    return [
        {
            "image": Path(row.path).name,
            "verdict": row.verdict or "not inspected",
            "p-value": "" if row.p_value is None else f"{row.p_value:.3g}",
            "picture": row.overlay or "",
            "why": row.error or "",
        }
        for row in shown[:_MOST_SHOWN]
    ]
