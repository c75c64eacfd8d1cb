"""The deployment ``approvals``: what a person has tagged in MLflow's pages becomes champion."""

from pathlib import Path

import pytest
import yaml
from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store

from flows.deployed.champions import approvals
from flows.prefect_server import prefect_api
from flows.worker import PARAMS_VARIABLE
from stillwatch.settings import load_settings
from tasks.approval import ANSWER, APPROVAL, APPROVED, APPROVER, COMPARED_WITH, GATE
from tasks.promotion_log import history
from tests.tasks.made_registries import NAME, aliases

pytestmark = pytest.mark.servers


def test_a_version_that_was_tagged_is_promoted_by_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"training": {"device": "cpu"}}))
    monkeypatch.setenv(PARAMS_VARIABLE, str(params))
    settings = load_settings(params)
    tracking = new_store(settings)
    plate = MadeCategory(tmp_path / "images" / "plate", tracking, small(settings))
    assert [plate.register(alpha=alpha) for alpha in (0.05, 0.2)] == [1, 2]
    plate.make_champion(1)
    given = {ANSWER: "not_worse", COMPARED_WITH: "1", GATE: "open"}
    for key, value in (given | {APPROVER: "grace", APPROVAL: APPROVED}).items():
        tracking.client.set_model_version_tag(NAME, "2", key, value)

    with prefect_api(settings):
        first, again = (approvals(return_state=True) for _ in range(2))
    assert (first.name, first.message) == ("Completed", "promoted: plate version 2")
    assert (again.name, again.message) == ("Completed", "promoted: none")
    assert aliases(tracking) == {"champion": 2, "previous": 1, "challenger": None}
    (entry,) = history(tracking, "plate")
    assert (entry.record.who, entry.record.from_version, entry.state) == ("grace", 1, "done")
