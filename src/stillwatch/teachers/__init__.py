"""Frozen pretrained networks whose feature maps detectors compare with a student's.

``weights`` finds a weights file and checks its digest, without torch; ``networks`` loads a teacher;
``architectures`` builds its network with timm or torchvision, and ``transformers`` makes feature
maps of a vision transformer's tokens.
"""

from stillwatch.teachers.weights import TeacherWeights, find_weights

__all__ = ["TeacherWeights", "find_weights"]
