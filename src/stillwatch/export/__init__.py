"""A bundle as an ONNX or OpenVINO graph, in float32 or 8-bit integers.

``export`` writes a bundle that needs no PyTorch, and compares its scores with the original's.
"""
