"""Who becomes champion by a tag in MLflow's pages, and again by a rollback."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store
from tests.flows.conftest import Plant
from tests.tasks.made_registries import NAME, aliases, judge

from stillwatch.flows.promote import promote, rollback
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.servers.work import versions_to_promote
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.promotion.history import history
from stillwatch.tasks.registry.approval import APPROVAL, APPROVED, APPROVER
from stillwatch.tasks.tracking.client import Tracking

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("prefect")]


@dataclass(frozen=True)
class Line:
    """A plant whose only category has a champion, and a second version that waits."""

    plant: Plant
    settings: Settings
    tracking: Tracking

    @property
    def params(self) -> Path:
        return self.plant.folder / "params.yaml"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    plant = Plant(tmp_path_factory.mktemp("champions") / "line")
    (plant.folder / "home").mkdir(parents=True)
    params = plant.folder / "params.yaml"
    params.write_text(yaml.safe_dump({"training": {"device": "cpu"}}))
    settings = load_settings(params)
    tracking = new_store(settings)
    category = MadeCategory(plant.images / "plate", tracking, small(settings))
    assert [category.register(alpha=alpha) for alpha in (0.05, 0.2)] == [1, 2]
    category.make_champion(1)
    judge(tracking, 2, 1, "not_worse")
    return Line(plant, settings, tracking)


@pytest.fixture(scope="module", autouse=True)
def server(line: Line, prefect_server: Settings) -> Iterator[None]:
    """Of the flows, which read the settings of the plant."""
    with pytest.MonkeyPatch.context() as patch, prefect_api(prefect_server):
        patch.setenv(PARAMS_VARIABLE, str(line.params))
        yield


def test_a_version_that_was_tagged_is_promoted_by_the_flow(line: Line) -> None:
    for key, value in {APPROVER: "grace", APPROVAL: APPROVED}.items():
        line.tracking.client.set_model_version_tag(NAME, "2", key, value)
    (work,) = versions_to_promote(line.tracking)
    assert work.flow == "promote"
    promoted = promote(**work.parameters, return_state=True)
    assert promoted.message == "version 2 is the champion of plate"
    assert versions_to_promote(line.tracking) == []
    assert aliases(line.tracking) == {"champion": 2, "previous": 1, "challenger": None}
    (entry,) = history(line.tracking, "plate")
    assert (entry.record.from_version, entry.state) == (1, "done")
    assert (entry.record.who, entry.record.reason) == (
        "grace (not authenticated)",
        "approved by a tag in MLflow",
    )


def test_a_version_is_withdrawn_by_the_flow_and_brought_back_by_the_command(line: Line) -> None:
    form = {"category": "plate", "approver": "Eva", "reason": "too many false alarms"}
    withdrawn = rollback(**form, return_state=True)
    assert withdrawn.message == "version 1 is the champion of plate again"
    assert aliases(line.tracking) == {"champion": 1, "previous": None, "challenger": None}
    record = history(line.tracking, "plate")[0].record
    assert (record.kind, record.from_version, record.to_version) == ("rollback", 2, 1)
    assert record.who == "Eva (not authenticated)"
    line.tracking.client.delete_registered_model_alias(NAME, "champion")
    done = line.plant.run_here("rollback", "plate", "--version", "2", "--reason", "x")
    checked, said = done.stdout.strip().splitlines()
    assert "was not reloaded: its files are those that were registered" in checked, done.stderr
    assert said == "champion of plate is again version 2"
