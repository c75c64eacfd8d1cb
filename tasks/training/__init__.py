"""Training one detector of one category as a Prefect task.

``task`` reuses a finished run with the same ``fingerprint`` or trains in a ``slots`` slot of a
device; ``candidates`` lists what competes; ``retraining_run`` is the parent run in MLflow.
"""
