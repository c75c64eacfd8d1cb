"""Run the checks of a manifest as a Great Expectations checkpoint; word the results.

Importing this module imports Great Expectations, which takes three seconds: import it inside the
function that uses it.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig

from stillwatch.images.layout import is_feedback
from stillwatch.images.manifest import Manifest
from stillwatch.tasks.validation.advice import ScaleAdvice
from stillwatch.tasks.validation.checks import Check, ImageCheck, Wording
from stillwatch.tasks.validation.report import (
    CheckOutcome,
    Failure,
    ReportedRegion,
    ValidationReport,
)
from stillwatch.tasks.validation.statistics import CategoryStatistics, is_normal, size_text
from stillwatch.text import printable

# This logger announces a documentation site that is never built.
logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)

_ONE_AT_A_TIME = threading.Lock()
"""Great Expectations keeps its current context in a global variable."""

_TEXTS_OF_ROW = ("path", "split", "part", "defect_type", "decode_error", "mode")
_TEXTS_OF_IMAGE = ("unsafe_name", "refused_by_windows", "size", "earlier_copy", "mask_size")
_NUMBERS_OF_ROW = ("pages", "turned_from_region", "mask_area", "mask_area_in_region", "mask_values")
_NUMBERS_OF_IMAGE = ("shortest_side", "sharpness_z", "exposure_z", "clipped", "light")
"""The columns of the frame that are attributes of ``ImageFacts`` or ``ImageStatistics``."""


@dataclass(frozen=True)
class Judgement:
    """The result of one check."""

    success: bool
    paths: frozenset[str]
    """The images that fail, by the frame's column ``path``."""
    observed: float | None
    """The observed figure of the whole category; None for a check of images."""
    error: str | None
    """Why the expectation itself raised an error; it then says nothing about the images."""


def manifest_frame(
    manifest: Manifest, statistics: CategoryStatistics, advice: ScaleAdvice | None = None
) -> pd.DataFrame:
    """The manifest as the data frame of the checkpoint, one row per image.

    Texts (object columns), including ``path``, are escaped by ``printable``: pandas stores strings
    in Arrow, which refuses names that are not UTF-8. Numbers are float64, missing ones NaN.
    """
    rows = manifest.rows
    images = [statistics.images[row.path] for row in rows]
    versioned = any(row.expected_md5 for row in rows)
    region = manifest.region
    scale = advice.chosen if advice else None
    shown = statistics.scenes.counted(rows)
    repeated = statistics.scenes.sentence()
    texts: dict[str, list[str | None]] = {
        **{name: [getattr(row, name) for row in rows] for name in _TEXTS_OF_ROW},
        **{name: [getattr(image, name) for image in images] for name in _TEXTS_OF_IMAGE},
        "md5": [row.md5 or None for row in rows],
        "recorded_md5": [(row.expected_md5 or "") if versioned else None for row in rows],
        "copies_in_train": ["; ".join(image.copies_in_train) or None for image in images],
        "copies_in_test": ["; ".join(image.copies_in_test) or None for image in images],
        "shown": [shown[row.path] for row in rows],
        "repeated": [repeated for _ in rows],
        "near_in_train": [
            "; ".join(n.path for n in image.near_in_train) or None for image in images
        ],
        "mask": [row.mask for row in rows],
        "mask_error": [row.mask_error for row in rows],
        "mask_doubt": [row.mask_doubt for row in rows],
        "stray_masks": ["; ".join(manifest.stray_masks) or None for _ in rows],
        "unread_images": ["; ".join(manifest.unread_images) or None for _ in rows],
        "litter": ["; ".join(manifest.litter) or None for _ in rows],
        "region_error": [region.error if region else None for _ in rows],
        "region_size": [size_text(region.width, region.height) if region else None for _ in rows],
    }
    numbers: dict[str, list[float | None]] = {
        **{name: [getattr(row, name) for row in rows] for name in _NUMBERS_OF_ROW},
        **{name: [getattr(image, name) for image in images] for name in _NUMBERS_OF_IMAGE},
        "above_white": [row.above_white and row.above_white[2] for row in rows],
        "seen_defect": [scale.seen_side if scale else None for _ in rows],
    }
    columns = {
        name: pd.Series([v if v is None else printable(v) for v in values], dtype=object)
        for name, values in texts.items()
    }
    columns |= {name: pd.Series(values, dtype="float64") for name, values in numbers.items()}
    return pd.DataFrame(columns)


