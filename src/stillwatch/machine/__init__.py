"""What this machine computes with: threads, the device of torch, and whether it has a GPU driver.

``threads`` is imported before numpy or torch, and ``gpu_driver`` imports neither.
"""
