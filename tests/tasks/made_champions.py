"""Registered versions with real bundles and evaluations, without the fresh process of parity."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from made_detectors import examined, make_images, write_untrained_bundle
from mlflow import MlflowClient

from stillwatch.bundle import read_bundle, recalibrated
from stillwatch.settings import Settings
from tasks.evaluate import evaluate_detector
from tasks.model_package import log_detector_model
from tasks.registry import CHAMPION, model_name
from tasks.testset import png, read_test_set
from tasks.tracking import BUNDLE, REVIEW_THRESHOLD, STAGE, THRESHOLD, TRAINED, Tracking
from tasks.train import TrainedDetector


@dataclass(frozen=True)
class MadeCategory:
    """A category whose versions can be made at will."""

    folder: Path
    tracking: Tracking
    settings: Settings

    @property
    def client(self) -> MlflowClient:
        return self.tracking.client

    def register(self, *, alpha: float = 0.05) -> int:
        """A version of a patchcore, the same one each time but for its thresholds."""
        category, data = examined(self.folder, self.settings)
        made = Path(mkdtemp(prefix="stillwatch-tests-"))
        write_untrained_bundle(made / "whole", category, "f", self.settings, "patchcore")
        whole = read_bundle(made / "whole")
        bundle = recalibrated(whole, made / "bundle", alpha_reject=alpha, alpha_review=0.3)
        reject, review = bundle.info.calibration.reject, bundle.info.calibration.review
        tags = {THRESHOLD: repr(reject.value), REVIEW_THRESHOLD: repr(review.value)}
        name = model_name(self.folder.name)
        run_id = self.tracking.start_run(self.folder.name, "patchcore", tags | {STAGE: TRAINED})
        self.tracking.log_folder(run_id, bundle.folder, BUNDLE)
        trained = TrainedDetector(self.folder.name, "patchcore", "f", run_id, reused=False)
        evaluate_detector(trained, category, data=data, settings=self.settings)
        test = read_test_set(category, self.settings.evaluation)
        first = {test.defect_types.index(kind) for kind in set(test.defect_types)}
        example = [png(test.images[index]) for index in sorted(first)]
        model_id = log_detector_model(
            self.tracking, run_id, name=name, bundle=bundle.folder, example=example, tags=tags
        )
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(
            name,
            source=self.client.get_logged_model(model_id).artifact_location,
            run_id=run_id,
            model_id=model_id,
            tags=tags,
        )
        return int(version.version)

    def make_champion(self, version: int) -> None:
        name = model_name(self.folder.name)
        self.client.set_registered_model_alias(name, CHAMPION, str(version))


def made_category(folder: Path, tracking: Tracking, settings: Settings) -> MadeCategory:
    """A category of tiny images in ``folder``, of which nothing is registered yet."""
    make_images(folder)
    return MadeCategory(folder, tracking, settings)
