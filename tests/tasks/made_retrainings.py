"""Retrainings in a real store, from detectors that took no training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from made_detectors import examined, make_images, small, write_untrained_bundle
from made_registries import NAME
from made_stores import new_store

from stillwatch.bundle import read_bundle
from stillwatch.settings import GateSettings, Settings, WorkspaceSettings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_detector
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.gate import judge_winner
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import METHOD, SEED, STAGE, TRAINED, threshold_tags
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.retraining_run import (
    MODEL_VERSION,
    REGISTERED,
    REUSED,
    WINNER,
    finish_retraining_run,
    start_retraining_run,
)
from stillwatch.tasks.training.task import TrainedDetector
from stillwatch.tasks.training.training_images import record_training_images
from stillwatch.tasks.validation.report import CheckOutcome, ReportedRegion, ValidationReport

SEES, BLIND = "patchcore", "stfpm"
"""Methods that do and do not see scratches, both untrained."""

SOUND = ValidationReport(
    category="plate",
    failures=(),
    errored=(),
    outcomes=(CheckOutcome("blur", "Blurred images", "", "warning", "passed", 0, True),),
    facts={
        "split": {"train": 40, "test": 24},
        "part": {"train": 17, "validation": 4, "calibration": 19, "test": 24},
        "defect_type": {"good": 12, "scratch": 12},
        "feedback": {},
        "mask": {"scratch": 12},
    },
    region=ReportedRegion("region.png", 0.5, "train/good/000.png"),
)


@dataclass
class RetrainedPlate:
    """The category plate and its store."""

    folder: Path
    settings: Settings = field(init=False)
    tracking: Tracking = field(init=False)
    category: ExaminedCategory = field(init=False)
    data: DataVersion = field(init=False)

    def __post_init__(self) -> None:
        settings = small(
            Settings(
                state_dir=self.folder / "state",
                workspace=WorkspaceSettings(path=self.folder / "workspace"),
                gate=GateSettings(resamples=200),
            )
        )
        self.settings = settings
        self.tracking = new_store(settings)
        make_images(self.folder / "plate", anomalies=12, test_normals=12)
        self.category, self.data = examined(self.folder / "plate", settings)

    def begin(
        self, *detectors: str, validation: ValidationReport = SOUND, seeds: Sequence[int] = ()
    ) -> str:
        """The run of a retraining in which these compete."""
        retrain = self.settings.retrain.model_copy(update={"detectors": detectors})
        settings = self.settings.model_copy(update={"retrain": retrain})
        return start_retraining_run(self.category.version, self.data, validation, settings, seeds)

    def evaluated(self, parent: str, method: str) -> DetectorResult:
        """A detector of a retraining."""
        run_id = self.begun(parent, method)
        folder = self._package(run_id) / "artifacts" / BUNDLE
        write_untrained_bundle(folder, self.category, "f", self.settings, method)
        self.tracking.log_folder(run_id, folder, BUNDLE)
        calibration = read_bundle(folder).info.calibration
        thresholds = threshold_tags(calibration.reject.value, calibration.review.value)
        self.tracking.log(run_id, tags={STAGE: TRAINED, **thresholds})
        record_training_images(self.tracking, run_id, self.category.manifest)
        trained = TrainedDetector("plate", DetectorSeed(method, 0), "f", run_id, reused=False)
        return evaluate_detector(trained, self.category, data=self.data, settings=self.settings)

    def begun(self, parent: str, method: str) -> str:
        """The run of a detector whose training has begun."""
        return self.tracking.start_run("plate", method, {METHOD: method, SEED: "0"}, parent)

    def reused(self, parent: str, result: DetectorResult, candidate: str | None = None) -> None:
        """Let a detector of an earlier retraining compete."""
        self.tracking.log(parent, tags={REUSED + (candidate or result.detector): result.run_id})

    def ended(self, parent: str, winner: DetectorResult) -> int:
        """The version of the winner, after the gate."""
        client = self.tracking.client
        if not client.search_registered_models():
            client.create_registered_model(NAME)
        source = str(self._package(winner.run_id))
        version = int(client.create_model_version(NAME, source, winner.run_id).version)
        judge_winner(
            Registration(version, created=True),
            Choice(winner, (winner,)),
            self.category,
            settings=self.settings,
        )
        ends = {WINNER: winner.detector, MODEL_VERSION: version, REGISTERED: "true"}
        self.tracking.log(parent, tags=ends)
        finish_retraining_run(self.settings, parent)
        return version

    def _package(self, run_id: str) -> Path:
        return self.folder / "packages" / run_id
