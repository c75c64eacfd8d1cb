"""What may be asked of a retraining, and what runs without being asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stillwatch.errors import SettingsError
from stillwatch.flows.inspect import inspect
from stillwatch.flows.promote import promote
from stillwatch.flows.retrain import retrain
from stillwatch.flows.retraining import Request, requested
from stillwatch.flows.servers.deployments import prefect_file_for
from stillwatch.flows.servers.forms import Categories, form_schema
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.settings import Settings


def test_only_the_retraining_has_a_schedule(tmp_path: Path) -> None:
    file = prefect_file_for(tmp_path / "params.yaml")
    deployments = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    schedules = {one["name"]: one["schedules"] for one in deployments if "schedules" in one}
    assert schedules == {"retrain": [{"cron": "0 3 * * 0", "timezone": "UTC", "slug": "weekly"}]}
    assert [one["name"] for one in deployments] == [
        *("retrain", "ingest", "inspect", "promote", "rollback", "watch")
    ]


def test_the_form_takes_categories_detectors_seeds_and_force() -> None:
    fields = retrain.parameters.properties
    assert list(fields) == ["categories", "detectors", "seeds", "force"]
    seeds = fields["seeds"]
    assert (seeds["type"], seeds["items"]) == ("array", {"type": "integer", "minimum": 0})
    assert "the mean decides" in seeds["description"]
    assert retrain.parameters.required == []


def test_a_category_is_chosen_and_a_version_is_a_plain_number_that_may_stay_empty() -> None:
    schema = promote.parameters.model_dump()
    form = form_schema(schema, Categories(["bolt", "nut"], []))["properties"]
    assert list(form) == ["category", "approver", "reason", "version", "despite"]
    assert form["category"]["enum"] == ["bolt", "nut"]
    version = form["version"]
    assert (version["type"], version["title"]) == ("integer", "version")
    assert version.keys().isdisjoint({"anyOf", "default"})
    assert "Which one" in version["description"]


def test_the_retraining_offers_the_categories_of_the_image_set_and_then_those_that_came() -> None:
    schema = retrain.parameters.model_dump()
    first = form_schema(schema, Categories([], ["bolt"]))
    assert first["properties"]["categories"]["items"]["enum"] == ["bolt"]
    both = form_schema(first, Categories([], ["bolt", "nut"]))
    assert both["properties"]["categories"]["items"]["enum"] == ["bolt", "nut"]
    assert both["properties"]["detectors"] == schema["properties"]["detectors"]
    assert form_schema(first, Categories([], [])) == schema


def test_the_first_seed_is_that_of_the_settings_and_none_comes_twice() -> None:
    settings = Settings()
    asked = requested(settings, (), (5, 2))
    assert (asked.of_category("plate").training.seed, asked.seeds) == (5, (5, 2))
    asked = requested(settings, None, None)
    assert (asked.of_category("plate").training.seed, asked.seeds) == (settings.training.seed, ())
    with pytest.raises(SettingsError, match="seed 2 is given more than once"):
        requested(settings, None, [2, 1, 2])


def competing(asked: Request, category: str = "plate") -> tuple[str, ...]:
    return asked.of_category(category).retrain.detectors


def test_what_a_person_chooses_comes_before_the_category_and_the_category_before_the_file() -> None:
    own = {"retrain": {"detectors": ["stfpm"]}, "training": {"seed": 3}}
    settings = Settings.model_validate({"categories": {"plate": own}})
    by_itself = requested(settings, None, None)
    assert competing(by_itself) == ("stfpm",)
    assert by_itself.of_category("plate").training.seed == 3
    assert competing(by_itself, "cloth") == Settings().retrain.detectors
    assert by_itself.of_category("cloth").training.seed == 0
    chosen = requested(settings, ["reverse_distillation"], [7, 8])
    for category in ("plate", "cloth"):
        assert competing(chosen, category) == ("reverse_distillation",)
        assert chosen.of_category(category).training.seed == 7
    assert chosen.seeds == (7, 8)


def test_wrong_settings_of_a_category_are_refused_when_it_is_retrained() -> None:
    own = {"detectors": {"reverse_distillation": {"epochs": 0}}}
    settings = Settings.model_validate({"categories": {"plate": own}})
    with pytest.raises(SettingsError, match=r"plate.*reverse_distillation.*epochs"):
        requested(settings, ["reverse_distillation"], None)
    requested(settings, ["reverse_distillation"], None, ["cloth"])


def test_what_could_have_no_winner_is_refused() -> None:
    allowed = Settings()
    retrain = allowed.retrain.model_copy(update={"allow_baselines": False})
    settings = allowed.model_copy(update={"retrain": retrain})
    baselines = ("patchcore", "autoencoder")
    with pytest.raises(SettingsError, match=r"patchcore, autoencoder .* retrain\.allow_baselines"):
        requested(settings, baselines, None)
    both = (*baselines, "stfpm")
    assert competing(requested(settings, both, None)) == both
    assert competing(requested(allowed, baselines, None)) == baselines


def test_settings_of_a_detector_that_does_not_compete_have_to_be_right_too() -> None:
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


@pytest.mark.costly
@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (("promote", "ingest", "watch"), {"torch"}),
        (("servers.trigger_process",), {"torch", "dvc", "great_expectations"}),
    ],
)
def test_what_runs_often_does_not_import_what_takes_long(
    modules: tuple[str, ...], heavy: set[str]
) -> None:
    imported = ", ".join(f"stillwatch.flows.{name}" for name in modules)
    code = f"import sys, {imported}; print(sorted({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
