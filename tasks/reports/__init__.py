"""The HTML report of a retraining, and the approval page.

``task`` is the Prefect task, ``record`` reads a retraining from MLflow, ``page``, ``tables`` and
``sentences`` render it, ``approval`` renders the page for the approver, ``decisions`` replaces it,
``description`` renders the text on the version's page in MLflow.
"""
