import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_bundles import SIZE, brightness, image_of, make_bundle
from numpy.typing import NDArray

from stillwatch.bundle import Bundle, NormalScores
from stillwatch.calibration import clopper_pearson
from stillwatch.errors import LayoutError
from stillwatch.evaluation.evaluation import Evaluation, GroupRejections, TestImages, evaluate
from stillwatch.inference.inspector import Inspector
from stillwatch.settings import EvaluationSettings

EVALUATION = EvaluationSettings(size=32, bootstrap_resamples=100)
PIXEL_METRICS = {"pixel_auroc", "pixel_ap", "aupro"}
ANOMALY_METRICS = {"image_auroc", "image_ap", "f1", "f1_oracle"}
NORMAL_RATES = {"false_alarm_rate", "review_rate"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Rejects above a score of 100, reviews above 98."""
    return make_bundle(
        tmp_path_factory.mktemp("evaluation") / "bundle",
        normal_scores=NormalScores(train=(10.0, 100.0, 101.0, 102.0), validation=(50.0, 150.0)),
    )


def made(
    scores: dict[str, list[int]], *, masks: bool = True, groups: dict[str, str] | None = None
) -> TestImages:
    """Images of these scores; the mask of an anomaly is where its bright pixel is."""
    items = [(kind, score) for kind, values in scores.items() for score in values]
    mask = np.zeros((len(items), 32, 32), bool)
    mask[[kind != "good" for kind, _ in items], 6:8, 10:12] = True
    return TestImages(
        paths=tuple(f"test/{kind}/{number:03}.png" for number, (kind, _) in enumerate(items)),
        images=np.stack([image_of(score) for _, score in items]),
        defect_types=tuple(kind for kind, _ in items),
        masks=mask if masks else None,
        groups=groups or {},
    )


def run(bundle: Bundle, test: TestImages, seed: int = 0) -> Evaluation:
    return evaluate(Inspector(bundle, brightness, 4), test, settings=EVALUATION, seed=seed)


MIXED = {"good": [20, 40, 99, 100, 120], "scratch": [150, 200, 60], "dent": [99, 130]}


def test_every_figure_of_a_mixed_test_set(bundle: Bundle) -> None:
    found = run(bundle, made(MIXED))
    assert found.metrics.keys() == ANOMALY_METRICS | NORMAL_RATES | PIXEL_METRICS | {"recall"}
    assert found.intervals.keys() == found.metrics.keys()
    assert found.metrics["recall"] == 3 / 5
    assert found.metrics["false_alarm_rate"] == 1 / 5
    assert found.metrics["review_rate"] == 2 / 5
    assert found.metrics["f1"] == pytest.approx(2 * 3 / (3 + 1 + 5))
    assert found.metrics["image_auroc"] == pytest.approx((5 + 5 + 2 + 5 + 2.5) / 25)
    assert found.metrics["f1_oracle"] >= found.metrics["f1"]
    assert found.recall_by_defect == {"dent": 1 / 2, "scratch": 2 / 3}
    assert found.curves.keys() == {"roc", "pro", "pixel_roc"}
    assert [(one.shape, one.dtype) for one in found.maps] == [((32, 32), np.float32)] * 10
    assert found.evaluation_size == 32
    assert found.synthetic is False
    assert found.ms_per_image > 0


def test_every_figure_lies_in_its_interval(bundle: Bundle) -> None:
    found = run(bundle, made(MIXED))
    for name, value in found.metrics.items():
        low, high = found.intervals[name]
        assert 0 <= low <= value <= high <= 1, name


def test_false_alarm_rates_side_by_side(bundle: Bundle) -> None:
    found = run(bundle, made(MIXED))
    assert found.false_alarms == {
        "in_sample": 2 / 4,
        "validation": 1 / 2,
        "test": 1 / 5,
        "test_ci": clopper_pearson(1, 5),
    }
    assert found.intervals["false_alarm_rate"] == clopper_pearson(1, 5)


def test_the_table_has_every_image_in_order(bundle: Bundle) -> None:
    test = made({"good": [20, 99], "scratch": [150]})
    assert run(bundle, test).rows == [
        {
            "path": "test/good/000.png",
            "defect_type": "good",
            "label": 0,
            "score": 20.0,
            "p_value": 1.0,
            "verdict": "pass",
        },
        {
            "path": "test/good/001.png",
            "defect_type": "good",
            "label": 0,
            "score": 99.0,
            "p_value": 3 / 21,
            "verdict": "review",
        },
        {
            "path": "test/scratch/002.png",
            "defect_type": "scratch",
            "label": 1,
            "score": 150.0,
            "p_value": 1 / 21,
            "verdict": "reject",
        },
    ]


def test_without_masks_there_are_image_figures_only(bundle: Bundle) -> None:
    with_masks, without = run(bundle, made(MIXED)), run(bundle, made(MIXED, masks=False))
    assert without.metrics.keys() == with_masks.metrics.keys() - PIXEL_METRICS
    assert without.curves.keys() == {"roc"}
    assert without.metrics == {name: with_masks.metrics[name] for name in without.metrics}
    assert [one.shape for one in without.maps] == [(32, 32)] * 10


@pytest.mark.parametrize("masks", [True, False])
def test_normals_alone_have_rates_alone(bundle: Bundle, masks: bool) -> None:
    found = run(bundle, made({"good": [20, 30, 120]}, masks=masks))
    assert found.metrics.keys() == found.intervals.keys() == NORMAL_RATES
    assert found.recall_by_defect == {}
    assert found.curves == {}


def test_anomalies_alone_have_no_image_ranking(bundle: Bundle) -> None:
    found = run(bundle, made({"dent": [20, 130]}))
    assert found.metrics.keys() == found.intervals.keys() == {"recall"} | PIXEL_METRICS
    assert found.false_alarms.keys() == {"in_sample", "validation"}


def test_one_image(bundle: Bundle) -> None:
    found = run(bundle, made({"good": [20]}))
    assert found.metrics == {"false_alarm_rate": 0.0, "review_rate": 0.0}
    assert found.ms_per_image > 0


def test_no_image_is_refused(bundle: Bundle) -> None:
    empty = TestImages((), np.empty((0, SIZE, SIZE, 3), np.uint8), (), None)
    with pytest.raises(LayoutError, match="category plate: no test image"):
        run(bundle, empty)


def test_no_figure_is_ever_nan(bundle: Bundle) -> None:
    for scores in (MIXED, {"good": [0, 0], "dent": [0]}, {"dent": [255]}, {"good": [255]}):
        found = run(bundle, made(scores))
        assert all(math.isfinite(value) for value in found.metrics.values())
        assert all(math.isfinite(end) for ends in found.intervals.values() for end in ends)


def test_a_bundle_without_normal_scores_says_nothing_of_them(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", normal_scores=NormalScores(train=(), validation=()))
    assert run(bundle, made({"good": [20]})).false_alarms.keys() == {"test", "test_ci"}


def test_rejected_images_per_group(bundle: Bundle) -> None:
    groups = {
        "test/good/000.png": "monday",
        "test/good/001.png": "monday",
        "test/good/002.png": "tuesday",
        "test/dent/003.png": "monday",
    }
    found = run(bundle, made({"good": [20, 120, 130], "dent": [200]}, groups=groups))
    assert found.normals_by_group == {
        "monday": GroupRejections(images=2, rejected=1),
        "tuesday": GroupRejections(images=1, rejected=1),
    }
    assert found.anomalies_by_group == {"monday": GroupRejections(images=1, rejected=1)}
    assert run(bundle, made({"good": [20]})).normals_by_group == {}


def test_pixels_outside_the_region_are_in_no_pixel_figure(bundle: Bundle) -> None:
    test = made(MIXED)
    assert test.masks is not None
    counted = np.ones((10, 32, 32), bool)
    counted[:, :, 16:] = False
    inside = run(bundle, replace(test, counted=counted, outside_region=("test/dent/9.png",)))
    assert inside.outside_region == ("test/dent/9.png",)
    everywhere = run(bundle, test)
    assert inside.metrics["aupro"] != everywhere.metrics["aupro"]
    for name in everywhere.metrics.keys() - PIXEL_METRICS:
        assert inside.metrics[name] == everywhere.metrics[name], name
    for mask in test.masks:
        mask[:, 16:] = True
    assert run(bundle, replace(test, counted=counted)).metrics == inside.metrics
    assert run(bundle, replace(test, counted=counted & ~test.masks)).metrics.keys() == (
        everywhere.metrics.keys() - PIXEL_METRICS
    )


def test_maps_have_the_shapes_of_the_masks(bundle: Bundle) -> None:
    test = made({"good": [20], "dent": [150]})
    unequal = replace(test, masks=[np.zeros((32, 13), bool), np.eye(8, 32, dtype=bool)])
    assert [one.shape for one in run(bundle, unequal).maps] == [(32, 13), (8, 32)]


def test_synthetic_is_carried_along(bundle: Bundle) -> None:
    test = made(MIXED)
    synthetic = TestImages(test.paths, test.images, test.defect_types, test.masks, synthetic=True)
    assert run(bundle, synthetic).synthetic is True


def test_the_order_of_images_changes_no_figure(bundle: Bundle) -> None:
    test = made(MIXED)
    order = np.random.default_rng(0).permutation(len(test.paths))
    assert test.masks is not None
    shuffled = TestImages(
        paths=tuple(test.paths[i] for i in order),
        images=test.images[order],
        defect_types=tuple(test.defect_types[i] for i in order),
        masks=test.masks[order],
    )
    first, second = run(bundle, test), run(bundle, shuffled)
    assert second.metrics == pytest.approx(first.metrics)
    assert [row["path"] for row in second.rows] == list(shuffled.paths)


def test_same_seed_same_intervals(bundle: Bundle) -> None:
    test = made(MIXED)
    assert run(bundle, test, seed=1).intervals == run(bundle, test, seed=1).intervals
    assert run(bundle, test, seed=1).intervals != run(bundle, test, seed=2).intervals


def test_maps_are_inspected_once(bundle: Bundle) -> None:
    seen: list[int] = []

    def counting(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(images))
        return brightness(images)

    evaluate(Inspector(bundle, counting, 4), made(MIXED), settings=EVALUATION)
    assert seen == [4, 4, 2]
