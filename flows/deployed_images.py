"""The deployments ``ingest``, ``inspect`` and ``watch``: what the images of a line go through."""

from prefect import flow
from prefect.client.schemas import State

from stillwatch.flows.ingest import ingest_images
from stillwatch.flows.inspect import inspect_folder
from stillwatch.flows.run_settings import deployed_settings
from stillwatch.flows.watch import score_reader, watch_champions


@flow(name="ingest", flow_run_name="ingest")
def ingest() -> State[None]:
    """Take in the images that lie still in the inbox, and announce their categories."""
    return ingest_images(deployed_settings())


@flow(name="inspect", flow_run_name="inspect {category}")
def inspect(category: str, folder: str = "") -> State[None]:
    """Inspect a folder of images with a category's champion.

    Args:
        category: The product line.
        folder: Inside inspection.path of params.yaml; empty for the one named like the category.
    """
    return inspect_folder(category, folder, deployed_settings())


@flow(name="watch", flow_run_name="watch")
def watch() -> State[None]:
    """Test the scores of every champion for drift, and announce an alarm once."""
    settings = deployed_settings()
    with score_reader(settings) as read_scores:
        return watch_champions(settings, read_scores)
