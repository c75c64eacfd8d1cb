"""A Python process as on a machine that lacks some packages."""

_CODE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
NOT_ON_AN_EDGE_BOX = {
    *("torch", "torchvision", "timm", "sklearn", "matplotlib", "pyarrow", "onnx", "onnxscript"),
    *("prefect", "mlflow", "dvc", "great_expectations", "pandas", "filelock", "psutil"),
}


def without(packages: set[str], code: str) -> str:
    """``code``, for which these packages are not installed."""
    return _CODE.format(packages=packages) + code
