"""Checks: an expectation of Great Expectations with its texts for the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import Column

from stillwatch.images.manifest import ImageFacts
from stillwatch.tasks.validation.report import Severity
from stillwatch.tasks.validation.statistics import ImageStatistics
from stillwatch.text import printable, some_of

NORMALS = Column("defect_type") == "good"
IN_TEST = Column("split") == "test"
TEST_ANOMALIES = IN_TEST & (Column("defect_type") != "good")
IN_TRAIN = Column("split") == "train"

_NAMED = 5


class Wording(NamedTuple):
    """The text of one failure."""

    expected: str
    found: str
    related: str | None = None


@dataclass(frozen=True)
class ImageCheck:
    """An expectation on each image, over the columns of ``manifest_frame``."""

    name: str
    title: str
    """Name of the fault that is counted."""
    advice: str
    """What to do about the fault."""
    expectation: Expectation
    describe: Callable[[ImageFacts, ImageStatistics], Wording]


@dataclass(frozen=True)
class CategoryCheck:
    """An expectation on one figure of the category; ``describe`` takes the observed figure."""

    name: str
    title: str
    advice: str
    expectation: Expectation
    describe: Callable[[float], Wording]


Check = ImageCheck | CategoryCheck


def empty(column: str, severity: Severity, condition: object = None) -> Expectation:
    """Expect no value in the column of any image."""
    return gxe.ExpectColumnValuesToBeNull(column=column, row_condition=condition, severity=severity)


def between(
    column: str, severity: Severity, *, condition: object = None, **limits: float
) -> Expectation:
    """Expect a value from ``min_value`` to ``max_value``, if any, in the column of each image."""
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, row_condition=condition, severity=severity, **limits
    )


def equal(column: str, other: str) -> Expectation:
    """Expect the same value in both columns of each image that has a value in both; critical."""
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=column,
        column_B=other,
        ignore_row_if="either_value_is_missing",
        severity="critical",
    )


def some_images(column: str, condition: object) -> Expectation:
    """Expect a value in the column of at least one image."""
    return gxe.ExpectColumnUniqueValueCountToBeBetween(
        column=column, min_value=1, row_condition=condition, severity="warning"
    )


def no_value(column: str, severity: Severity) -> Expectation:
    """Expect no value in a column that has the same value for each image of the category."""
    return gxe.ExpectColumnUniqueValueCountToBeBetween(
        column=column, max_value=0, severity=severity
    )


def named(paths: Sequence[str]) -> str:
    """The first five files, and how many more there are."""
    return some_of(list(map(printable, paths)), _NAMED)


def reason_of(error: str | None, path: str | None) -> str:
    """The message of an ImageError without the file's name, which the failure has already."""
    return printable((error or "").split(f"{path}: ", 1)[-1].rstrip("."))


def printable_name(path: str | None) -> str:
    """The path, safe to print; empty without one."""
    return printable(path or "")
