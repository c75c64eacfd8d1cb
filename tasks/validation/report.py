"""The outcome of the checks of one category, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stillwatch.errors import ValidationError
from stillwatch.tasks.validation.advice import ScaleAdvice
from stillwatch.text import counted, printable

Severity = Literal["critical", "warning"]

NAMED_IN_REASON = 5


@dataclass(frozen=True)
class Failure:
    """One failed expectation, of an image or of the whole category."""

    check: str
    severity: Severity
    path: str | None
    """The image, relative to the category's folder; None: the whole category."""
    expected: str
    found: str
    related: str | None = None
    """A second file to show: the other image of a pair, or the mask."""


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of one check of the suite."""

    name: str
    title: str
    advice: str
    severity: Severity
    state: Literal["passed", "failed", "broke"]
    failures: int
    on_images: bool
    """Whether ``failures`` counts images; else it is 0 or 1 for the whole category."""

    @property
    def tally(self) -> str:
        """The number of failures as text; ``yes`` for a failure of the whole category."""
        if self.state == "broke":
            return "broke"
        if not self.failures:
            return "none"
        return str(self.failures) if self.on_images else "yes"


@dataclass(frozen=True)
class ReportedRegion:
    """The region of interest of a category."""

    file: str
    """``region.png`` or ``ignore.png``."""
    share: float
    """Share of the pixels that count, in (0, 1]."""
    image: str | None
    """A normal of the region's size to show it on, relative to the category's folder."""

    def sentence(self) -> str:
        """What the file means for the pixels."""
        if self.share == 1:
            return f"{self.file}: all pixels count, as without the file."
        return (
            f"{self.file}: {self.share:.1%} of the pixels count. A defect elsewhere is never "
            "found, and no pixel elsewhere is in a figure."
        )


@dataclass(frozen=True)
class ValidationReport:
    """The outcome of all checks of one category."""

    category: str
    failures: tuple[Failure, ...]
    """Critical failures first, then in the order of the suite and of the paths."""
    errored: tuple[str, ...]
    """One sentence per broken check; a broken check says nothing about the images."""
    outcomes: tuple[CheckOutcome, ...]
    facts: Mapping[str, Mapping[str, int]]
    """Numbers of images: per ``split``, per ``part``, per ``defect_type`` of test, per defect type
    in ``feedback``, and per defect type with a ``mask``."""
    region: ReportedRegion | None = None
    """None: there is none, or it cannot be used."""
    scale: ScaleAdvice | None = None
    """None: no training image can be decoded."""

    @property
    def passed(self) -> bool:
        """Whether the category may be trained on: no critical failure and no broken check."""
        return not self.errored and not self.of_severity("critical")

    def of_severity(self, severity: Severity) -> tuple[Failure, ...]:
        """The failures of one severity, in report order."""
        return tuple(failure for failure in self.failures if failure.severity == severity)

    def of_check(self, name: str) -> tuple[Failure, ...]:
        """The failures of one check, in report order."""
        return tuple(failure for failure in self.failures if failure.check == name)

    def verdict(self) -> str:
        """A summary in one line."""
        counts = {
            "critical failure": len(self.of_severity("critical")),
            "broken check": len(self.errored),
            "warning": len(self.of_severity("warning")),
        }
        found = ", ".join(counted(count, noun) for noun, count in counts.items() if count)
        if not self.passed:
            return f"{self.category} must not be trained on: {found}"
        return f"{self.category} is ready for training" + (f", with {found}" if found else "")

    def reason(self) -> str:
        """Why the category must not be trained on, with the files' names; empty if it may."""
        critical = self.of_severity("critical")
        named = [_one_line(failure) for failure in critical[:NAMED_IN_REASON]]
        if len(critical) > NAMED_IN_REASON:
            named.append(f"and {len(critical) - NAMED_IN_REASON} more critical failures")
        return "; ".join([*self.errored, *named])

    def raise_if_failed(self) -> None:
        """Raise an error unless the category passed.

        Raises:
            ValidationError: a critical check failed, or a check broke.
        """
        if not self.passed:
            raise ValidationError(f"{self.category}: {self.reason()}.")


def _one_line(failure: Failure) -> str:
    subject = f"{printable(failure.path)}: " if failure.path is not None else ""
    return f"{subject}{failure.found} (expected {failure.expected})"
