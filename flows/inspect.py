"""The flow ``inspect``: inspect a folder of images with a category's champion."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from stillwatch.errors import SettingsError
from stillwatch.flows.models import open_registered
from stillwatch.flows.run_settings import run_settings
from stillwatch.inference.files import InspectionRow, inspect_files, write_rows
from stillwatch.inference.inspector import find_images
from stillwatch.tasks.libraries.artifact_keys import artifact_key

FOLDER = "inspections"
"""In the state folder; has a folder of results for each run."""
_MAX_ROWS = 200
"""Rows of the table in Prefect; the files in the state folder have all rows."""


@flow(name="inspect", flow_run_name="inspect {category}")
def inspect(category: str, folder: str = "") -> State[None]:
    """Inspect a folder of images with a category's champion.

    Args:
        category: The product line.
        folder: Inside inspection.path of params.yaml; empty for the one named like the category.
    """
    # Overlays and tables go to the state folder, scores to the score log. The state is Failed when
    # a file could not be inspected; the other files still are.
    settings = run_settings()
    source = _inside(settings.inspection.path, folder or category)
    model = open_registered(category, settings)
    out = settings.state_dir / FOLDER / f"{category}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    own = settings.for_category(category)
    rows = list(inspect_files(model, find_images([source]), settings=own, out=out))
    write_rows(rows, out)
    create_table_artifact(
        table=_table(rows),
        key=artifact_key("inspect", category),
        description=f"Images that version {model.version} of {category} did not pass; all: {out}",
    )
    counts = Counter(row.verdict or "not inspected" for row in rows)
    message = f"{len(rows)} images: " + ", ".join(
        f"{count} {name}" for name, count in sorted(counts.items())
    )
    failed = any(row.error for row in rows)
    return Failed(message=message) if failed else Completed(message=message)


def _inside(root: Path, folder: str) -> Path:
    """The folder in ``root``; the form of the deployment must not reach other folders."""
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
        for row in shown[:_MAX_ROWS]
    ]
