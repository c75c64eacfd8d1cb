import json
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from stillwatch.comparison.comparison import MIN_IMAGES, Answer, Comparison, answer_from, compare
from stillwatch.comparison.paired_bootstrap import Candidate
from stillwatch.evaluation.counts import Floats
from stillwatch.evaluation.pixel_metrics import grid_counts
from stillwatch.settings import GateSettings, SelectBy, VetoMargins

QUICK = GateSettings(resamples=250)
KINDS = ("good",) * 60 + ("scratch",) * 40 + ("dent",) * 20
"""A test set of ordinary size."""
FEW = ("good",) * 15 + ("scratch",) * 15


def candidate(
    kinds: Sequence[str], scores: Sequence[float] | Floats, detector: str = "stfpm"
) -> Candidate:
    values = np.asarray(scores, dtype=np.float64)
    return Candidate(
        detector=detector,
        paths=tuple(f"test/{kind}/{number:03}.png" for number, kind in enumerate(kinds)),
        defect_types=tuple(kinds),
        scores=values,
        rejected=values > 1.5,
        counts=None,
        batch_ms=(10.0,) * 6,
    )


class Plant:
    """Makes detectors with a known AUROC that find the same images hard."""

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.kinds = kinds
        self.anomalous = np.array([kind != "good" for kind in kinds])
        self.hardness = self.rng.normal(size=len(kinds))

    def detector(self, separation: float, name: str = "stfpm") -> Candidate:
        """Normals N(0, 1) and anomalies N(separation, 1), half of it common to all detectors."""
        own = self.rng.normal(size=len(self.kinds))
        noise = np.sqrt(0.5) * self.hardness + np.sqrt(0.5) * own
        return candidate(self.kinds, separation * self.anomalous + noise, name)


def true_auroc(separation: float) -> float:
    return NormalDist().cdf(separation / np.sqrt(2))


def judge(
    champion: Candidate,
    *challengers: Candidate,
    select_by: SelectBy = "image_auroc",
    settings: GateSettings = QUICK,
    dropped: int = 0,
    seed: int = 0,
) -> Comparison:
    return compare(
        champion, challengers, select_by=select_by, settings=settings, seed=seed, dropped=dropped
    )


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        ((0.01, 0.03), "better"),
        ((1e-12, 0.03), "not_worse"),  # an AUROC of no image pair is as small as that
        ((0.0, 0.0), "not_worse"),
        ((0.90 - 0.92, 0.01), "not_worse"),  # in floating point a little less than -0.02
        ((-0.02, -0.01), "not_worse"),
        ((-0.021, 0.5), "not_enough_evidence"),
        ((-0.03, -0.02), "not_enough_evidence"),
        ((-0.03, -0.021), "worse"),
    ],
)
def test_the_answer_by_the_interval(interval: tuple[float, float], answer: Answer) -> None:
    assert answer_from(interval, 0.02) == answer


def test_what_may_be_the_figures_own_error_is_not_better() -> None:
    assert answer_from((0.0009, 0.03), 0.02, error=0.001) == "not_worse"
    assert answer_from((0.0011, 0.03), 0.02, error=0.001) == "better"


def test_a_worse_challenger_is_worse() -> None:
    plant = Plant(KINDS, 0)
    found = judge(plant.detector(2.5), plant.detector(0.8))
    assert found.answer == "worse"
    assert not found.promotable


def test_a_clearly_better_challenger_is_better() -> None:
    plant = Plant(KINDS, 0)
    found = judge(plant.detector(0.8), plant.detector(2.5))
    assert found.answer == "better"
    assert found.promotable


def test_a_retrained_equal_on_a_small_test_set_is_not_enough_evidence() -> None:
    plant = Plant(FEW, 1)
    found = judge(plant.detector(2.0), plant.detector(2.0))
    assert found.answer == "not_enough_evidence"
    assert not found.promotable
    assert not found.lacking


