import io
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_bundles import brightness, make_bundle
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from flows.serving.served_model import ServedModel
from stillwatch.inspection import Inspector
from stillwatch.settings import Settings
from tasks.registry import model_name
from tasks.score_log import open_score_log


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ServedModel]:
    settings = Settings(state_dir=tmp_path / "state")
    version = ModelVersion(model_name("plate"), "1", 0)
    inspector = Inspector(make_bundle(tmp_path / "bundle"), brightness)
    with open_score_log(settings) as log, ThreadPoolExecutor(1) as compute:
        yield ServedModel(version, inspector, settings, compute, log)


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def test_what_waits_to_be_scored_keeps_the_file_and_not_its_pixels(model: ServedModel) -> None:
    data = png(3000, 2000)
    upload = model.read(data)
    assert (upload.height, upload.width) == (2000, 3000)
    assert len(pickle.dumps(upload)) < len(data) + 10_000
    assert model.pixels(upload).shape == (2000, 3000, 3)
