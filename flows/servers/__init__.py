"""Starting, finding and stopping the Prefect server, the MLflow server, the worker and the trigger.

``up`` starts all of them, ``prefect_server`` the server that a single command needs;
``deployments`` and ``automations`` configure the Prefect server.
"""
