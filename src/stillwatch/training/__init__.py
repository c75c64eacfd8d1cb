"""Train a detector: the loop, its batches and its checkpoints.

``job`` trains in a child process (``child``), which can be killed and resumes from a checkpoint;
``loop`` trains in this process; ``shared_phases`` keeps what several trainings have in common.
"""
