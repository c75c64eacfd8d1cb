"""Addresses of MLflow's pages, for people."""


def mlflow_page(server: str, path: str) -> str:
    """The address of a page, such as ``models`` or ``runs/RUN_ID``.

    MLflow opens in a mode for language models, without the registry, unless the address asks for
    the other one.
    """
    return f"{server}/#/{path}?workflowType=machine_learning"
