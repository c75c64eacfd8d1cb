"""The approval page in Prefect says what was decided."""

from pathlib import Path
from typing import Any, cast

import pytest
from made_stores import new_store
from prefect import get_client
from prefect.artifacts import Artifact
from prefect.client.schemas.actions import ArtifactCreate
from tests.tasks.made_registries import NAME, made_record, new_version, pending_version

from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.settings import Settings
from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.promotion.alias import changing_champion
from stillwatch.tasks.promotion.history import log_intent
from stillwatch.tasks.registry.versions import CHAMPION
from stillwatch.tasks.reports.decisions import REPORT_LINK, rewrite_decided, waits

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("prefect")]


def page() -> str:
    found = cast(Any, Artifact.get(artifact_key("approval", "plate")))
    return f"{found.description}\n{found.data}"


def create_page(version: int) -> str:
    pictures = f"# The pictures\n\n{REPORT_LINK}(http://mlflow/report.html)\n\nTo approve, …"
    made = ArtifactCreate(
        key=artifact_key("approval", "plate"),
        type="markdown",
        description=waits("plate", version),
        data=pictures,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(made)
    return page()


def test_a_page_is_replaced_when_its_version_was_approved_or_refused(
    prefect_server: Settings, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    tracking = new_store(settings)
    waiting = pending_version(tracking, None)
    with prefect_api(prefect_server):
        before = create_page(waiting)
        rewrite_decided(tracking)
        assert page() == before, "the version still waits"

        log_intent(tracking, made_record(waiting, None))
        tracking.client.set_registered_model_alias(NAME, CHAMPION, str(waiting))
        rewrite_decided(tracking)
        assert page() == before, "its promotion is not completed"

        with changing_champion(tracking, "plate", settings):
            pass  # It completes the promotion.
        rewrite_decided(tracking)
        approved = page()
        assert "# plate: version 1 does not wait any more" in approved
        assert "Approved by ada, 2026-11-22T10:00:00+00:00." in approved
        assert "it finds the scratches" in approved
        assert f"{REPORT_LINK}(http://mlflow/report.html)" in approved
        assert "To approve" not in approved

        altered = pending_version(tracking, waiting)
        create_page(altered)
        for key, value in {"approval": "refused", "not_promoted": "a file was altered."}.items():
            tracking.client.set_model_version_tag(NAME, str(altered), f"stillwatch.{key}", value)
        rewrite_decided(tracking)
        assert "Not promoted: a file was altered." in page()

        create_page(new_version(tracking) + 1)
        rewrite_decided(tracking)
        assert "The version was deleted." in page()
