"""Checks of a category's images with Great Expectations.

``task`` is the Prefect task, ``suite`` builds the expectations, ``checkpoint`` runs them,
``report`` is the outcome and ``page`` its HTML page.
"""
