"""Log a bundle as an MLflow model with its code, requirements, signature and example."""

import importlib
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pandas as pd
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import stillwatch
from stillwatch.tasks.tracking.client import BUNDLE, Tracking

MODEL_CODE = Path(__file__).with_name("detector_model.py")
"""In a checkout a link to ``mlflow/detector_model.py``: the folder ``mlflow`` is in no package."""

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "verdict"),
            ColSpec(DataType.double, "score"),
            ColSpec(DataType.double, "p_value"),
            ColSpec(DataType.double, "threshold"),
            ColSpec(DataType.double, "alpha"),
            ColSpec(DataType.long, "model_version", required=False),
            ColSpec(DataType.string, "note", required=False),
        ]
    ),
)

NEEDED = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)
"""The packages that a registered model computes with."""


def log_detector_model(
    tracking: Tracking,
    run_id: str,
    *,
    name: str,
    bundle: Path,
    example: list[bytes],
    max_megapixels: float,
) -> str:
    """Log a bundle as a model of the run and return the model's id.

    ``mlflow.models.Model.log`` and ``mlflow.pyfunc.log_model`` cannot be told the store: they use
    the tracking address of the whole process (MLflow 3.17), so the model is saved to a folder and
    uploaded by the client.

    Args:
        run_id: the run that the bundle comes from.
        name: of the model.
        bundle: the bundle's folder.
        example: image files for the input example.
        max_megapixels: the model refuses larger images.
    """
    with tracking.errors("log the model"), tempfile.TemporaryDirectory() as folder:
        client = tracking.client
        logged = client.create_logged_model(
            client.get_run(run_id).info.experiment_id,
            name=name,
            source_run_id=run_id,
            model_type="anomaly detector",
        )
        package = Path(folder) / "model"
        _pyfunc().save_model(
            path=package,
            python_model=MODEL_CODE,
            artifacts={BUNDLE: str(bundle)},
            code_paths=[str(_ground_floor(Path(folder)))],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"image": example}),
            pip_requirements=requirements(),
            model_config={"device": "auto", "max_megapixels": max_megapixels},
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
        )
        client.log_model_artifacts(logged.model_id, str(package))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _ground_floor(folder: Path) -> Path:
    """Copy ``stillwatch`` to ``folder`` without flows and tasks, which a model does not need."""
    package = Path(stillwatch.__file__).parent
    copy = folder / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("flows", "tasks", "__pycache__"))
    return copy


def _pyfunc() -> ModuleType:
    """Import ``mlflow.pyfunc`` when it is needed: the import takes seconds and warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        return importlib.import_module("mlflow.pyfunc")


def requirements() -> list[str]:
    """The requirements of the model in the versions of this environment, without build labels."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDED]
