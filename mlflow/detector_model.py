"""What MLflow loads and serves: a bundle behind MLflow's own interface.

Logged as code, so that no pickle is involved; the package ``stillwatch`` travels with it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME

from stillwatch.bundle import read_bundle
from stillwatch.errors import ImageError
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.torch_scorer import load_scorer


class DetectorModel(PythonModel):
    """Image files in, verdicts out.

    Input: a column ``image`` with the bytes of image files (base64 over REST).
    Output: one row per image with ``verdict``, ``score``, ``p_value``, ``threshold``, ``alpha``,
    ``model_version``, which is null where the model was not taken from the registry, and ``note``,
    which says why an image that would pass needs a review.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle.

        ``model_config={"device": "cpu"}`` chooses another device than auto, ``max_megapixels`` in
        it another size from which images are refused than the plant had at the registration.
        """
        folder = Path(context.artifacts["bundle"])
        bundle = read_bundle(folder)
        config = context.model_config
        scorer = load_scorer(bundle, config["device"])
        self.inspector = Inspector(bundle, scorer, max_megapixels=config["max_megapixels"])
        self.version = _version(folder.parents[1])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """Judge every image; one that cannot be read refuses the whole request by name."""
        reject = self.inspector.bundle.info.calibration.reject
        # One by one: the pixels of all may not fit into memory.
        images = (self._decode(data, row) for row, data in enumerate(model_input["image"]))
        inspected = self.inspector.inspect(images)
        return pd.DataFrame(
            [
                (
                    image.verdict,
                    image.score,
                    image.p_value,
                    reject.value,
                    reject.alpha,
                    self.version,
                    image.note,
                )
                for image in inspected
            ],
            columns=["verdict", "score", "p_value", "threshold", "alpha", "model_version", "note"],
        )

    def _decode(self, data: bytes, row: int) -> np.ndarray:
        try:
            return self.inspector.decode(data, name=f"image {row}").image
        except ImageError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _version(package: Path) -> int | None:
    """What MLflow writes beside a model that it takes from its registry."""
    file = package / REGISTERED_MODEL_META_FILE_NAME
    if not file.exists():
        return None
    return int(yaml.safe_load(file.read_text(encoding="utf-8"))["model_version"])


set_model(DetectorModel())
