"""The drift tests on images of the sample generator: false alarms, and how soon drift is found.

A detector scores fresh images of a sample category once: as they are, darkened, blurred, defective.
A repeat deals calibration and stream scores anew from the same scores, each image at most once, so
that they are exchangeable by construction, and tests the stream. Scores are kept in the folder
``--out`` and are not computed again; prints tables and writes ``drift.json`` beside them.

    .venv/bin/python -m benchmarks.drift --out results/drift
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import complete, read_cells
from benchmarks.drift_scores import score_streams
from benchmarks.tables import markdown, origin
from stillwatch.calibration import clopper_pearson
from stillwatch.drift import StreamTests, run_stream_tests
from stillwatch.files import write_json
from stillwatch.sample.image_set import SUBJECTS
from stillwatch.settings import DriftSettings

BEGINNINGS = (1, 1_000, 10_000)
DEFECTIVE_SHARES = (0.01, 0.05)
DEFECTIVE_STREAM = 5_000
"""Images of the streams with a constant share of defective parts."""
TESTS = ("martingale", "windows", "first of both")
_PROBABILITY = DriftSettings().false_alarm_probability

Scores = NDArray[np.float64]


def main(arguments: Sequence[str]) -> None:
    """Score what is not scored yet, repeat, print, write."""
    given = _parser().parse_args(arguments)
    settings = {
        "category": given.category,
        "detector": given.detector,
        "side": given.side,
        "unchanged": given.images + given.calibration,
        "changed": given.changed,
    }
    scores = given.out / "scores"
    complete(
        scores / f"{given.category}-{given.detector}.json",
        settings,
        partial(score_streams, settings),
    )
    (cell,) = (one for one in read_cells(scores) if one["settings"] == settings)
    deck = _Deck(cell, given.calibration)
    found = {
        "false_alarms": deck.false_alarms(given.quiet_repeats),
        "delays": deck.delays(given.repeats),
        "constant_defects": deck.constant_defects(given.repeats),
    }
    write_json(
        given.out / "drift.json",
        found | {"repeats": given.repeats, "quiet_repeats": given.quiet_repeats},
    )
    print(origin(f"python -m benchmarks.drift {shlex.join(arguments)}", [cell]))
    print("\n".join(["", *tables(found, given.repeats, given.quiet_repeats, given.changed)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--category", choices=list(SUBJECTS), default="plate")
    add("--detector", default="stfpm")
    add("--side", type=int, default=64, help="in pixels, at which images are scored")
    add("--images", type=int, default=10_000, help="of a stream without drift")
    add("--calibration", type=int, default=64, help="calibration normals")
    add("--changed", type=int, default=1_000, help="images of a stream after its drift began")
    add("--repeats", type=int, default=100)
    add("--quiet-repeats", type=int, default=2_000, help="of a stream without drift")
    add("--out", type=Path, required=True)
    return parser


class _Deck:
    """Scores that are dealt anew for every repeat."""

    def __init__(self, cell: Any, calibration: int) -> None:
        self._unchanged = np.array(cell["unchanged"])
        self._changed = {name: np.array(scores) for name, scores in cell["changed"].items()}
        self._defective = np.array(cell["defective"])
        self._calibration = calibration

    def false_alarms(self, repeats: int) -> dict[str, int]:
        """In how many repeats a stream without drift alarms, by test."""
        alarms = dict.fromkeys(TESTS, 0)
        for seed in range(repeats):
            tests = self._test(self._dealt(seed), seed)
            for test in TESTS:
                alarms[test] += _image_of_alarm(tests, test) is not None
        return alarms

    def delays(self, repeats: int) -> list[dict[str, Any]]:
        """For each change and beginning: images until the alarm, None where there is none."""
        return [
            {"change": change, "begin": begin, "test": test, "delays": delays}
            for change, scores in self._changed.items()
            for begin in BEGINNINGS
            if begin <= self._unchanged.size - self._calibration
            for test, delays in self._delays(scores, begin, repeats).items()
        ]

    def constant_defects(self, repeats: int) -> list[dict[str, Any]]:
        """Alarms in streams of which a constant share is defective, from the first image on."""
        rows = []
        length = min(DEFECTIVE_STREAM, self._unchanged.size - self._calibration)
        for share in DEFECTIVE_SHARES:
            alarms = 0
            for seed in range(repeats):
                rng = np.random.default_rng([seed, 1])
                dealt = self._dealt(seed)[: self._calibration + length]
                defective = rng.choice(self._defective, round(share * length), replace=False)
                places = rng.choice(length, defective.size, replace=False)
                dealt[self._calibration + places] = defective
                alarms += self._test(dealt, seed).alarm is not None
            rows.append({"share": share, "images": length, "alarms": alarms})
        return rows

    def _delays(self, changed: Scores, begin: int, repeats: int) -> dict[str, list[int | None]]:
        delays: dict[str, list[int | None]] = {test: [] for test in TESTS}
        for seed in range(repeats):
            before = self._dealt(seed)[: self._calibration + begin - 1]
            after = np.random.default_rng([seed, 2]).permutation(changed)
            tests = self._test(np.concatenate([before, after]), seed)
            for test in TESTS:
                image = _image_of_alarm(tests, test)
                false = image is None or image < begin
                delays[test].append(None if false else image - begin + 1)
        return delays

    def _dealt(self, seed: int) -> Scores:
        return np.random.default_rng([seed, 3]).permutation(self._unchanged)

    def _test(self, scores: Scores, seed: int) -> StreamTests:
        n = self._calibration
        return run_stream_tests(scores[n:], scores[:n], probability=_PROBABILITY, seed=seed)


def _image_of_alarm(tests: StreamTests, test: str) -> int | None:
    images = [alarm.image for alarm in tests.alarms if test in (alarm.test, TESTS[-1])]
    return min(images, default=None)


def tables(found: dict[str, Any], repeats: int, quiet: int, changed: int) -> Iterable[str]:
    """The lines of three tables in Markdown."""
    budgets = (_PROBABILITY, _PROBABILITY, 2 * _PROBABILITY)
    yield from markdown(
        ["test", "promised at most", f"alarms in {quiet:,} streams", "95 % interval of the share"],
        [
            [
                test,
                f"{budget:.0%}",
                str(found["false_alarms"][test]),
                _interval(found, test, quiet),
            ]
            for test, budget in zip(TESTS, budgets, strict=True)
        ],
    )
    yield ""
    yield from markdown(
        ["change", "begins at image", "test", "median", "quartiles", f"found within {changed:,}"],
        [
            [
                row["change"],
                f"{row['begin']:,}",
                row["test"],
                _quantile(row["delays"], 0.5),
                f"{_quantile(row['delays'], 0.25)} to {_quantile(row['delays'], 0.75)}",
                f"{sum(delay is not None for delay in row['delays']) / repeats:.0%}",
            ]
            for row in found["delays"]
        ],
    )
    yield ""
    yield from markdown(
        ["defective parts, from the first image on", "images", f"alarms in {repeats} streams"],
        [
            [f"{row['share']:.0%}", f"{row['images']:,}", str(row["alarms"])]
            for row in found["constant_defects"]
        ],
    )


def _interval(found: dict[str, Any], test: str, repeats: int) -> str:
    low, high = clopper_pearson(found["false_alarms"][test], repeats)
    return f"{low:.1%} to {high:.1%}"


def _quantile(delays: Sequence[int | None], share: float) -> str:
    """Of all repeats; one without an alarm counts as later than any other."""
    ordered = sorted(np.inf if delay is None else delay for delay in delays)
    value = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
    return "–" if value == np.inf else f"{value:.0f}"


if __name__ == "__main__":
    main(sys.argv[1:])
