"""The MLflow model registry: registering a bundle, and reading versions.

``register`` registers the winner and reloads it (``reload``) before the version counts;
``versions`` reads what is registered.
"""
