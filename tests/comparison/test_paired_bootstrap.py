from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_bundles import brightness, image_of, make_bundle

from stillwatch.comparison.paired_bootstrap import (
    Candidate,
    PairedFigure,
    measured,
    paired_figures,
    unseen,
)
from stillwatch.comparison.paired_rates import rate_difference_interval
from stillwatch.evaluation.counts import Floats
from stillwatch.evaluation.evaluation import TestImages, evaluate
from stillwatch.evaluation.pixel_metrics import grid_counts
from stillwatch.inference.inspector import Inspector
from stillwatch.settings import EvaluationSettings, SelectBy

KINDS = ("good",) * 30 + ("dent",) * 30


def candidate(
    kinds: Sequence[str], scores: Sequence[float] | Floats, detector: str = "stfpm"
) -> Candidate:
    """Rejects above a score of 2."""
    values = np.asarray(scores, dtype=np.float64)
    return Candidate(
        detector=detector,
        paths=tuple(map(str, range(len(kinds)))),
        defect_types=tuple(kinds),
        scores=values,
        rejected=values > 2,
        counts=None,
        batch_ms=(1.0,),
    )


def scored(auroc: float, detector: str) -> Candidate:
    """A share of the anomalies scores below all normals, so that this is the exact AUROC."""
    missed = round((1 - auroc) * 30)
    return candidate(KINDS, [1.0] * 30 + [0.0] * missed + [2.0] * (30 - missed), detector)


def drawn(seed: int, detector: str = "stfpm") -> Candidate:
    scores = np.random.default_rng(seed).normal([0.0] * 30 + [1.0] * 30)
    return candidate(KINDS, scores, detector)


def paired(
    champion: Candidate, *challengers: Candidate, select_by: SelectBy = "image_auroc"
) -> tuple[Candidate, dict[str, PairedFigure]]:
    return paired_figures(champion, challengers, select_by=select_by, resamples=500, seed=0)


def test_a_difference_by_hand() -> None:
    kinds = ("good", "good", "dent", "dent")
    champion = candidate(kinds, [1, 3, 2, 4])
    challenger = candidate(kinds, [1, 2, 3, 4])
    _, found = paired(champion, challenger)
    # One of four pairs is in the wrong order for the champion: the dent of 2, the good part of 3.
    # A resample in which they are shares a and b of their kinds has the difference a b; it is 1 in
    # 1 of 16 resamples and 0 in 7, so that both are in the interval.
    assert found["image_auroc"] == PairedFigure(
        champion=0.75,
        challenger=1.0,
        difference=0.25,
        interval=(0.0, 1.0),
        optimism=0.0,
        seeds=(1.0,),
    )
    assert (found["recall"].champion, found["recall"].challenger) == (0.5, 1.0)
    assert found["recall"].interval == rate_difference_interval(gained=1, lost=0, images=2)
    assert found["false_alarm_rate"].difference == -0.5
    assert found["f1"].champion == pytest.approx(2 * 1 / (1 + 1 + 2))
    assert found["f1"].challenger == 1.0


def test_pairing_cancels_what_is_hard_for_both() -> None:
    champion = drawn(0)
    almost = champion.scores + np.random.default_rng(1).normal(0, 0.05, 60)
    _, alike = paired(champion, replace(champion, scores=almost))
    _, apart = paired(champion, drawn(2))
    widths = [high - low for low, high in (f["image_auroc"].interval for f in (alike, apart))]
    assert widths[0] < widths[1] / 4


def test_the_best_by_the_figure_of_the_choice_wins_and_the_first_of_equals() -> None:
    champion = scored(0.5, "champion")
    assert paired(champion, scored(0.7, "a"), scored(0.9, "b"))[0].detector == "b"
    assert paired(champion, scored(0.9, "a"), scored(0.9, "b"))[0].detector == "a"


def test_the_interval_is_the_winners_own_moved_by_the_optimism_of_the_choice() -> None:
    champion = drawn(0)
    rivals = [drawn(seed, str(seed)) for seed in (1, 2, 3)]
    winner, found = paired(champion, *rivals)
    _, alone = paired(champion, winner)
    assert alone["image_auroc"].optimism == 0
    assert found["image_auroc"].optimism > 0.001
    for name, figure in found.items():
        low, high = alone[name].interval
        assert figure.interval == pytest.approx((low - figure.optimism, high - figure.optimism))
        assert figure.difference == alone[name].difference


def test_the_optimism_is_what_the_winners_of_the_resamples_gain() -> None:
    """Two detectors on four images: all resamples enumerated."""
    kinds = ("good", "good", "dent", "dent")
    champion = candidate(kinds, [0, 0, 0, 0])
    first, second = candidate(kinds, [1, 3, 2, 4], "a"), candidate(kinds, [3, 1, 4, 2], "b")
    winner, found = paired_figures(
        champion, [first, second], select_by="image_auroc", resamples=20_000, seed=0
    )
    # With shares x and y of the first of each kind a has 1 - x (1 - y), b has 1 - (1 - x) y: in a
    # resample b is better by x - y where that is positive. Of 16 resamples x - y is 1 in 1 and 1/2
    # in 4: a mean of 3/16.
    assert winner is first
    assert found["image_auroc"].optimism == pytest.approx(3 / 16, abs=0.01)


def test_a_rival_that_never_wins_costs_nothing() -> None:
    champion = drawn(0)
    _, found = paired(champion, scored(0.9, "a"), scored(0.1, "b"))
    assert found["image_auroc"].optimism == 0


