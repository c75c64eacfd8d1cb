"""Load a registered model through MLflow and score image files with it, in a process of its own.

This file imports nothing of stillwatch: the code must come with the model.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

BATCH = 16
LARGE = ("torch", "timm", "mlflow.pyfunc")
"""Imported before the order arrives."""


def main() -> None:
    """Read an order from standard input; print one row per image, as JSON on the last line."""
    for library in LARGE:
        importlib.import_module(library)
    order = json.load(sys.stdin)
    mlflow.set_tracking_uri(order["uri"])
    mlflow.set_registry_uri(order["uri"])
    model = mlflow.pyfunc.load_model(order["model"], model_config={"device": order["device"]})
    _check_code_is_the_models()
    images = [Path(path) for path in order["images"]]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(images), BATCH):
        batch = [image.read_bytes() for image in images[start : start + BATCH]]
        rows += model.predict(pd.DataFrame({"image": batch})).to_dict("records")
    sys.stdout.write(f"\n{json.dumps(rows)}\n")


def _check_code_is_the_models() -> None:
    import stillwatch

    shipped, used = Path(sys.path[0]).resolve(), Path(stillwatch.__file__).resolve()
    if not used.is_relative_to(shipped):
        sys.exit(f"the model's own code in {shipped} was not used, but {used}")


if __name__ == "__main__":
    main()
