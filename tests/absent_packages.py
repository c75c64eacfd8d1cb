"""A Python process as on a machine that lacks some packages."""

_CODE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (made absent)", name=name)

sys.meta_path.insert(0, Absent())
"""
NOT_ON_AN_EDGE_BOX = {
    *("torch", "torchvision", "timm", "sklearn", "matplotlib", "pyarrow", "onnx", "onnxscript"),
    *("prefect", "mlflow", "dvc", "great_expectations", "pandas", "filelock", "psutil"),
}


def without(packages: set[str], code: str) -> str:
    """``code``, for which these packages are not installed."""
    return _CODE.format(packages=packages) + code
