"""Starting, finding and stopping the Prefect server, the MLflow server and the worker.

``up`` starts all of them, ``prefect_server`` the server that a single command needs;
``deployments`` and ``automations`` configure the Prefect server.
"""
