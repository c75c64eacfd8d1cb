"""INT8 from the command line's side: on the very images that a bundle was trained on."""

from pathlib import Path

import pytest
from made_bundles import make_detector_bundle
from tests.flows.conftest import Plant, make_plant, write_image

from stillwatch.bundle import read_bundle, read_weights, write_bundle
from stillwatch.calibration import calibrate
from stillwatch.errors import ExportError
from stillwatch.flows.cli.inspection.export import export_quantized_model
from stillwatch.flows.image_sets import version_images
from stillwatch.settings import load_settings


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    plant = make_plant(tmp_path / "line")
    monkeypatch.chdir(plant.folder)
    for name in ("HOME", "GIT_CONFIG_NOSYSTEM", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, plant.environment()[name])
    return plant


def test_only_on_the_images_that_the_bundle_was_trained_on(line: Plant) -> None:
    margins = {"image_auroc": 0.99, "aupro": 0.99}  # its memory is random
    line.set_params(gate={"veto_margins": margins})
    settings = load_settings(line.folder / "params.yaml")
    data = version_images(settings, root=line.images, categories=["bolt"], say=print)
    made = make_detector_bundle(line.folder / "made")
    info = made.info.model_copy(
        update={
            "category": "bolt",
            "provenance": {"training_digest": data.categories["bolt"].training_digest},
            "calibration": calibrate(
                made.info.calibration.scores, alpha_reject=0.2, alpha_review=0.3
            ),
        }
    )
    write_bundle(line.folder / "bundle", info, read_weights(made))

    def export(folder: str) -> None:
        export_quantized_model(
            "bundle", Path(folder), root=line.images, settings=settings, say=print
        )

    # What is tested may change, for nothing was trained on it.
    write_image(line.images / "bolt" / "test" / "good" / "later.png", seed=78)
    export("int8")
    calibration = read_bundle(Path("int8")).info.calibration
    assert calibration.reject.n < made.info.calibration.reject.n, "those of the category"
    write_image(line.images / "bolt" / "train" / "good" / "new.png", seed=77)
    with pytest.raises(ExportError, match="is not what the bundle was trained on"):
        export("later")
    assert not Path("later").exists()
