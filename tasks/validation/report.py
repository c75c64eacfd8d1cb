"""What the image-set checks found: plain data, read by the flow, the page and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stillwatch.errors import ValidationError
from stillwatch.text import printable

Severity = Literal["critical", "warning"]

NAMED_IN_REASON = 5


@dataclass(frozen=True)
class Failure:
    """One thing that is not as it should be."""

    check: str
    severity: Severity
    path: str | None
    """The image, relative to the category folder; None when the whole category is meant."""
    expected: str
    found: str
    related: str | None = None
    """A second file that shows what is meant: the other one of a pair, or the mask."""


@dataclass(frozen=True)
class CheckOutcome:
    """One check of the suite, whether or not anything failed it."""

    name: str
    title: str
    advice: str
    severity: Severity
    state: Literal["passed", "failed", "broke"]
    failures: int
    on_images: bool
    """Whether ``failures`` counts images; else it is 1 for the whole category."""

    @property
    def tally(self) -> str:
        """The failures in a word: their number, or 'yes' where the category itself fails."""
        if self.state == "broke":
            return "broke"
        if not self.failures:
            return "none"
        return str(self.failures) if self.on_images else "yes"


@dataclass(frozen=True)
class ValidationReport:
    """The verdict on one category's images."""

    category: str
    failures: tuple[Failure, ...]
    """Critical ones first, then in the order of the suite and of the paths."""
    errored: tuple[str, ...]
    """One sentence per check that broke: it says nothing about the images."""
    outcomes: tuple[CheckOutcome, ...]
    facts: Mapping[str, Mapping[str, int]]
    """Images per ``split``, per ``part``, per ``defect_type`` (in test and in ``feedback``), with a
    ``mask``."""

    @property
    def passed(self) -> bool:
        """Whether the category may be trained on: nothing critical failed and no check broke."""
        return not self.errored and not self.of_severity("critical")

    def of_severity(self, severity: Severity) -> tuple[Failure, ...]:
        """The failures of one severity, in report order."""
        return tuple(failure for failure in self.failures if failure.severity == severity)

    def of_check(self, name: str) -> tuple[Failure, ...]:
        """The failures of one check, in report order."""
        return tuple(failure for failure in self.failures if failure.check == name)

    def verdict(self) -> str:
        """The whole report in one line."""
        counts = [
            _count(len(self.of_severity("critical")), "critical failure"),
            _count(len(self.errored), "broken check"),
            _count(len(self.of_severity("warning")), "warning"),
        ]
        found = ", ".join(count for count in counts if count)
        if not self.passed:
            return f"{self.category} must not be trained on: {found}"
        return f"{self.category} is ready for training" + (f", with {found}" if found else "")

    def reason(self) -> str:
        """One sentence on why the category must not be trained on, files named; '' if it may be."""
        critical = self.of_severity("critical")
        named = [_one_line(failure) for failure in critical[:NAMED_IN_REASON]]
        if len(critical) > NAMED_IN_REASON:
            named.append(f"and {len(critical) - NAMED_IN_REASON} more critical failures")
        return "; ".join([*self.errored, *named])

    def raise_if_failed(self) -> None:
        """Stop this category.

        Raises:
            ValidationError: a critical check failed, or a check broke.
        """
        if not self.passed:
            raise ValidationError(f"{self.category}: {self.reason()}.")


def _one_line(failure: Failure) -> str:
    subject = f"{printable(failure.path)}: " if failure.path is not None else ""
    return f"{subject}{failure.found} (expected {failure.expected})"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}" if number else ""