def run_checkpoint(frame: pd.DataFrame, suite: Sequence[Check]) -> dict[str, Judgement]:
    """Run all checks of ``suite`` in one checkpoint; return check name -> judgement."""
    for check in suite:
        check.expectation.meta = {"check": check.name}
    with _ONE_AT_A_TIME:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        data = (
            context.data_sources.add_pandas("images")
            .add_dataframe_asset(name="manifest")
            .add_batch_definition_whole_dataframe("category")
        )
        expectations = [check.expectation for check in suite]
        definition = gx.ValidationDefinition(
            name="image set",
            data=data,
            suite=context.suites.add(
                gx.ExpectationSuite(name="image set", expectations=expectations)
            ),
        )
        checkpoint = gx.Checkpoint(
            name="image set",
            validation_definitions=[context.validation_definitions.add(definition)],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": ["path"],
            },
        )
        ran = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    (validated,) = ran.run_results.values()
    return {
        result.expectation_config.meta["check"]: _judgement(result) for result in validated.results
    }


def build_report(
    manifest: Manifest,
    statistics: CategoryStatistics,
    suite: Sequence[Check],
    judgements: Mapping[str, Judgement],
    advice: ScaleAdvice | None = None,
) -> ValidationReport:
    """Turn the judgements into a report, which distinguishes broken checks from failed images."""
    failures: list[Failure] = []
    errored: list[str] = []
    outcomes: list[CheckOutcome] = []
    for check in suite:
        judgement = judgements[check.name]
        error = judgement.error
        found = [] if error else _failures(check, judgement, manifest, statistics)
        if not judgement.success and not found:
            error = error or "it failed without naming an image or a figure"
        if error:
            errored.append(f"check {check.name} broke: {error}")
        failures += found
        outcomes.append(
            CheckOutcome(
                name=check.name,
                title=check.title,
                advice=check.advice,
                severity=check.expectation.severity.value,
                state="broke" if error else "failed" if found else "passed",
                failures=len(found),
                on_images=isinstance(check, ImageCheck),
            )
        )
    return ValidationReport(
        category=manifest.category,
        failures=tuple(sorted(failures, key=lambda failure: failure.severity != "critical")),
        errored=tuple(errored),
        outcomes=tuple(outcomes),
        facts=_facts(manifest),
        region=_region(manifest),
        scale=advice,
    )


def _region(manifest: Manifest) -> ReportedRegion | None:
    """The region of interest and an image to show it on; None without one that can be used."""
    region = manifest.region
    if region is None or region.share is None or region.error is not None:
        return None
    size = (region.width, region.height)
    shown = (
        row.path for row in manifest.rows if is_normal(row) and (row.width, row.height) == size
    )
    return ReportedRegion(region.path, region.share, next(shown, None))


def _judgement(result: ExpectationValidationResult) -> Judgement:
    unexpected = result.result.get("unexpected_index_list") or []
    observed = result.result.get("observed_value")
    return Judgement(
        success=bool(result.success),
        paths=frozenset(row["path"] for row in unexpected),
        observed=None if observed is None else float(observed),
        error=_error(result.exception_info or {}),
    )


def _error(exception_info: Mapping[str, object]) -> str | None:
    """The first message of an exception_info, which has one exception, or one per metric."""
    raised = [exception_info, *exception_info.values()]
    for info in raised:
        if isinstance(info, Mapping) and info.get("raised_exception"):
            return " ".join(str(info.get("exception_message")).split())
    return None


def _failures(
    check: Check, judgement: Judgement, manifest: Manifest, statistics: CategoryStatistics
) -> list[Failure]:
    if judgement.success:
        return []
    if isinstance(check, ImageCheck):
        return [
            _failure(check, row.path, check.describe(row, statistics.images[row.path]))
            for row in manifest.rows
            if printable(row.path) in judgement.paths
        ]
    if judgement.observed is None:
        return []
    return [_failure(check, None, check.describe(judgement.observed))]


def _failure(check: Check, path: str | None, wording: Wording) -> Failure:
    return Failure(
        check=check.name,
        severity=check.expectation.severity.value,
        path=path,
        expected=wording.expected,
        found=wording.found,
        related=wording.related,
    )


def _facts(manifest: Manifest) -> dict[str, dict[str, int]]:
    test = [row for row in manifest.rows if row.split == "test"]
    return {
        "split": dict(Counter(row.split for row in manifest.rows)),
        "part": dict(Counter(row.part for row in manifest.rows)),
        "defect_type": dict(Counter(row.defect_type for row in test)),
        "feedback": dict(
            Counter(row.defect_type for row in manifest.rows if is_feedback(row.path))
        ),
        "mask": dict(Counter(row.defect_type for row in test if row.mask and not is_normal(row))),
    }
