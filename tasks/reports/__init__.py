"""HTML pages about a retraining, and its approval page.

``task`` is the Prefect task, ``record`` reads the figures from MLflow, ``page``, ``tables`` and
``sentences`` show them.
"""
