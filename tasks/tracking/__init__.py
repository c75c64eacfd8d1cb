"""The MLflow client: runs, their files and tags.

``client`` opens MLflow and turns its errors into ours, ``retraining_run`` is the parent run of one
category's retraining, ``tags`` names the tags.
"""