def test_a_retrained_equal_on_a_large_test_set_is_not_worse() -> None:
    plant = Plant(("good",) * 1500 + ("scratch",) * 1500, 2)
    found = judge(plant.detector(2.5), plant.detector(2.5))
    assert found.answer == "not_worse"


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
@hypothesis_settings(max_examples=30)
def test_identical_detectors_are_not_worse_on_however_few_images(
    normals: int, anomalies: int, seed: int
) -> None:
    plant = Plant(("good",) * normals + ("dent",) * anomalies, seed)
    champion = plant.detector(1.0)
    found = judge(champion, replace(champion, detector="retrained"), seed=seed)
    assert found.answer == "not_worse"
    assert found.promotable
    assert {d.difference for d in found.differences.values()} == {0}
    rates = {name: found.differences[name] for name in ("recall", "false_alarm_rate")}
    others = [d for name, d in found.differences.items() if name not in rates]
    assert {d.interval for d in others} == {(0.0, 0.0)}
    for rate in rates.values():
        low, high = rate.interval
        assert low == pytest.approx(-high)
        assert low < 0


def test_a_winner_that_was_chosen_already_is_the_one_compared() -> None:
    plant = Plant(KINDS, 3)
    champion, low, high = plant.detector(2.0), plant.detector(1.9, "low"), plant.detector(2.5, "a")
    found = compare(
        champion, [low, high], select_by="image_auroc", settings=QUICK, winner=low.detector
    )
    assert (found.winner, found.detectors) == ("low", ("low", "a"))
    figures = judge(champion, low).differences["image_auroc"]
    assert found.differences["image_auroc"].challenger == figures.challenger


@pytest.mark.parametrize("anomalies", [6, 40])
def test_a_veto_on_few_images_forbids_promotion_by_itself_and_refuses_nothing(
    anomalies: int,
) -> None:
    kinds = ("good",) * 40 + ("dent",) * anomalies
    seen = candidate(kinds, [0.0] * 40 + [2.0] * anomalies)
    missed = candidate(kinds, [0.0] * 40 + [1.0] * anomalies)
    found = judge(seen, missed)
    assert found.vetoes == ("recall",)
    assert not found.promotable
    assert found.refused == (anomalies >= MIN_IMAGES)


def test_without_any_image_there_is_not_enough_evidence() -> None:
    nothing = candidate((), ())
    found = judge(nothing, nothing, dropped=8)
    assert found.answer == "not_enough_evidence"
    assert "0 normals (10 needed) and 0 anomalies" in found.sentence


def test_identical_to_the_champion_and_the_best_of_many_is_not_worse() -> None:
    plant = Plant(KINDS, 3)
    champion = plant.detector(2.0)
    others = [plant.detector(1.9, name) for name in "abc"]
    found = judge(champion, replace(champion, detector="same"), *others)
    assert (found.winner, found.answer) == ("same", "not_worse")


@given(st.integers(0, 1000))
@hypothesis_settings(max_examples=20)
def test_changing_sides_changes_the_sign(seed: int) -> None:
    plant = Plant(FEW, seed)
    one, other = plant.detector(1.0), plant.detector(1.5)
    there, back = judge(one, other), judge(other, one)
    for name, difference in there.differences.items():
        low, high = back.differences[name].interval
        assert difference.difference == pytest.approx(-back.differences[name].difference)
        assert difference.interval == pytest.approx((-high, -low))


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@hypothesis_settings(max_examples=20)
def test_the_scale_of_scores_does_not_matter(seed: int, factor: float) -> None:
    plant = Plant(FEW, seed)
    champion, challenger = plant.detector(1.0), plant.detector(1.5)
    scaled = replace(challenger, scores=factor * np.exp(challenger.scores))
    assert judge(champion, scaled).differences == judge(champion, challenger).differences


@pytest.mark.parametrize("normals", [MIN_IMAGES - 1, MIN_IMAGES])
@pytest.mark.parametrize("anomalies", [MIN_IMAGES - 1, MIN_IMAGES])
def test_too_few_images_of_a_kind_are_not_enough_evidence(normals: int, anomalies: int) -> None:
    kinds = ("good",) * normals + ("dent",) * anomalies
    worst = candidate(kinds, [1.0] * normals + [0.0] * anomalies)
    best = candidate(kinds, [0.0] * normals + [1.0] * anomalies)
    found = judge(worst, best)
    enough = min(normals, anomalies) == MIN_IMAGES
    assert found.answer == ("better" if enough else "not_enough_evidence")
    assert judge(best, worst).answer == ("worse" if enough else "not_enough_evidence")
    assert ("(10 needed)" in found.sentence) == (not enough)


