"""From a bundle and images to scores, maps, masks and verdicts: the only inference path.

``inspector`` is the entry; ``scorers`` opens the network of a bundle by PyTorch, ONNX Runtime or
OpenVINO; ``score_log`` keeps what was inspected.
"""
