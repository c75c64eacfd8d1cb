"""Results of evaluated detectors."""

from stillwatch.tasks.evaluation.result import DetectorResult


def result(detector: str = "stfpm", **changes: object) -> DetectorResult:
    values: dict[str, object] = {
        "category": "plate",
        "detector": detector,
        "fingerprint": "f",
        "run_id": f"run of {detector}",
        "data_version": "d.dir",
        "synthetic": False,
        "test_normals_from": "test",
        "normals": 20,
        "anomalies": 20,
        "reviewed_anomalies": 0,
        "metrics": {"image_auroc": 0.9, "aupro": 0.8},
        "intervals": {},
        "recall_by_defect": {},
        "false_alarms": {},
        "normals_by_group": {},
        "anomalies_by_group": {},
        "evaluation_size": 64,
        "threshold": 1.0,
        "review_threshold": 0.9,
        "alpha": 0.05,
        "alpha_review": 0.15,
        "n_calibration": 19,
        "rank": 19,
        "calibration_groups": 0,
        "bound": 0.05,
        "rate_95": 0.14,
        "train_seconds": 1.0,
        "ms_per_image": 10.0,
        "evaluated_at": 0,
    }
    return DetectorResult.model_validate(values | changes)