COVERAGE = [
    pytest.param(KINDS, 1.2, id="ordinary"),
    pytest.param(("good",) * 60 + tuple(f"type{i // 2}" for i in range(24)), 1.0, id="rare types"),
]


@pytest.mark.parametrize(("kinds", "separation"), COVERAGE)
def test_the_interval_covers_the_true_difference_as_often_as_it_says(
    kinds: tuple[str, ...], separation: float
) -> None:
    pairs = 300
    truth = {
        "image_auroc": true_auroc(separation) - true_auroc(1.0),
        "recall": NormalDist().cdf(separation - 1.5) - NormalDist().cdf(1.0 - 1.5),
        "false_alarm_rate": 0.0,
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(pairs):
        plant = Plant(kinds, seed)
        found = judge(plant.detector(1.0), plant.detector(separation), seed=seed)
        for name, true in truth.items():
            low, high = found.differences[name].interval
            covered[name] += low <= true <= high
    assert min(covered.values()) >= binom.ppf(0.001, pairs, 0.95)
    assert covered["image_auroc"] <= binom.ppf(0.999, pairs, 0.95)


def test_the_best_of_equals_is_seldom_called_better() -> None:
    retrainings = 200
    better, flattered = 0, 0
    for seed in range(retrainings):
        plant = Plant(KINDS, seed)
        champion = plant.detector(1.0)
        found = judge(champion, *(plant.detector(1.0, name) for name in "abcdef"), seed=seed)
        decides = found.differences["image_auroc"]
        better += found.answer == "better"
        flattered += decides.interval[0] + decides.optimism > 0
    assert better <= binom.ppf(0.999, retrainings, 0.025)
    assert flattered > binom.ppf(0.999, retrainings, 0.025)  # what the correction is for


def thresholds(kinds: Sequence[str], found: Sequence[bool]) -> tuple[Candidate, Candidate]:
    """Equal scores; the challenger rejects as ``found`` says, the champion only anomalies."""
    anomalous = [float(kind != "good") for kind in kinds]
    champion = replace(candidate(kinds, anomalous), rejected=np.array(anomalous) > 0)
    return champion, replace(champion, rejected=np.array(found))


def test_misses_forbid_promotion_and_leave_the_answer() -> None:
    champion, challenger = thresholds(KINDS, [i >= 80 for i in range(120)])
    found = judge(champion, challenger)
    assert found.answer == "not_worse"
    assert found.vetoes == ("recall",)
    assert not found.promotable
    recall = found.differences["recall"]
    assert (recall.champion, recall.challenger, recall.margin) == (1.0, 40 / 60, 0.05)
    assert recall.vetoes
    assert "vetoed by recall" in found.sentence


@pytest.mark.parametrize(("missed", "vetoes"), [(4, ()), (5, ("recall",))])
def test_a_few_misses_of_ten_are_not_surely_more_than_the_margin(
    missed: int, vetoes: tuple[str, ...]
) -> None:
    kinds = ("good",) * 10 + ("dent",) * 10
    champion, challenger = thresholds(kinds, [i >= 10 + missed for i in range(20)])
    assert judge(champion, challenger).vetoes == vetoes


def test_false_alarms_forbid_promotion() -> None:
    champion, challenger = thresholds(KINDS, [i >= 40 for i in range(120)])
    assert judge(champion, challenger).vetoes == ("false_alarm_rate",)
    assert judge(challenger, champion).vetoes == ()  # fewer of them are welcome


def test_a_harm_that_may_be_within_its_margin_does_not_veto() -> None:
    champion, challenger = thresholds(KINDS, [i >= 64 for i in range(120)])
    found = judge(champion, challenger)
    assert found.differences["recall"].difference == pytest.approx(-4 / 60)
    assert found.vetoes == ()
    strict = GateSettings(resamples=250, veto_margins=VetoMargins(recall=0.0))
    assert judge(champion, challenger, settings=strict).vetoes == ("recall",)


@pytest.mark.parametrize(
    ("budget", "vetoes", "refused"),
    [
        (None, False, False),
        (20.0, False, False),
        (19.9, True, False),
        (19.5, True, False),
        (19.4, True, True),
    ],
)
def test_above_the_latency_budget_a_person_decides_and_surely_above_it_nobody(
    budget: float | None, vetoes: bool, refused: bool
) -> None:
    champion = Plant(FEW, 0).detector(2.0)
    slow = replace(champion, batch_ms=(19.5, 20.0, 20.0, 20.0, 20.0, 90.0))
    settings = GateSettings(resamples=100, latency_budget_ms=budget)
    found = judge(champion, slow, settings=settings)
    assert (found.vetoes == ("latency",)) == vetoes
    assert found.promotable == (not vetoes)
    assert found.latency.within_budget == (not vetoes)
    assert found.refused == refused
    said = f"latency (20.0 ms per image, 95 % interval 19.5 to 90.0, {budget} allowed)"
    assert (said in found.sentence) == vetoes


def test_a_latency_without_an_interval_refuses_nothing() -> None:
    champion = Plant(FEW, 0).detector(2.0)
    slow = replace(champion, batch_ms=(90.0,) * 5)
    settings = GateSettings(resamples=100, latency_budget_ms=20.0)
    found = judge(champion, slow, settings=settings)
    assert found.vetoes == ("latency",)
    assert not found.refused
    assert "latency (90.0 ms per image, too few batches for an interval, 20 allowed)" in (
        found.sentence
    )


@pytest.mark.parametrize(
    ("batches", "interval"),
    # Of n values the outermost two miss the median with probability 2 ** (1 - n); of 17 the fifth
    # from either end with 2 * (1 + 17 + 136 + 680 + 2380) / 2 ** 17 = 0.049.
    [(5, None), (6, (1.0, 6.0)), (17, (5.0, 13.0))],
)
def test_the_interval_of_the_latency(batches: int, interval: tuple[float, float] | None) -> None:
    champion = Plant(FEW, 0).detector(2.0)
    slow = replace(champion, batch_ms=tuple(float(n + 1) for n in range(batches)))
    assert judge(champion, slow).latency.interval == interval


@pytest.mark.parametrize(
    ("kinds", "select_by", "lacking", "figures"),
    [
        (("good",) * 20, "image_auroc", "0 anomalies", {"false_alarm_rate"}),
        (("dent",) * 20, "image_ap", "0 normals", {"recall"}),
        (FEW, "aupro", "0 masked", {"image_auroc", "recall", "false_alarm_rate"}),
        ((), "image_auroc", "0 normals (10 needed) and 0 anomalies (10 needed)", set()),
    ],
)
def test_a_figure_that_is_undefined_decides_nothing(
    kinds: tuple[str, ...], select_by: SelectBy, lacking: str, figures: set[str]
) -> None:
    champion = Plant(kinds, 0).detector(2.0)
    found = judge(champion, champion, replace(champion, detector="b"), select_by=select_by)
    assert found.answer == "not_enough_evidence"
    assert found.winner == "stfpm"
    assert found.differences.keys() == figures
    assert f"{select_by} cannot decide with {lacking}" in found.sentence


def with_maps(plain: Candidate, masks: NDArray[np.bool_], strength: float, seed: int) -> Candidate:
    maps = np.random.default_rng(seed).normal(strength * masks, 1).astype(np.float32)
    return replace(plain, counts=grid_counts(maps, masks))


def test_a_pixel_figure_decides_and_the_image_figure_may_veto() -> None:
    kinds = ("good",) * 20 + ("dent",) * 20
    masks = np.zeros((40, 16, 16), bool)
    masks[20:, 4:8, 4:8] = True
    plant = Plant(kinds, 4)
    champion = with_maps(plant.detector(4.0), masks, 1.0, seed=0)
    challenger = with_maps(plant.detector(0.0), masks, 4.0, seed=1)
    found = judge(champion, challenger, select_by="aupro")
    assert found.answer == "better"
    assert "image_auroc" in found.vetoes
    assert found.differences["aupro"].margin == QUICK.margin
    assert found.differences.keys() == {"aupro", "image_auroc", "recall", "false_alarm_rate"}
    back = judge(challenger, champion, select_by="image_auroc")
    assert (back.answer, back.vetoes) == ("better", ("aupro",))


@pytest.mark.parametrize(("false_positives", "answer"), [(1, "not_worse"), (2, "better")])
def test_a_pixel_figure_is_not_better_by_what_its_grid_may_be_off(
    false_positives: int, answer: Answer
) -> None:
    kinds = ("good",) * 20 + ("dent",) * 20
    masks = np.zeros((40, 64, 64), bool)
    masks[20:, 4:8, 4:8] = True
    worse = masks.astype(np.float32)
    worse[:, 0, :false_positives] = 2
    plain = Plant(kinds, 0).detector(4.0)
    champion = replace(plain, counts=grid_counts(worse, masks))
    challenger = replace(plain, counts=grid_counts(masks.astype(np.float32), masks))
    found = judge(champion, challenger, select_by="aupro")
    # AUPRO is an area up to 30 % of the defect-free pixels.
    lower_end = found.differences["aupro"].interval[0]
    assert lower_end == pytest.approx(false_positives / 64**2 / 0.3, rel=0.01)
    assert found.answer == answer


def test_masks_on_every_pixel_leave_aupro_undefined() -> None:
    masks = np.ones((12, 4, 4), bool)
    champion = with_maps(Plant(("dent",) * 12, 0).detector(1.0), masks, 1.0, seed=0)
    found = judge(champion, champion, select_by="aupro")
    assert found.answer == "not_enough_evidence"
    assert found.lacking == ("no defect-free pixel",)


def test_the_sentence_gives_figures_interval_and_reasons() -> None:
    kinds = ("good",) * 10 + ("dent",) * 10
    worst = candidate(kinds, [1.0] * 10 + [0.0] * 10)
    best = replace(candidate(kinds, [0.0] * 10 + [1.0] * 10, "b"), rejected=np.ones(20, bool))
    assert judge(worst, best, dropped=3).sentence == (
        "better: image_auroc of b is 1.000 and the champion's 0.000 on 10 normals and 10 "
        "anomalies, a difference of +1.000 (95 % interval +1.000 to +1.000), which is above 0; "
        "vetoed by false_alarm_rate (+0.445 to +1.000, 0.02 allowed); test images left out, "
        "because a detector was trained on them: 3."
    )
    assert "with the same scores on every image." in judge(best, best).sentence


def test_the_sentence_says_where_intervals_are_too_narrow_for_images_of_one_group() -> None:
    champion, challenger = (Plant(FEW, seed).detector(1.0) for seed in (1, 2))
    for groups, said in ((0, False), (30, False), (12, True)):
        found = judge(replace(champion, groups=groups), challenger)
        assert ("the images are of 12 groups, and intervals" in found.sentence) is said


def test_the_sentence_says_what_the_choice_cost() -> None:
    plant = Plant(KINDS, 5)
    found = judge(plant.detector(1.0), *(plant.detector(1.0, name) for name in "abc"))
    assert f"{found.differences['image_auroc'].optimism:.3f} off for the choice" in found.sentence
    assert found.detectors == ("a", "b", "c")


@pytest.mark.parametrize("dropped", [0, 2])
def test_the_record_is_json(dropped: int) -> None:
    plant = Plant(FEW, 6)
    found = judge(plant.detector(1.0), plant.detector(2.0), dropped=dropped)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["answer"] == found.answer
    assert record["dropped"] == dropped
    assert record["promotable"] is found.promotable
    assert record["sentence"] == found.sentence
    assert (record["normals"], record["anomalies"]) == (15, 15)
    low, high = found.differences["image_auroc"].interval
    assert record["differences"]["image_auroc"]["interval"] == [low, high]
    assert record["latency"]["budget_ms"] is None


def test_same_seed_same_comparison() -> None:
    plant = Plant(FEW, 7)
    champion, challenger = plant.detector(1.0), plant.detector(1.5)
    assert judge(champion, challenger, seed=1) == judge(champion, challenger, seed=1)
    assert judge(champion, challenger, seed=1) != judge(champion, challenger, seed=2)
