"""Training a detector: the loop, its batches, and its checkpoints.

``loop`` trains in this process; ``job`` does so in a child process (``child``) that may be killed
and resumes from a checkpoint.
"""
