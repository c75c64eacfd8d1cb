"""Registered versions with real bundles and evaluations, without the fresh process of parity."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

from made_detectors import examined, make_images, write_untrained_bundle
from mlflow import MlflowClient

from stillwatch.bundle import Bundle, read_bundle, recalibrated
from stillwatch.evaluation.evaluation import NORMAL
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.task import evaluate_detector
from stillwatch.tasks.evaluation.test_set import read_test_set
from stillwatch.tasks.registry.model_package import log_detector_model
from stillwatch.tasks.registry.reload_record import record_reload
from stillwatch.tasks.registry.versions import CHAMPION, model_name
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import STAGE, TRAINED, threshold_tags
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.task import TrainedDetector
from stillwatch.tasks.training.training_images import record_training_images


@dataclass(frozen=True)
class MadeCategory:
    """A category of tiny images, and versions of a patchcore that differ in their thresholds."""

    folder: Path
    tracking: Tracking
    settings: Settings
    records_reload: bool = True
    """As a registration does; a version without the record is reloaded before a promotion."""

    @property
    def client(self) -> MlflowClient:
        return self.tracking.client

    @cached_property
    def examined(self) -> tuple[ExaminedCategory, DataVersion]:
        make_images(self.folder)
        return examined(self.folder, self.settings)

    @cached_property
    def bundle(self) -> Bundle:
        folder = Path(mkdtemp(prefix="stillwatch-tests-")) / "bundle"
        write_untrained_bundle(folder, self.examined[0], "f", self.settings, "patchcore")
        return read_bundle(folder)

    def register(self, *, alpha: float) -> int:
        """Calibrate, evaluate and register one more version."""
        folder = Path(mkdtemp(prefix="stillwatch-tests-")) / "bundle"
        bundle = recalibrated(self.bundle, folder, alpha_reject=alpha, alpha_review=0.3)
        calibration = bundle.info.calibration
        tags = threshold_tags(calibration.reject.value, calibration.review.value)
        run_id = self._evaluated_run(folder, tags)
        name = model_name(self.folder.name)
        model_id = log_detector_model(
            self.tracking,
            run_id,
            name=name,
            bundle=folder,
            example=self._example(),
            max_megapixels=self.settings.images.max_megapixels,
        )
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        source = self.client.get_logged_model(model_id).artifact_location
        version = self.client.create_model_version(
            name, source=source, run_id=run_id, model_id=model_id
        )
        if self.records_reload:
            package = Path(source.removeprefix("file://"))
            record_reload(self.tracking, version, package, "cpu", tolerance=0.0)
        return int(version.version)

    def make_champion(self, version: int) -> None:
        name = model_name(self.folder.name)
        self.client.set_registered_model_alias(name, CHAMPION, str(version))

    def _evaluated_run(self, bundle: Path, tags: dict[str, str]) -> str:
        category, data = self.examined
        name = self.folder.name
        run_id = self.tracking.start_run(name, "patchcore", tags | {STAGE: TRAINED})
        self.tracking.log_folder(run_id, bundle, BUNDLE)
        record_training_images(self.tracking, run_id, category.manifest)
        trained = TrainedDetector(name, DetectorSeed("patchcore", 0), "f", run_id, reused=False)
        evaluate_detector(trained, category, data=data, settings=self.settings)
        return run_id

    def _example(self) -> list[bytes]:
        test = read_test_set(self.examined[0], self.settings.evaluation)
        normal = [kind == NORMAL for kind in test.defect_types]
        rows = sorted((normal.index(True), normal.index(False)))
        return [(self.folder / test.paths[row]).read_bytes() for row in rows]
