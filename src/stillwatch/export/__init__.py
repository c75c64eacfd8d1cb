"""Export a bundle as an ONNX or OpenVINO graph, which needs no PyTorch.

``export`` writes the exported bundle and compares its scores with those of the original;
``graphs`` traces a detector.
"""
