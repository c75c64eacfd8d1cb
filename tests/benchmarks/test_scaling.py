"""The benchmark of thousands of trainings; its servers and its night run in the benchmark alone."""

from pathlib import Path

from benchmarks.scaling_dvc import dvc_costs
from benchmarks.scaling_tools import EPOCHS, FIGURES, PARAMS, train_nothing
from made_stores import new_store

from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import BUNDLE


def test_a_training_that_trains_nothing_leaves_what_a_training_leaves(tmp_path: Path) -> None:
    tracking = new_store(Settings(state_dir=tmp_path))
    train_nothing(tracking, "plate", "nothing")
    (run,) = tracking.find_runs("plate", {})
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == PARAMS
    assert len(run.data.metrics) >= FIGURES
    losses = tracking.client.get_metric_history(run.info.run_id, "student/train_loss")
    assert [one.step for one in losses] == list(range(EPOCHS))
    assert len(run.inputs.dataset_inputs) == 1
    with tracking.artifact(run.info.run_id, BUNDLE) as folder:
        assert [path.name for path in folder.iterdir()] == ["bundle.json"]


def test_what_dvc_costs_is_measured_on_a_repository_of_its_own(tmp_path: Path) -> None:
    costs = dvc_costs(tmp_path, 2)
    assert len(costs) == 4
    assert all(seconds > 0 for seconds in costs.values())
