"""Starting, finding and stopping the Prefect and MLflow servers and the worker.

``up`` starts all of them for a plant, ``prefect_server`` is what a single command needs,
``deployments`` and ``automations`` are what the Prefect server is told.
"""
