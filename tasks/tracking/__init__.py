"""The MLflow client.

``client`` opens the store and reads and writes runs, ``entries`` gives values the form that MLflow
logs, ``tags`` names the tags, ``pages`` gives the addresses of MLflow's pages.
"""
