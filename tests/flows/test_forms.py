"""What may be asked of a retraining, and what runs without being asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stillwatch.errors import SettingsError
from stillwatch.flows.inspect import inspect
from stillwatch.flows.retrain import retrain
from stillwatch.flows.retraining import requested
from stillwatch.flows.servers.deployments import prefect_file_for
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.settings import Settings


def test_what_runs_by_itself_has_its_schedule(tmp_path: Path) -> None:
    file = prefect_file_for(tmp_path / "params.yaml")
    deployments = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    schedules = {one["name"]: one.get("schedules", []) for one in deployments}
    assert {name: [one["cron"] for one in found] for name, found in schedules.items()} == {
        "retrain": ["0 3 * * 0"],
        "ingest": ["*/5 * * * *"],
        "inspect": [],
        "promote": [],
        "rollback": [],
        "approvals": ["* * * * *"],
        "watch": ["*/15 * * * *"],
    }
    assert {one["timezone"] for found in schedules.values() for one in found} == {"UTC"}


def test_the_form_takes_categories_detectors_seeds_and_force() -> None:
    fields = retrain.parameters.properties
    assert list(fields) == ["categories", "detectors", "seeds", "force"]
    seeds = fields["seeds"]
    assert (seeds["type"], seeds["items"]) == ("array", {"type": "integer", "minimum": 0})
    assert "the mean decides" in seeds["description"]
    assert retrain.parameters.required == []


def test_the_first_seed_is_that_of_the_settings_and_none_comes_twice() -> None:
    settings = Settings()
    asked = requested(settings, (), (5, 2))
    assert (asked.settings.training.seed, asked.seeds) == (5, (5, 2))
    assert requested(settings, None, None).seeds == (settings.training.seed,)
    with pytest.raises(SettingsError, match="seed 2 is given more than once"):
        requested(settings, None, [2, 1, 2])


def test_what_could_have_no_winner_is_refused() -> None:
    settings = Settings()
    baselines = ("patchcore", "autoencoder")
    with pytest.raises(SettingsError, match=r"patchcore, autoencoder .* retrain\.allow_baselines"):
        requested(settings, baselines, None)
    both = (*baselines, "stfpm")
    assert requested(settings, both, None).settings.retrain.detectors == both
    retrain = settings.retrain.model_copy(update={"allow_baselines": True})
    allowed = settings.model_copy(update={"retrain": retrain})
    assert requested(allowed, baselines, None).settings.retrain.detectors == baselines


def test_settings_of_a_detector_that_does_not_compete_have_to_be_right_too() -> None:
    images = {"size": 200}  # reverse distillation cannot take it
    others = {"images": images, "detectors": {"reverse_distillation": {"epochs": 5}}}
    asked = requested(Settings.model_validate(others), ["stfpm"], None)
    assert asked.settings.retrain.detectors == ("stfpm",)
    with pytest.raises(SettingsError, match="needs a multiple of 32"):
        requested(Settings.model_validate({"images": images}), ["reverse_distillation"], None)
    with pytest.raises(SettingsError, match="did you mean 'epochs'"):
        requested(
            Settings.model_validate({"detectors": {"stfpm": {"epoch": 5}}}),
            ["patchcore", "reverse_distillation"],
            None,
        )


def test_no_folder_outside_that_of_the_inspections_can_be_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tmp_path / "params.yaml"
    params.touch()
    monkeypatch.setenv(PARAMS_VARIABLE, str(params))
    with pytest.raises(SettingsError, match=r"'\.\./data/bolt', which lies outside"):
        inspect.fn("bolt", "../data/bolt")


def test_what_runs_every_few_minutes_does_not_import_torch() -> None:
    modules = ", ".join(f"stillwatch.flows.{name}" for name in ("promote", "ingest", "watch"))
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
