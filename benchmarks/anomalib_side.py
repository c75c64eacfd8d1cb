"""Train and inspect with anomalib, for ``benchmarks.against_anomalib``, which starts this file.

It runs in anomalib's own environment, which has no stillwatch: the job comes as one line of JSON on
stdin, and the result goes as one line of JSON to stdout, after whatever the libraries print.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import anomalib
import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import EfficientAd, Patchcore, ReverseDistillation, Stfpm
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, Resize

Job = dict[str, Any]

_BATCH = 32
"""anomalib's default; EfficientAD trains on single images."""


def main() -> None:
    """Read the job, train, inspect, and write the result."""
    job = json.loads(sys.stdin.readline())
    torch.manual_seed(job["seed"])
    model = _model(job)
    engine = Engine(
        max_epochs=job["epochs"],
        accelerator="cpu",
        devices=1,
        logger=False,
        default_root_dir=job["folder"],
        enable_progress_bar=False,
    )
    began = time.perf_counter()
    engine.fit(model, datamodule=_images(job))
    seconds = time.perf_counter() - began
    scores, milliseconds = _inspected(model.eval(), job)
    result = {
        "version": anomalib.__version__,
        "torch": torch.__version__,
        "train_seconds": seconds,
        "ms_per_image": milliseconds,
        "scores": scores,
    }
    print("\n" + json.dumps(result))


def _model(job: Job) -> Any:
    """The untrained model, with the teacher's weights of the job and nothing downloaded."""
    resize = Resize(tuple(job["size"]), antialias=True)
    parts = {"post_processor": False, "evaluator": False, "visualizer": False}
    if job["method"] == "efficient_ad":
        model = EfficientAd(
            imagenet_dir=job["photographs"], pre_processor=PreProcessor(resize), **parts
        )
        weights = torch.load(job["weights"], weights_only=True)
        model.prepare_pretrained_model = lambda: model.model.teacher.load_state_dict(weights)
        return model
    normalise = Normalize(mean=job["mean"], std=job["std"])
    parts["pre_processor"] = PreProcessor(Compose([resize, normalise]))
    parts |= {"backbone": job["backbone"], "layers": _layers(job["backbone"], job["strides"])}
    match job["method"]:
        case "patchcore":
            model = Patchcore(pre_trained=False, coreset_sampling_ratio=job["coreset"], **parts)
            teacher = model.model.feature_extractor
        case "reverse_distillation":
            model = ReverseDistillation(pre_trained=False, **parts)
            teacher = model.model.encoder
        case "stfpm":
            model = _without_download(Stfpm, **parts)
            teacher = model.model.teacher_model
    weights = torch.load(job["weights"], weights_only=True)
    # timm keeps stages below the deepest level, which stillwatch's network does not have.
    unknown = teacher.feature_extractor.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"anomalib's network has no tensor {unknown[0]}")
    return model


def _layers(teacher: str, strides: list[int]) -> list[str]:
    """The names by which timm knows the layers at these strides."""
    with torch.device("meta"):
        known = timm.create_model(teacher, features_only=True).feature_info
    names = dict(zip(known.reduction(), known.module_name(), strict=True))
    return [names[stride] for stride in strides]


def _without_download(make: Any, **parts: Any) -> Any:
    """STFPM asks for pretrained weights whatever it is told: give it random ones, as the others."""
    create = timm.create_model
    timm.create_model = lambda *names, **given: create(*names, **given | {"pretrained": False})
    try:
        return make(**parts)
    finally:
        timm.create_model = create


def _images(job: Job) -> Folder:
    return Folder(
        name="images",
        root=job["folder"],
        normal_dir="train",
        normal_test_dir="validation",
        train_batch_size=1 if job["method"] == "efficient_ad" else _BATCH,
        eval_batch_size=_BATCH,
        num_workers=0,  # small files: starting processes in each epoch takes longer
        val_split_mode="same_as_test",
    )


def _inspected(model: Any, job: Job) -> tuple[list[float], float]:
    """Score of each test image, and the median of their times: one by one, decoded before."""
    files = sorted((Path(job["folder"]) / "test").iterdir())
    images = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] for file in files]
    scores, times = [], []
    with torch.inference_mode():
        for image in [*images[: job["warm_up"]], *images]:
            began = time.perf_counter()
            found = model.model(model.pre_processor(image.float() / 255))
            scores.append(float(found.pred_score))
            times.append(1000 * (time.perf_counter() - began))
    return scores[job["warm_up"] :], median(times[job["warm_up"] :])


if __name__ == "__main__":
    main()
