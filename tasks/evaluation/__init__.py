"""Calibrating and evaluating a trained detector as a Prefect task.

``task`` is the Prefect task, ``result`` what it returns, ``winner`` chooses among the results of a
category.
"""
