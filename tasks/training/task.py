"""Train one detector on one category, unless MLflow already holds the trained detector."""

import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.bundle import REGION_FILE, Bundle, TeacherInfo, read_bundle, recalibrated
from stillwatch.detectors import detector_class, detector_settings
from stillwatch.errors import BundleError, DeviceMemoryError, LayoutError, TrackingError
from stillwatch.images.manifest import RegionFacts
from stillwatch.images.photographs import photographs_digest
from stillwatch.images.region import Region
from stillwatch.images.split import PARTS
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.pull import category_here
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures, flattened, training_data
from stillwatch.tasks.tracking.tags import (
    EVALUATION,
    FINGERPRINT,
    METHOD,
    PARENT,
    REGION,
    SEED,
    STAGE,
    TRAINED,
    threshold_tags,
)
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.fingerprint import evaluation_key, find_finished_run, fingerprint
from stillwatch.tasks.training.losses import EpochLog
from stillwatch.tasks.training.memory_retry import as_last_tried, halved_batch, with_half_batch
from stillwatch.tasks.training.progress import visible_progress
from stillwatch.tasks.training.retraining_run import REUSED, data_tags
from stillwatch.tasks.training.slots import evaluation_device, training_device, training_threads
from stillwatch.tasks.training.training_images import record_training_images
from stillwatch.tasks.validation.scenes import calibration_repeats
from stillwatch.teachers.networks import NO_TEACHER
from stillwatch.teachers.weights import find_weights
from stillwatch.training.job import EpochReport, TrainingJob, run_training


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector, whose bundle is in an MLflow run."""

    category: str
    candidate: DetectorSeed
    fingerprint: str
    run_id: str
    reused: bool
    """Trained by an earlier retraining."""


@dataclass(frozen=True)
class _Plan:
    """A training job with the fingerprint and origin under which MLflow keeps the result."""

    category: ExaminedCategory
    candidate: DetectorSeed
    data: DataVersion
    job: TrainingJob
    method_version: int
    teacher: TeacherInfo
    evaluation: str
    settings: Settings

    @property
    def title(self) -> str:
        return f"{self.job.category}/{self.candidate.name}"


def train_detector(
    category: ExaminedCategory,
    candidate: DetectorSeed,
    *,
    data: DataVersion,
    settings: Settings,
    parent_run: str | None = None,
    force: bool = False,
) -> TrainedDetector:
    """Train, calibrate and upload one detector, unless MLflow already holds it.

    The training runs in a child process. Concurrent calls for the same detector train once; a call
    after a killed one continues from the checkpoint.

    Args:
        category: to train on; its manifest assigns the images to parts.
        candidate: the detector and its seed, which replaces ``training.seed``.
        data: the data version that ``category`` belongs to.
        parent_run: MLflow run of the whole retraining.
        force: train even if MLflow holds the same detector.

    Raises:
        StillwatchError: unknown detector, missing teacher, failed training, or too few calibration
            images for an alpha.
    """
    plan = _plan(category, candidate, data, settings)
    tracking = open_tracking(settings)
    with exclusive(settings, f"train-{plan.job.fingerprint}", f"training {plan.title}"):
        if force:
            _remove_local_files(plan.job)
        elif (run_id := _finished_run(tracking, plan, plan.evaluation)) is not None:
            if parent_run is not None:
                tracking.log(parent_run, tags={f"{REUSED}{candidate.name}": run_id})
            return _trained(plan, run_id, reused=True)
        tags = _first_tags(plan)
        if parent_run is not None:
            _end_abandoned_run(tracking, plan.job, parent_run)
        run_id = tracking.start_run(plan.job.category, candidate.name, tags, parent_run)
        try:
            reused = _fill_run(tracking, run_id, plan, force=force)
        except BaseException as error:
            with suppress(TrackingError):
                tracking.fail_run(run_id, error)
            raise
        _remove_local_files(plan.job)
    return _trained(plan, run_id, reused=reused)


train_task = task(
    name="train",
    task_run_name="train {category.version.name}/{candidate.name}",
    cache_policy=NO_CACHE,
)(train_detector)


def _plan(
    category: ExaminedCategory, candidate: DetectorSeed, data: DataVersion, settings: Settings
) -> _Plan:
    version, manifest, detector = category.version, category.manifest, candidate.detector
    method = detector_class(detector)
    values = detector_settings(detector, settings)
    own = values.model_dump(mode="json")
    strides = method.teacher_strides(settings.teacher.name, own)
    teacher = TeacherInfo(name=NO_TEACHER, digest="")
    if strides:
        weights = find_weights(settings.teacher)
        teacher = TeacherInfo(name=weights.name, digest=weights.sha256)
    geometry = category.geometry
    if geometry is None:
        raise LayoutError(
            f"{version.name}: a file cannot be read, so nothing can be trained. "
            f"'stillwatch validate {version.name}' names the file."
        )
    folder = settings.training.photographs
    identity = fingerprint(
        training_digest=version.training_digest,
        detector=detector,
        method_version=method.version,
        detector_settings=own,
        seed=candidate.seed,
        tiles_per_epoch=settings.training.largest_epoch(geometry.tile),
        geometry=geometry.model_dump(mode="json"),
        white_level=manifest.white_level,
        teacher=teacher.name,
        teacher_digest=teacher.digest,
        photographs=photographs_digest(folder) if folder and method.uses_photographs(own) else None,
    )
    folder_of = settings.state_dir / "trainings" / identity
    job = TrainingJob(
        category=version.name,
        detector=detector,
        detector_settings=own,
        teacher=settings.teacher,
        training=settings.training.model_copy(update={"seed": candidate.seed}),
        calibration=settings.calibration,
        white_level=manifest.white_level,
        store=category.store,
        parts={part: tuple(r.path for r in manifest.rows if r.part == part) for part in PARTS},
        region=None,  # written before the training
        groups={r.path: r.group for r in manifest.rows if r.group and r.part in PARTS},
        checkpoint=folder_of / "checkpoint",
        shared=settings.state_dir / "shared_phases",
        bundle=folder_of / BUNDLE,
        fingerprint=identity,
        provenance={
            "data_version": data.dir_hash,
            "git_commit": data.commit,
            "category_digest": version.digest,
            "training_digest": version.training_digest,
        },
    )
    evaluation = evaluation_key(settings, version.test_digest)
    return _Plan(category, candidate, data, job, method.version, teacher, evaluation, settings)


def _end_abandoned_run(tracking: Tracking, job: TrainingJob, parent_run: str) -> None:
    """End the open run of this training on a machine that died, after Ray moved the training."""
    same = {FINGERPRINT: job.fingerprint, PARENT: parent_run}
    for run in tracking.find_runs(job.category, same):
        if run.info.status == "RUNNING":
            tracking.end_run(run.info.run_id, "KILLED")


def _finished_run(tracking: Tracking, plan: _Plan, evaluation: str | None = None) -> str | None:
    return find_finished_run(tracking, plan.job.category, plan.job.fingerprint, evaluation)


def _fill_run(tracking: Tracking, run_id: str, plan: _Plan, *, force: bool) -> bool:
    """Store a bundle in the run; return whether an earlier retraining trained it."""
    tracking.log(run_id, params=_params(plan))
    image_set = training_data(
        name=plan.job.category,
        digest=plan.data.dir_hash,
        folder=plan.data.root / plan.job.category,
        profile={part: len(paths) for part, paths in plan.job.parts.items()},
    )
    tracking.log_data(run_id, image_set)
    losses = EpochLog(tracking, run_id)
    earlier = None if force else _finished_run(tracking, plan)
    if earlier is not None:
        with tracking.artifact(earlier, BUNDLE) as folder:
            _record(tracking, run_id, plan, read_bundle(folder), losses)
        tracking.log(run_id, tags={"stillwatch.recalibrated_from": earlier})
        return True
    bundle = _bundle_not_uploaded(plan.job)
    if bundle is None:
        bundle = _run(plan, run_id, tracking, losses)
    _record(tracking, run_id, plan, bundle, losses)
    return False


def _run(plan: _Plan, run_id: str, tracking: Tracking, losses: EpochLog) -> Bundle:
    here = category_here(plan.category, plan.data, plan.settings)
    region = _write_region(here, plan.job.bundle.with_name(REGION_FILE))
    with (
        training_device(plan.settings) as device,
        visible_progress(plan.settings.state_dir, plan.title) as show,
    ):
        job = as_last_tried(
            plan.job.model_copy(update={"store": here.store, "region": region}).on_device(device)
        )

        def on_epoch(epoch: EpochReport) -> None:
            losses.add(epoch.phase, epoch.epoch, epoch.train_loss, epoch.validation_loss)
            show(epoch)

        train = partial(run_training, on_epoch=on_epoch, threads=training_threads(plan.settings))
        try:
            peak_memory_bytes = train(job)
        except DeviceMemoryError as error:
            smaller = with_half_batch(job, error)
            change = halved_batch(job, smaller.detector_settings)
            logging.getLogger(__name__).warning("%s Retrying with %s.", error, change)
            losses.start_over()
            peak_memory_bytes = train(smaller)
    bundle = read_bundle(plan.job.bundle)
    tracking.log(
        run_id,
        metrics=figures({"peak_memory_megabytes": peak_memory_bytes / 2**20}),
        tags={"stillwatch.resumed": str(bundle.info.training.resumed).lower()},
    )
    return bundle


def _bundle_not_uploaded(job: TrainingJob) -> Bundle | None:
    """The bundle that an earlier call trained but could not upload."""
    try:
        bundle = read_bundle(job.bundle)
    except BundleError:
        return None
    return bundle if bundle.info.fingerprint == job.fingerprint else None


def _record(tracking: Tracking, run_id: str, plan: _Plan, bundle: Bundle, losses: EpochLog) -> None:
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        bundle = _with_region(bundle, plan, Path(folder))
        bundle = _with_alphas(bundle, plan.job, Path(folder) / BUNDLE)
        info = bundle.info
        for epoch in info.training.losses:
            losses.add(epoch.phase, epoch.epoch, epoch.train_loss, epoch.validation_loss)
        losses.flush()
        tracking.log_folder(run_id, bundle.folder, BUNDLE)
    record_training_images(tracking, run_id, plan.category.manifest)
    reject, review = info.calibration.reject, info.calibration.review
    sure = reject.without_repeats(calibration_repeats(plan.category.manifest.rows))
    halved = halved_batch(plan.job, info.detector.settings)
    tracking.log(
        run_id,
        metrics=figures(
            {
                "threshold": reject.value,
                "review_threshold": review.value,
                "train_seconds": info.training.seconds,
                **info.training.figures,
            }
        ),
        tags={
            STAGE: TRAINED,
            **threshold_tags(reject.value, review.value),
            "stillwatch.n": reject.n,
            "stillwatch.bound": f"{sure.bound:.6g}",
            "stillwatch.rate_95": f"{sure.rate_95:.6g}",
            "stillwatch.device": info.training.device,
            **({"stillwatch.batch_halved": halved} if halved else {}),
        },
    )


def _with_region(bundle: Bundle, plan: _Plan, folder: Path) -> Bundle:
    """The bundle with the category's region of interest, which may have changed since."""
    if _same_region(bundle, plan.category.manifest.region):
        return bundle
    # Rarely needed, and torch takes seconds to import.
    from stillwatch.training.rescoring import rescored

    here = category_here(plan.category, plan.data, plan.settings)
    region = _write_region(here, folder / REGION_FILE)
    with evaluation_device(plan.settings) as device:
        return rescored(
            bundle,
            folder / "rescored",
            region=region,
            store=here.store,
            parts=plan.job.parts,
            device=device,
        )


