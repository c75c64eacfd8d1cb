"""The gate, with untrained bundles and a real store, without reloading in a fresh process."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_detectors import examined, make_images, small, without_test_rows, write_untrained_bundle
from made_registries import NAME, aliases
from made_results import result
from made_stores import new_store
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from stillwatch.bundle import read_bundle
from stillwatch.errors import StorageError, TrackingError
from stillwatch.settings import (
    FloorSettings,
    GateSettings,
    ImageSettings,
    Settings,
)
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.test_set import read_test_set
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.compare import errors_blamed_on
from stillwatch.tasks.promotion.gate import judge_winner
from stillwatch.tasks.promotion.history import history
from stillwatch.tasks.registry.judgement import Judgement, read_judgement
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import EVALUATION, THRESHOLD, threshold_tags
from stillwatch.tasks.training.training_images import record_training_images

QUICK = {"resamples": 200}
SEES, BLIND = "patchcore", "stfpm"
"""Methods that do and do not see scratches, both untrained."""


@pytest.fixture
def here(settings: Settings) -> Settings:
    return small(settings).model_copy(update={"gate": GateSettings.model_validate(QUICK)})


@pytest.fixture
def tracking(here: Settings) -> Tracking:
    return new_store(here)


@pytest.fixture
def plate(here: Settings, tmp_path: Path) -> ExaminedCategory:
    make_images(tmp_path / "data" / "plate", anomalies=12, test_normals=12)
    return examined(tmp_path / "data" / "plate", here)[0]


class Line:
    """Registers detectors of one category and asks the gate about them."""

    def __init__(
        self, tracking: Tracking, plate: ExaminedCategory, settings: Settings, folder: Path
    ) -> None:
        self.tracking, self.plate, self.settings, self.folder = tracking, plate, settings, folder
        self.count = 0

    def result(self, method: str = SEES, **changes: Any) -> DetectorResult:
        """An evaluated detector."""
        run_id = self.tracking.start_run("plate", "stfpm", {})
        write_untrained_bundle(self.folder / run_id, self.plate, "f", self.settings, method)
        calibration = read_bundle(self.folder / run_id).info.calibration
        tags = threshold_tags(calibration.reject.value, calibration.review.value)
        self.tracking.log(run_id, tags=tags)
        self.tracking.log_folder(run_id, self.folder / run_id, BUNDLE)
        record_training_images(self.tracking, run_id, self.plate.manifest)
        return result(method, run_id=run_id, **changes)

    def judged(
        self, one: DetectorResult | None = None, *seeds: DetectorResult, **changes: Any
    ) -> int:
        """The version of a winner, with other seeds of its detector, after the gate."""
        winner = self.result(**changes) if one is None else one
        client = self.tracking.client
        if not client.search_registered_models():
            client.create_registered_model(NAME)
        self.count += 1
        source = self.folder / str(self.count)
        with self.tracking.artifact(winner.run_id, BUNDLE) as bundle:
            shutil.copytree(bundle, source / "artifacts" / BUNDLE)
        version = int(client.create_model_version(NAME, str(source), winner.run_id).version)
        self.ask(version, winner, *seeds)
        return version

    def ask(
        self,
        version: int,
        winner: DetectorResult,
        *seeds: DetectorResult,
        just_registered: bool = True,
    ) -> None:
        judge_winner(
            Registration(version, created=just_registered),
            Choice(winner, (winner, *seeds)),
            self.plate,
            settings=self.settings,
        )

    def weights(self, version: int) -> Path:
        """In the registry; the run has a copy of its own."""
        return self.folder / str(version) / "artifacts" / BUNDLE / "weights.safetensors"

    def alter(self, version: int) -> None:
        """Exchange a byte of its weights in the registry."""
        content = bytearray(self.weights(version).read_bytes())
        content[-1] ^= 1
        self.weights(version).write_bytes(content)

    def tags(self, version: int) -> dict[str, str]:
        found = self.tracking.client.get_model_version(NAME, str(version)).tags
        return {key.removeprefix("stillwatch."): value for key, value in found.items()}

    def judgement(self, version: int) -> Judgement:
        found = self.tracking.client.get_model_version(NAME, str(version))
        return read_judgement(self.tracking, found)

    def set_gate(self, **changes: Any) -> None:
        gate = GateSettings.model_validate(QUICK | changes)
        self.settings = self.settings.model_copy(update={"gate": gate})


@pytest.fixture
def line(tracking: Tracking, plate: ExaminedCategory, here: Settings, tmp_path: Path) -> Line:
    return Line(tracking, plate, here, tmp_path / "made")


def test_the_first_version_that_reaches_the_floors_becomes_champion(line: Line) -> None:
    floors = FloorSettings(image_auroc=0.85, aupro=0.5, recall=0.0)
    retrain = line.settings.retrain.model_copy(update={"floors": floors})
    line.settings = line.settings.model_copy(update={"retrain": retrain})
    made = line.judged(synthetic=True)
    assert aliases(line.tracking) == {"champion": None, "previous": None, "challenger": made}
    assert "synthetic" in line.tags(made)["not_promoted"]
    low = line.judged(metrics={"image_auroc": 0.8})
    assert line.tags(low)["approval"] == "pending"
    assert "below its floor" in line.tags(low)["not_promoted"]
    assert line.judgement(low).missed_floors == "image_auroc 0.800 is below its floor 0.85"
    fit = line.judged()
    assert aliases(line.tracking) == {"champion": fit, "previous": None, "challenger": None}
    (entry,) = history(line.tracking, "plate")
    assert (entry.record.from_version, entry.record.to_version) == (None, fit)
    assert (entry.record.who, entry.record.answer) == ("stillwatch, automatic", None)


def test_with_promotion_by_approval_the_first_version_waits(line: Line) -> None:
    line.set_gate(promotion="approval")
    first = line.judged()
    assert aliases(line.tracking)["champion"] is None
    assert line.tags(first)["approval"] == "pending"
    assert "gate.promotion" in line.tags(first)["not_promoted"]


def test_a_first_version_over_the_latency_budget_waits(line: Line) -> None:
    line.set_gate(latency_budget_ms=20.0)
    slow = line.judged(ms_per_image=20.5)
    assert aliases(line.tracking)["champion"] is None
    assert line.tags(slow)["not_promoted"] == (
        "it took 20.5 ms per image, and gate.latency_budget_ms is 20"
    )
    fit = line.judged(ms_per_image=20.0)
    assert aliases(line.tracking)["champion"] == fit


def test_a_champion_that_a_person_withdrew_is_not_replaced_automatically(line: Line) -> None:
    line.judged()
    line.tracking.client.delete_registered_model_alias(NAME, "champion")
    second = line.judged()
    assert aliases(line.tracking) == {"champion": None, "previous": None, "challenger": second}
    assert "withdrawn" in line.tags(second)["not_promoted"]


def test_identical_weights_are_not_worse_and_wait_unless_the_settings_allow_it(line: Line) -> None:
    first, other_seed, winner = line.judged(), line.result(), line.result()
    second = line.judged(winner, other_seed)
    judgement = line.judgement(second)
    assert (judgement.answer, judgement.compared_with) == ("not_worse", 1)
    assert "with the same scores on every image" in judgement.comparison
    assert line.tags(second) == {
        "gate": "open: not_worse (champion then: version 1)",
        "approval": "pending",
        "not_promoted": "the gate's answer is not_worse",
    }
    assert aliases(line.tracking) == {"champion": first, "previous": None, "challenger": second}
    with line.tracking.artifact(winner.run_id, "comparison.json") as file:
        record = json.loads(file.read_bytes())
    assert (record["champion"], record["challenger"], record["answer"]) == (1, 2, "not_worse")
    assert (record["normals"], record["anomalies"], record["identical"]) == (12, 12, True)
    assert record["sentence"] == judgement.comparison
    assert (record["detectors"], len(record["differences"]["aupro"]["seeds"])) == ([SEES], 2)

    line.set_gate(automatic=["not_worse"])
    third = line.judged()
    assert aliases(line.tracking) == {"champion": third, "previous": first, "challenger": None}
    assert history(line.tracking, "plate")[0].record.answer == "not_worse"


def test_a_better_version_becomes_champion_and_a_worse_one_is_refused(line: Line) -> None:
    blind = line.judged(method=BLIND)
    seeing = line.judged()
    assert line.judgement(seeing).answer == "better"
    assert aliases(line.tracking) == {"champion": seeing, "previous": blind, "challenger": None}
    worse = line.judged(method=BLIND)
    tags = line.tags(worse)
    assert tags["gate"].startswith("refused: worse")
    assert tags["gate"].endswith("(champion then: version 2)")
    assert tags["approval"] == "refused"
    assert "on 12 normals and 12 anomalies" in line.judgement(worse).comparison
    assert aliases(line.tracking)["champion"] == seeing


@pytest.mark.parametrize(
    ("images", "gate", "approval"), [(12, "open", "pending"), (50, "refused", "refused")]
)
def test_a_better_version_over_the_latency_budget_waits_or_is_refused_on_enough_images(
    line: Line, images: int, gate: str, approval: str
) -> None:
    make_images(line.plate.folder, anomalies=images, test_normals=images)
    line.plate = examined(line.plate.folder, line.settings)[0]
    blind = line.judged(method=BLIND)
    line.set_gate(latency_budget_ms=1e-6)
    second = line.judged()
    tags = line.tags(second)
    assert tags["gate"] == f"{gate}: better, vetoed by latency (champion then: version 1)"
    assert tags["approval"] == approval
    assert "vetoed by latency" in line.judgement(second).comparison
    assert aliases(line.tracking)["champion"] == blind


def test_a_better_version_with_synthetic_figures_waits(line: Line) -> None:
    line.judged(method=BLIND)
    second = line.judged(synthetic=True)
    tags = line.tags(second)
    assert (line.judgement(second).answer, tags["approval"]) == ("better", "pending")
    assert "synthetic" in tags["not_promoted"]


def test_a_champion_of_another_image_size_inspects_images_of_its_size(line: Line) -> None:
    smaller = line.settings.model_copy(update={"images": ImageSettings(size=48)})
    own, line.plate = line.plate, examined(line.plate.folder, smaller)[0]
    settings, line.settings = line.settings, smaller
    line.judged()
    line.plate, line.settings = own, settings
    judgement = line.judgement(line.judged())
    assert judgement.answer in ("better", "not_worse", "not_enough_evidence", "worse")
    assert "12 normals and 12 anomalies" in judgement.comparison


def test_test_images_that_a_detector_was_trained_on_are_left_out(line: Line) -> None:
    winner = line.result()
    manifest = line.plate.manifest
    scratched = [row for row in manifest.rows if row.path.startswith("test/scratch/")][:5]
    rows = (replace(row, part="train") if row in scratched else row for row in manifest.rows)
    record_training_images(line.tracking, winner.run_id, replace(manifest, rows=tuple(rows)))
    line.judged(winner)
    with_gaps = line.judgement(line.judged())
    assert "left out, because a detector was trained on them: 5" in with_gaps.comparison
    assert with_gaps.answer == "not_worse", "identical weights need no number of images"


def test_synthetic_anomalies_made_from_training_images_are_left_out(
    line: Line,
) -> None:
    line.plate = without_test_rows(line.plate, "scratch")
    made_from = read_test_set(line.plate, line.settings.evaluation).made_from
    known = set(list(made_from.values())[:2])
    manifest = line.plate.manifest
    rows = (replace(row, part="train") if row.path in known else row for row in manifest.rows)
    winner = line.result(synthetic=True)
    record_training_images(line.tracking, winner.run_id, replace(manifest, rows=tuple(rows)))
    line.judged()
    line.judged(winner)
    with line.tracking.artifact(winner.run_id, "comparison.json") as file:
        record = json.loads(file.read_bytes())
    assert (len(made_from), len(known)) == (6, 2)
    assert (record["normals"], record["anomalies"], record["dropped"]) == (10, 4, 4)


@pytest.mark.parametrize("select_by", ["image_auroc", "pixel_auroc", "aupro"])
def test_without_test_images_there_is_not_enough_evidence(line: Line, select_by: str) -> None:
    evaluation = line.settings.evaluation.model_copy(update={"synthetic_anomalies": 12})
    retrain = line.settings.retrain.model_copy(update={"select_by": select_by})
    line.settings = line.settings.model_copy(update={"evaluation": evaluation, "retrain": retrain})
    line.judged()
    line.plate = without_test_rows(line.plate, "scratch", "good")
    second = line.judged(method=BLIND, synthetic=True, test_normals_from="validation")
    assert line.judgement(second).answer == "not_enough_evidence"
    assert line.tags(second)["approval"] == "pending"


def test_with_a_damaged_champion_a_person_decides(line: Line) -> None:
    line.judged()
    weights = line.weights(1)
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1])
    truncated = line.judged()
    assert "truncated" in line.judgement(truncated).comparison
    weights.write_bytes(sound)
    run_id = str(line.tracking.client.get_model_version(NAME, "1").run_id)
    line.tracking.log(run_id, tags={THRESHOLD: "0.5"})
    other = line.judged()
    assert "its thresholds are" in line.judgement(other).comparison
    for version in (truncated, other):
        judgement, tags = line.judgement(version), line.tags(version)
        assert judgement.answer is None
        assert judgement.comparison.startswith("not compared: the champion, version 1")
        assert tags["gate"] == "open: not comparable (champion then: version 1)"
        assert tags["approval"] == "pending"


def test_a_full_disk_is_no_fault_of_the_champion() -> None:
    with (
        pytest.raises(StorageError, match=r"^the disk is full$"),
        errors_blamed_on(ModelVersion(NAME, "1", 0)),
    ):
        raise StorageError("the disk is full")


def test_a_champion_that_cannot_be_read_now_is_compared_with_at_the_next_retraining(
    line: Line,
) -> None:
    line.judged(method=BLIND)
    waiting = line.result()
    line.folder.joinpath("1").rename(line.folder / "gone")
    with pytest.raises(TrackingError, match="the champion, version 1, cannot be compared with now"):
        line.judged(waiting)
    assert "gate" not in line.tags(2)
    line.folder.joinpath("gone").rename(line.folder / "1")
    line.ask(2, waiting)
    assert (line.judgement(2).answer, aliases(line.tracking)["champion"]) == ("better", 2)


@pytest.fixture
def failed_promotion(line: Line, monkeypatch: pytest.MonkeyPatch) -> DetectorResult:
    """The winner whose registered version, the first, the store did not let become champion."""

    def refused(*_: object, **__: object) -> None:
        raise MlflowException("the database is locked")

    winner = line.result()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", refused)
        with pytest.raises(TrackingError, match="the database is locked"):
            line.judged(winner)
    return winner


def test_a_failed_promotion_is_repeated_by_the_next_retraining(
    line: Line, failed_promotion: DetectorResult
) -> None:
    assert aliases(line.tracking)["champion"] is None
    line.ask(1, failed_promotion)
    assert aliases(line.tracking)["champion"] == 1


def test_a_failed_promotion_is_not_repeated_with_an_altered_artefact(
    line: Line, failed_promotion: DetectorResult
) -> None:
    line.alter(1)
    line.ask(1, failed_promotion, just_registered=False)
    assert aliases(line.tracking)["champion"] is None
    assert "artefact is not what was registered" in line.tags(1)["not_promoted"]


def test_an_altered_artefact_is_not_promoted_automatically(
    line: Line,
) -> None:
    line.judged(method=BLIND)
    line.set_gate(promotion="approval")
    waiting = line.result()
    second = line.judged(waiting)
    line.set_gate(automatic=["not_worse"])
    champion = line.judged(method=BLIND)
    assert aliases(line.tracking)["champion"] == champion
    line.alter(second)
    line.set_gate()
    line.ask(second, waiting, just_registered=False)
    assert aliases(line.tracking)["champion"] == champion
    judgement = line.judgement(second)
    assert (judgement.answer, line.tags(second)["approval"]) == (None, "pending")
    assert judgement.comparison.startswith("not compared: the challenger, version 2")
    assert "sha256" in judgement.comparison


def test_a_version_is_judged_again_after_another_evaluation(line: Line) -> None:
    line.judged(method=BLIND)
    line.set_gate(promotion="approval")
    waiting = line.result()
    second = line.judged(waiting)
    line.set_gate()
    line.tracking.log(waiting.run_id, tags={EVALUATION: "of other test images"})
    line.ask(second, waiting)
    assert aliases(line.tracking)["champion"] == second


def test_the_judgement_after_another_evaluation_is_that_of_the_version(line: Line) -> None:
    """Weights that are evaluated on another test set get a new run, and no new version."""
    line.set_gate(promotion="approval")
    floors = FloorSettings(image_auroc=0.85, aupro=0.5, recall=0.0)
    retrain = line.settings.retrain.model_copy(update={"floors": floors})
    line.settings = line.settings.model_copy(update={"retrain": retrain})
    first = line.judged(metrics={"image_auroc": 0.1})
    assert line.judgement(first).missed_floors
    evaluated_again = line.result()
    line.tracking.log(evaluated_again.run_id, tags={EVALUATION: "of other test images"})
    line.ask(first, evaluated_again, just_registered=False)
    assert line.judgement(first).evaluation == "of other test images"
    assert not line.judgement(first).missed_floors


def test_a_version_is_judged_once_for_each_champion(line: Line) -> None:
    line.judged(method=BLIND)
    line.set_gate(promotion="approval")
    waiting = line.result()
    second = line.judged(waiting)
    line.set_gate()
    line.ask(second, waiting)
    assert aliases(line.tracking)["champion"] == 1, "it was judged before"

    third = line.judged()
    assert aliases(line.tracking)["champion"] == third
    line.ask(second, waiting)
    assert line.judgement(second).compared_with == 3
    assert line.judgement(second).answer == "not_worse"
    blind = line.result(method=BLIND)
    line.ask(1, blind)
    assert "gate" in line.tags(1)
    assert aliases(line.tracking)["champion"] == third, "what was champion does not come again"
