"""The choice of the winner among evaluated detectors, and the floors for its figures."""

import pytest
from made_results import result

from stillwatch.errors import SettingsError
from stillwatch.settings import FloorSettings, RetrainSettings
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.winner import (
    below_floors,
    choose_winner,
    deciding_figure,
    lacking_evidence,
    too_many_false_alarms,
)

A, B, C = "stfpm", "reverse_distillation", "uninformed_students"
BASELINE = "patchcore"


def winner_of(*results: DetectorResult, select_by: str = "image_auroc") -> DetectorResult:
    settings = RetrainSettings.model_validate({"select_by": select_by})
    return choose_winner(results, settings).winner


def test_the_best_figure_wins() -> None:
    low = result(A, metrics={"image_auroc": 0.9, "aupro": 0.99})
    high = result(B, metrics={"image_auroc": 0.91, "aupro": 0.1}, ms_per_image=99.0)
    assert winner_of(low, high) is high
    assert winner_of(low, high, select_by="aupro") is low


def test_seeds_count_by_their_mean_and_the_first_of_them_wins() -> None:
    lucky = [result(A, metrics={"image_auroc": auroc}) for auroc in (0.8, 0.99)]
    steady = [result(B, metrics={"image_auroc": auroc}) for auroc in (0.9, 0.92)]
    choice = choose_winner([*lucky, *steady], RetrainSettings(select_by="image_auroc"))
    assert choice.winner is steady[0]
    assert choice.seeds == steady
    assert choice.selected == "selected on test (best of 2)"
    assert winner_of(*lucky, result(B, metrics={})) is lucky[0]


def test_ties_go_to_aupro_then_to_speed() -> None:
    slow = result(A, metrics={"image_auroc": 0.9, "aupro": 0.8}, ms_per_image=20.0)
    fast = result(B, metrics={"image_auroc": 0.9 + 1e-12, "aupro": 0.8}, ms_per_image=5.0)
    local = result(C, metrics={"image_auroc": 0.9, "aupro": 0.81}, ms_per_image=99.0)
    assert winner_of(slow, fast) is fast
    assert deciding_figure((slow, fast), "image_auroc") == "speed"
    assert winner_of(slow, fast, local) is local
    assert deciding_figure((slow, fast, local), "image_auroc") == "AUPRO"
    best = result(C, metrics={"image_auroc": 0.91})
    assert deciding_figure((slow, fast, best), "image_auroc") == "image AUROC"


def test_without_masks_a_tie_goes_to_speed() -> None:
    slow = result(A, metrics={"image_auroc": 1.0}, ms_per_image=20.0)
    fast = result(B, metrics={"image_auroc": 1.0}, ms_per_image=5.0)
    assert winner_of(slow, fast) is fast


def test_a_figure_that_no_detector_has_is_a_setting_to_change() -> None:
    with pytest.raises(SettingsError, match=r"retrain\.select_by is pixel_auroc"):
        winner_of(result(metrics={"image_auroc": 1.0}), select_by="pixel_auroc")


def test_a_baseline_wins_only_if_the_settings_allow_it() -> None:
    baseline, student = result(BASELINE), result(A)
    assert choose_winner([baseline, student], RetrainSettings()).competing == (baseline, student)
    without = RetrainSettings(allow_baselines=False)
    assert choose_winner([baseline, student], without).competing == (student,)
    with pytest.raises(SettingsError, match=r"retrain\.allow_baselines"):
        choose_winner([baseline], without)


def test_floors_and_synthetic_figures_withhold_an_automatic_promotion() -> None:
    floors = FloorSettings(image_auroc=0.85, aupro=0.5)
    assert below_floors(result(), floors) == ()
    assert below_floors(result(metrics={"image_auroc": 0.9}), floors) == ()
    assert len(below_floors(result(metrics={"image_auroc": 0.8, "aupro": 0.4}), floors)) == 2
    assert "synthetic" in lacking_evidence(result(synthetic=True))[0]
    assert "test/good" in lacking_evidence(result(test_normals_from="validation"))[0]


def test_the_recall_of_ten_real_anomalies_has_a_floor() -> None:
    low = {"image_auroc": 0.9, "recall": 0.4}
    floors = FloorSettings()
    assert below_floors(result(metrics=low), floors) == (
        "it finds 8 of 20 defects, fewer than half (retrain.floors.recall 0.5)",
    )
    assert below_floors(result(metrics=low), FloorSettings(recall=0.55)) == (
        "it finds 8 of 20 defects, fewer than 55 % (retrain.floors.recall 0.55)",
    )
    assert below_floors(result(metrics=low, anomalies=9), floors) == ()
    assert below_floors(result(metrics=low, synthetic=True), floors) == ()


def test_more_false_alarms_than_chance_allows_wait_for_a_person() -> None:
    of_20 = {
        rejected: {"image_auroc": 0.9, "false_alarm_rate": rejected / 20} for rejected in (4, 9)
    }
    assert too_many_false_alarms(result(metrics=of_20[4])) == ()
    assert too_many_false_alarms(result(metrics=of_20[9])) == (
        "it rejects 9 of 20 good test images, more than chance allows at alpha 0.05",
    )