def _same_region(bundle: Bundle, facts: RegionFacts | None) -> bool:
    """Whether they are equal, without the category's file, which may be on another machine."""
    if facts is None or bundle.info.region is None:
        return facts is None and bundle.info.region is None
    return Region.load(bundle.folder / REGION_FILE).digest == facts.digest


def _write_region(category: ExaminedCategory, file: Path) -> Path | None:
    region = category.read_region()
    if region is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    region.save(file)
    return file


def _with_alphas(bundle: Bundle, job: TrainingJob, folder: Path) -> Bundle:
    """The bundle with the job's false-alarm rates and groups, which may have changed since."""
    wanted, info = job.calibration, bundle.info
    alphas = (info.calibration.reject.alpha, info.calibration.review.alpha)
    same_alphas = alphas == (wanted.alpha_reject, wanted.alpha_review)
    if same_alphas and info.groups == job.calibration_groups:
        return bundle
    return recalibrated(
        bundle,
        folder,
        alpha_reject=wanted.alpha_reject,
        alpha_review=wanted.alpha_review,
        groups=job.calibration_groups,
    )


def _trained(plan: _Plan, run_id: str, *, reused: bool) -> TrainedDetector:
    job = plan.job
    if reused:
        logging.getLogger(__name__).info("%s: reused from MLflow run %s.", plan.title, run_id)
    return TrainedDetector(job.category, plan.candidate, job.fingerprint, run_id, reused)


