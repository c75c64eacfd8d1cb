"""AST against its formulas, worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from toys import toy_teacher

from stillwatch.detectors.asymmetric_student_teacher import (
    AsymmetricStudentTeacher,
    CouplingBlock,
    NormalisingFlow,
    ResidualStudent,
    positional_encoding,
)


def column(*values: float) -> torch.Tensor:
    """One position with these channels: (1, C, 1, 1)."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_coupling_block_by_hand() -> None:
    """s = 3 is clamped to 2/π · 3 · π/4 = 1.5, and s = -3 to -1.5; large ones to 3 at most.

    The halves of (5, 7) in the order of the permutation are 7 and 5.
    """
    block = CouplingBlock(2, width=1, side=3)
    block.permutation = torch.tensor([1, 0])
    block.from_second = FixedNetwork(column(3.0, 0.25))
    block.from_first = FixedNetwork(column(-3.0, 2.0))
    y, log_scale = block(column(5.0, 7.0), torch.zeros(1, 32, 1, 1))
    expected = [7 * math.exp(1.5) + 0.25, 5 * math.exp(-1.5) + 2]
    np.testing.assert_allclose(y.flatten(), expected, rtol=1e-6)
    assert log_scale.item() == pytest.approx(0)
    block.from_first = FixedNetwork(column(1e9, 0.0))
    assert block(column(5.0, 7.0), torch.zeros(1))[1].item() == pytest.approx(1.5 + 3)


def test_second_half_is_computed_from_the_new_first_half() -> None:
    block = CouplingBlock(2, width=1, side=1)
    seen: dict[str, torch.Tensor] = {}
    block.from_second = FixedNetwork(column(0.0, 10.0))
    block.from_first.register_forward_pre_hook(lambda _, given: seen.update(first=given[0]))
    block.permutation = torch.arange(2)
    block(column(5.0, 7.0), torch.zeros(1, 32, 1, 1))
    assert seen["first"].item() == 15


def test_determinant_is_that_of_the_jacobian_of_the_whole_map() -> None:
    torch.manual_seed(0)
    flow = NormalisingFlow(5, width=4).double()
    for block in flow.blocks:
        block.from_second.gamma.data.fill_(1.0)
        block.from_first.gamma.data.fill_(-1.0)
    x, condition = torch.randn(1, 5, 2, 3).double(), torch.randn(1, 32, 2, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda given: flow(given, condition)[0], x)
    expected = torch.linalg.slogdet(jacobian.reshape(30, 30)).logabsdet
    found = flow(x, condition)[1]
    assert found.shape == (1, 2, 3)
    assert found.sum().item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(expected.item()) > 0.1


def test_untrained_flow_only_permutes_channels() -> None:
    x = torch.randn(2, 6, 3, 3)
    z, log_determinant = NormalisingFlow(6, width=4)(x, torch.randn(2, 32, 3, 3))
    torch.testing.assert_close(z.sort(dim=1).values, x.sort(dim=1).values)
    assert not torch.equal(z, x)
    assert not log_determinant.any()


def test_losses_and_map_by_hand() -> None:
    """|z|^2 is 25, over 2, less 0.5; of (3, 4) and (3, 2) the mean square is (0 + 4) / 2."""
    detector = AsymmetricStudentTeacher.build(toy_teacher(), {})
    features = [torch.zeros(1, 20, 2, 2), torch.zeros(1, 28, 1, 1)]
    detector.teacher = FixedNetwork(features)
    detector.flow = FixedNetwork((column(3.0, 4.0), torch.full((1, 1, 1), 0.5)))
    detector.student = FixedNetwork(column(3.0, 2.0))
    flow, student = detector.phases()
    batch = SimpleNamespace(features=features)
    assert flow.loss(batch).item() == 12
    assert student.loss(batch).item() == 2
    (level,) = detector.level_maps(torch.zeros(1, 3, 16, 16))
    assert level.tolist() == [[[2]]]


def test_positional_encoding_by_hand() -> None:
    """Row 2 and column 1; the frequencies are 1, 10^(-1/2), 10^(-1), … for k = 0, 1, 2, …"""
    encoding = positional_encoding(3, 2)
    assert encoding.shape == (32, 3, 2)
    here = encoding[:, 2, 1].view(4, 8)
    angles = [2 * 10 ** (-k / 2) for k in range(8)]
    np.testing.assert_allclose(here[0], np.sin(angles), rtol=1e-5)
    np.testing.assert_allclose(here[1], np.cos(angles), rtol=1e-5)
    np.testing.assert_allclose(here[2], np.sin(np.array(angles) / 2), rtol=1e-5)
    np.testing.assert_allclose(here[3], np.cos(np.array(angles) / 2), rtol=1e-5)


def test_layers_are_those_of_the_paper() -> None:
    """Table 6 of the paper counts about 19 million parameters for each residual block."""
    with torch.device("meta"):
        flow, student = NormalisingFlow(304, width=1024), ResidualStudent(304, width=1024)
    sides = [block.from_first.hidden.kernel_size for block in flow.blocks]
    assert sides == [(3, 3), (3, 3), (3, 3), (5, 5)]
    first = flow.blocks[0].from_second
    assert first.hidden.weight.shape == (1024, 152 + 32, 3, 3)
    assert first.output.weight.shape == (304, 1024, 3, 3)
    inner = [layer for layer in student.layers if hasattr(layer, "body")]
    assert len(inner) == 4
    counts = {sum(value.numel() for value in block.parameters()) for block in inner}
    assert counts == {2 * (9 * 1024**2 + 2 * 1024)}