def test_a_detector_is_chosen_by_all_its_seeds_and_not_by_its_luckiest() -> None:
    lucky = [scored(0.5, "lucky"), scored(1.0, "lucky")]
    steady = [scored(0.8, "steady"), scored(0.9, "steady")]
    winner, found = paired(scored(0.7, "champion"), *lucky, *steady)
    assert winner is steady[0]
    assert found["image_auroc"].seeds == pytest.approx((0.8, 0.9))
    assert found["image_auroc"].challenger == pytest.approx(0.8)  # the one to be promoted


def test_the_choice_by_one_figure_charges_the_others_too() -> None:
    champion = drawn(0)
    _, found = paired(champion, *(drawn(seed, str(seed)) for seed in (1, 2, 3)))
    assert found["image_ap"].optimism > 0


def test_types_of_a_single_image_are_not_known_without_error() -> None:
    kinds = ("good",) * 2 + tuple(f"type{i}" for i in range(10))
    champion = candidate(kinds, [5.0] * 2 + [9.0] * 5 + [1.0] * 5)
    challenger = candidate(kinds, [5.0] * 2 + [9.0] * 10)
    low, high = paired(champion, challenger)[1]["image_auroc"].interval
    assert 0.1 <= low < 0.3
    assert 0.7 < high <= 0.9


@pytest.mark.parametrize("rare", [("hole",), ("hole", "spot")])
def test_a_rare_type_is_drawn_from_with_the_next_larger_one(rare: tuple[str, ...]) -> None:
    kinds = ("good",) * 2 + rare + ("dent",) * 6 + ("scratch",) * 30
    found = [5.0] * 2 + [9.0] * (len(kinds) - 2)
    missed = [1.0 if kind == "hole" else score for kind, score in zip(kinds, found, strict=True)]
    low, high = paired(candidate(kinds, missed), candidate(kinds, found))[1]["image_auroc"].interval
    # Alone it would be in every resample once; with dents and without scratches, a few times.
    assert low == 0
    assert 2 <= high * (len(kinds) - 2) <= 4


def test_resamples_without_a_region_are_left_out_of_both() -> None:
    kinds = ("good",) * 2 + ("dent",) * 3
    masks = np.zeros((5, 8, 8), bool)
    masks[4, 2:4, 2:4] = True  # 8 of 27 resamples have no region
    rng = np.random.default_rng(0)
    counts = [grid_counts(rng.normal(masks).astype(np.float32), masks) for _ in range(3)]
    champion, *challengers = (
        replace(candidate(kinds, [0, 0, 1, 1, 1], name), counts=count)
        for name, count in zip("cab", counts, strict=True)
    )
    winner, found = paired(champion, *challengers, select_by="aupro")
    assert winner.detector in ("a", "b")
    for figure in found.values():
        assert np.isfinite([*figure.interval, figure.optimism]).all()
    low, high = found["aupro"].interval
    assert low - 1e-9 <= found["aupro"].difference - found["aupro"].optimism <= high + 1e-9


def test_other_images_or_masks_for_some_are_refused() -> None:
    champion = drawn(0)
    with pytest.raises(ValueError, match="did not inspect the same test images"):
        paired(champion, replace(champion, paths=champion.paths[::-1]))
    masks = np.zeros((60, 4, 4), bool)
    masks[30:, 1, 1] = True
    masked = replace(champion, counts=grid_counts(masks.astype(np.float32), masks))
    with pytest.raises(ValueError, match="only one was measured on masks"):
        paired(champion, masked)


def test_images_that_a_detector_has_learnt_from_are_dropped_and_counted() -> None:
    kept, dropped = unseen(["a", "b", "c", "b"], {"b", "x"})
    assert kept.tolist() == [True, False, True, False]
    assert dropped == 2
    assert unseen([], {"b"})[1] == 0


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_a_candidate_is_what_an_evaluation_measured(
    tmp_path: Path, masks: bool, counted: bool
) -> None:
    kinds = ["good"] * 3 + ["dent"] * 3
    mask = np.zeros((6, 32, 32), bool)
    mask[3:, 6:8, 10:12] = True
    test = TestImages(
        paths=tuple(f"test/{number}.png" for number in range(6)),
        images=np.stack([image_of(score) for score in (20, 30, 120, 150, 99, 200)]),
        defect_types=tuple(kinds),
        masks=mask if masks else None,
        counted=np.ones_like(mask) if counted else None,
        groups={f"test/{number}.png": f"item {number // 2}" for number in range(6)},
    )
    evaluation = evaluate(
        Inspector(make_bundle(tmp_path / "b"), brightness, 4),
        test,
        settings=EvaluationSettings(size=32, bootstrap_resamples=100),
    )
    everything = measured("made", evaluation, test, np.ones(6, bool))
    assert everything.scores.tolist() == [20, 30, 120, 150, 99, 200]
    assert everything.rejected.tolist() == [False, False, True, True, False, True]
    assert everything.anomalous.tolist() == [False] * 3 + [True] * 3
    _, figures = paired(everything, everything)
    assert {n: f.champion for n, f in figures.items()} == pytest.approx(
        {n: v for n, v in evaluation.metrics.items() if n != "review_rate"}, abs=1e-3
    )
    kept = measured("made", evaluation, test, np.array([True, False, True, True, False, True]))
    assert kept.paths == ("test/0.png", "test/2.png", "test/3.png", "test/5.png")
    assert kept.scores.tolist() == [20, 120, 150, 200]
    assert (everything.groups, kept.groups) == (3, 3)
    assert measured("made", evaluation, replace(test, groups={}), np.ones(6, bool)).groups == 0
    assert (kept.counts is None) == (not masks)
    nothing = measured("made", evaluation, test, np.zeros(6, bool))
    assert nothing.paths == ()
    assert nothing.counts is None
