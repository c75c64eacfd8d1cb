"""Evaluate one trained detector, or read the evaluation that MLflow already holds."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.bundle import BundleInfo, read_bundle
from stillwatch.calibration import clopper_pearson
from stillwatch.evaluation.evaluation import (
    NORMAL,
    Evaluation,
    GroupRejections,
    TestImages,
    evaluate,
    inspect_test,
)
from stillwatch.files import write_json
from stillwatch.geometry import Shape
from stillwatch.images.decode import Pixels
from stillwatch.images.layout import section_of
from stillwatch.inference.inspector import Inspector
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.pull import category_here
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.gallery import GALLERY, write_shown_images
from stillwatch.tasks.evaluation.notes import evaluation_note
from stillwatch.tasks.evaluation.pictures import gallery_items, write_pictures
from stillwatch.tasks.evaluation.result import (
    RESULT_FILE,
    CorrectedAnomaly,
    DetectorResult,
    FeedbackResult,
    GroupResult,
    read_result,
)
from stillwatch.tasks.evaluation.scores import write_scores
from stillwatch.tasks.evaluation.test_set import (
    read_corrected_anomalies,
    read_part,
    read_test_set,
)
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures, milliseconds
from stillwatch.tasks.tracking.tags import EVALUATED, STAGE, SYNTHETIC
from stillwatch.tasks.training.slots import evaluation_device
from stillwatch.tasks.training.task import TrainedDetector
from stillwatch.tasks.validation.costs import measured_cost, record_cost
from stillwatch.tasks.validation.scenes import calibration_repeats

FROM_NORMALS_ONLY = ("false_alarm_rate", "review_rate")
"""Figures that are computed from normals alone."""
_REFUSED = r"[^\w.\- ]"
"""Characters that MLflow does not allow in the name of a metric."""


def evaluate_detector(
    trained: TrainedDetector, category: ExaminedCategory, *, data: DataVersion, settings: Settings
) -> DetectorResult:
    """Evaluate a detector on the test images and store the result in its run, once.

    Args:
        category: on which the detector was trained.
        data: the data version that ``category`` belongs to.

    Raises:
        StillwatchError: the bundle is damaged, or there is no usable test image.
    """
    tracking = open_tracking(settings)
    title = f"{trained.category}/{trained.candidate.name}"
    with exclusive(settings, f"evaluate-{trained.run_id}", f"evaluating {title}"):
        if tracking.tags(trained.run_id).get(STAGE) == EVALUATED:
            result = read_result(tracking, trained.run_id)
        else:
            here = category_here(category, data, settings)
            with (
                tracking.artifact(trained.run_id, BUNDLE) as bundle,
                tempfile.TemporaryDirectory(prefix="stillwatch-") as evidence,
            ):
                result = _evaluate(bundle, Path(evidence), trained, here, data, settings)
                _record(tracking, result, data, Path(evidence))
    return result.model_copy(update={"reused": trained.reused})


evaluate_task = task(
    name="evaluate",
    task_run_name="evaluate {trained.category}/{trained.candidate.name}",
    cache_policy=NO_CACHE,
)(evaluate_detector)


def named_metrics(result: DetectorResult) -> dict[str, float]:
    """All figures by their names in MLflow.

    Figures from synthetic anomalies have the prefix ``synthetic_``, so that no chart mixes them
    with others; the ends of an interval have the suffixes ``_low`` and ``_high``.
    """
    named = dict(result.metrics)
    for name, (low, high) in result.intervals.items():
        named |= {f"{name}_low": low, f"{name}_high": high}
    for defect, recall in result.recall_by_defect.items():
        named[f"recall/{re.sub(_REFUSED, '_', defect)}"] = recall
    for place, rate in result.false_alarms.items():
        if isinstance(rate, float):
            named[f"false_alarm_rate/{place}"] = rate
    if result.synthetic:
        named = {
            name if name.startswith(FROM_NORMALS_ONLY) else f"synthetic_{name}": value
            for name, value in named.items()
        }
    return named | feedback_metrics(result) | {"ms_per_image": result.ms_per_image}


def feedback_metrics(result: DetectorResult) -> dict[str, float]:
    """The figures of the corrected anomalies by their names in MLflow; empty without any."""
    feedback = result.feedback
    if feedback is None:
        return {}
    low, high = feedback.interval
    return {
        "feedback_images": len(feedback.images),
        "feedback_recall": feedback.recall,
        "feedback_recall_low": low,
        "feedback_recall_high": high,
    }


def _evaluate(
    bundle_folder: Path,
    evidence: Path,
    trained: TrainedDetector,
    category: ExaminedCategory,
    data: DataVersion,
    settings: Settings,
) -> DetectorResult:
    # Torch takes seconds to import, and reading a stored result does not need it.
    from stillwatch.inference.torch_scorer import load_scorer

    test = read_test_set(category, settings.evaluation)
    bundle = read_bundle(bundle_folder)
    corrected = read_corrected_anomalies(category)
    feedback = None
    with evaluation_device(settings) as device:
        inspector = Inspector(bundle, load_scorer(bundle, device))
        evaluation = evaluate(inspector, test, settings=settings.evaluation)
        if corrected is not None:
            feedback = _feedback(inspector, corrected, settings.evaluation.size)
    record_cost(
        settings,
        bundle.info.detector.name,
        measured_cost(
            bundle.info,
            settings.training,
            trained=_shapes(read_part(category, "train")),
            inspected=_shapes(test.images),
            ms_per_image=evaluation.ms_per_image,
        ),
    )
    repeats = calibration_repeats(category.manifest.rows)
    result = _result(trained, evaluation, feedback, bundle.info, data, repeats)
    write_json(evidence / RESULT_FILE, result.model_dump(mode="json"))
    write_scores(evidence, evaluation.rows)
    items = gallery_items(bundle.info, test, evaluation)
    write_pictures(evidence / "pictures", bundle.info, items, evaluation)
    write_shown_images(evidence / GALLERY, items, reject=result.threshold)
    return result


def _shapes(images: Sequence[Pixels]) -> list[Shape]:
    return [(image.shape[0], image.shape[1]) for image in images]


def _result(
    trained: TrainedDetector,
    evaluation: Evaluation,
    feedback: FeedbackResult | None,
    info: BundleInfo,
    data: DataVersion,
    repeats: int,
) -> DetectorResult:
    reject, review = info.calibration.reject, info.calibration.review
    sure = reject.without_repeats(repeats)
    return DetectorResult(
        category=trained.category,
        detector=trained.candidate.detector,
        fingerprint=trained.fingerprint,
        run_id=trained.run_id,
        data_version=data.dir_hash,
        synthetic=evaluation.synthetic,
        test_normals_from=_origin_of_normals(evaluation),
        normals=sum(not row["label"] for row in evaluation.rows),
        anomalies=sum(row["label"] for row in evaluation.rows),
        reviewed_anomalies=sum(
            row["label"] and row["verdict"] == "review" for row in evaluation.rows
        ),
        metrics=evaluation.metrics,
        intervals=evaluation.intervals,
        recall_by_defect=evaluation.recall_by_defect,
        false_alarms=dict(evaluation.false_alarms),
        normals_by_group=_by_group(evaluation.normals_by_group),
        anomalies_by_group=_by_group(evaluation.anomalies_by_group),
        feedback=feedback,
        outside_region=evaluation.outside_region,
        evaluation_size=evaluation.evaluation_size,
        threshold=reject.value,
        review_threshold=review.value,
        alpha=reject.alpha,
        alpha_review=review.alpha,
        n_calibration=reject.n,
        rank=reject.rank,
        calibration_groups=len(info.groups),
        calibration_repeats=repeats,
        bound=sure.bound,
        rate_95=sure.rate_95,
        train_seconds=info.training.seconds,
        ms_per_image=evaluation.ms_per_image,
        evaluated_at=milliseconds(),
    )


def _by_group(groups: Mapping[str, GroupRejections]) -> dict[str, GroupResult]:
    return {name: GroupResult(**vars(group)) for name, group in groups.items()}


def _feedback(inspector: Inspector, corrected: TestImages, size: int) -> FeedbackResult:
    rows = inspect_test(inspector, corrected, size).rows
    rejected = sum(row["verdict"] == "reject" for row in rows)
    return FeedbackResult(
        images=tuple(
            CorrectedAnomaly(
                path=row["path"],
                defect_type=row["defect_type"],
                score=row["score"],
                p_value=row["p_value"],
                verdict=row["verdict"],
            )
            for row in rows
        ),
        recall=rejected / len(rows),
        interval=clopper_pearson(rejected, len(rows)),
    )


def _record(tracking: Tracking, result: DetectorResult, data: DataVersion, evidence: Path) -> None:
    tracking.log_folder(result.run_id, evidence)
    tracking.log(
        result.run_id,
        metrics=figures(
            named_metrics(result),
            timestamp=result.evaluated_at,
            dataset=(result.category, data.dir_hash),
        ),
        tags={
            SYNTHETIC: str(result.synthetic).lower(),
            "stillwatch.test_normals_from": result.test_normals_from,
            "stillwatch.evaluation_size": result.evaluation_size,
            "mlflow.note.content": evaluation_note(result),
        },
    )
    tracking.log(result.run_id, tags={STAGE: EVALUATED})
    tracking.end_run(result.run_id, "FINISHED")


def _origin_of_normals(evaluation: Evaluation) -> str:
    normals = [row["path"] for row in evaluation.rows if row["defect_type"] == NORMAL]
    return "validation" if any(section_of(path) == "train" for path in normals) else "test"
