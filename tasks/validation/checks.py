"""What a check is: a Great Expectation, and its words for people."""

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
    """What one failure says."""

    expected: str
    found: str
    related: str | None = None


@dataclass(frozen=True)
class ImageCheck:
    """An expectation on each image, over the columns of ``manifest_frame``."""

    name: str
    title: str
    """What is counted: faults, so that none is good."""
    advice: str
    """What to do about them."""
    expectation: Expectation
    describe: Callable[[ImageFacts, ImageStatistics], Wording]


@dataclass(frozen=True)
class CategoryCheck:
    """An expectation on one figure of the whole category; ``describe`` takes the one observed."""

    name: str
    title: str
    advice: str
    expectation: Expectation
    describe: Callable[[float], Wording]


Check = ImageCheck | CategoryCheck