def _remove_local_files(job: TrainingJob) -> None:
    """Remove the checkpoint and the bundle that are kept until the bundle is uploaded."""
    shutil.rmtree(job.bundle.parent, ignore_errors=True)


def _first_tags(plan: _Plan) -> dict[str, str]:
    job, region = plan.job, plan.category.manifest.region
    return {
        **data_tags(plan.category.version, plan.data),
        **({REGION: region.digest} if region and region.digest else {}),
        FINGERPRINT: job.fingerprint,
        EVALUATION: plan.evaluation,
        METHOD: job.detector,
        SEED: str(job.training.seed),
        "stillwatch.method_version": str(plan.method_version),
        "stillwatch.teacher": plan.teacher.name,
        "stillwatch.teacher_digest": plan.teacher.digest,
        "stillwatch.alpha": str(job.calibration.alpha_reject),
        "stillwatch.alpha_review": str(job.calibration.alpha_review),
    }


def _params(plan: _Plan) -> dict[str, object]:
    job = plan.job
    return {
        "geometry": str(plan.category.geometry),
        "white_level": job.white_level,
        "teacher": plan.teacher.name,
        "seed": job.training.seed,
        "device": job.training.device,
        **flattened(job.calibration.model_dump(mode="json"), "calibration"),
        **flattened(job.detector_settings, job.detector),
        **{f"images.{part}": len(paths) for part, paths in job.parts.items()},
    }
