"""Checks: an expectation of Great Expectations with its texts for the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.row_conditions import Column

from stillwatch.images.manifest import ImageFacts
from stillwatch.tasks.validation.statistics import ImageStatistics

NORMALS = Column("defect_type") == "good"
IN_TEST = Column("split") == "test"
TEST_ANOMALIES = IN_TEST & (Column("defect_type") != "good")
IN_TRAIN = Column("split") == "train"


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
