"""A served version in this process, with a detector that fails on some images."""

import asyncio
import base64
import io
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from made_bundles import brightness, make_bundle
from made_stores import new_store
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import DetectorError
from stillwatch.flows.serving.app import make_app
from stillwatch.flows.serving.champions import Champions
from stillwatch.flows.serving.served_model import ServedModel
from stillwatch.inference.inspector import InspectedImage, Inspector
from stillwatch.inference.score_log import ScoreLog, open_score_log
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import model_name

NOT_FINITE, CRASHES = 13, 14
"""Brightest pixels of images with which the detector cannot cope."""


def delicate(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    (maps,) = brightness(tiles)
    peaks = maps.max(axis=(1, 2))
    if CRASHES in peaks:
        raise RuntimeError("device-side assert triggered")
    maps[peaks == NOT_FINITE] = np.nan
    return [maps]


@dataclass(frozen=True)
class Line:
    model: ServedModel
    client: TestClient
    log: ScoreLog


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    settings = Settings(state_dir=tmp_path / "state")
    version = ModelVersion(model_name("plate"), "1", 0)
    inspector = Inspector(make_bundle(tmp_path / "bundle"), delicate)
    with open_score_log(settings) as log, ThreadPoolExecutor(1) as compute:
        champions = Champions(new_store(settings), settings, ["plate"], compute, log)
        model = ServedModel(version, inspector, settings, compute, log)
        champions._models["plate"] = model
        app = make_app(champions, settings.serving, None)
        yield Line(model, TestClient(app, raise_server_exceptions=False), log)


def png(peak: int, width: int = 16, height: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (peak, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def test_what_waits_to_be_scored_keeps_its_pixels_only_for_a_picture(line: Line) -> None:
    data = png(200, 3000, 2000)
    assert line.model.megapixels(data) == 6
    upload = line.model.read(data, overlay=False)
    assert (upload.height, upload.width) == (2000, 3000)
    assert len(pickle.dumps(upload)) < 10_000
    pixels = line.model.read(data, overlay=True).pixels
    assert pixels is not None
    assert pixels.shape == (2000, 3000, 3)


def test_an_image_without_a_finite_map_fails_alone(line: Line) -> None:
    async def ask() -> list[InspectedImage | BaseException]:
        peaks = (50, NOT_FINITE, 200)
        uploads = [line.model.read(png(peak), overlay=False) for peak in peaks]
        return await asyncio.gather(*map(line.model.inspect, uploads), return_exceptions=True)

    dark, broken, bright = asyncio.run(ask())
    assert isinstance(broken, DetectorError)
    assert isinstance(dark, InspectedImage)
    assert isinstance(bright, InspectedImage)
    assert (dark.verdict, bright.verdict) == ("pass", "reject")
    assert line.log.read_scores("plate", 1)["score"].tolist() == [50, 200]


def test_the_picture_of_a_large_image_is_reduced_and_its_mask_is_not(line: Line) -> None:
    reply = line.client.post(
        "/inspect/plate?mask=true&overlay=true",
        content=png(200, 5000, 40),
        headers={"Content-Type": "image/png"},
    )
    answer = reply.json()
    assert (answer["verdict"], answer["mask"]["size"]) == ("reject", [40, 5000])
    assert sum(answer["mask"]["counts"]) == 200_000
    picture = Image.open(io.BytesIO(base64.b64decode(answer["overlay"])))
    assert picture.width == 4096
    assert 33 < picture.height < 300, "the caption is below the image"
    assert len(reply.content) < 100_000


@pytest.mark.parametrize("peak", [NOT_FINITE, CRASHES])
def test_a_detector_that_fails_is_told_in_one_sentence(line: Line, peak: int) -> None:
    reply = line.client.post(
        "/inspect/plate", content=png(peak), headers={"Content-Type": "image/png"}
    )
    assert reply.status_code == 500
    assert reply.json() == {"detail": "the service failed; its log says why"}
    assert 'category="plate",status="500"} 1.0' in line.client.get("/metrics").text
