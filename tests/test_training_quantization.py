"""Product quantization against brute force: the objective, its two steps, empty clusters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bitexport.errors import InputError, UnsupportedModel
from training.product_quantization.em import assign, quantize_blocks, weighted_error
from training.product_quantization.layers import (
    BlockPlan,
    block_inputs,
    codebook_layer,
    codebook_size,
    fold_batch_norm,
)
from training.product_quantization.plan import load_plan


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_assignment_is_the_exhaustive_search_over_outputs() -> None:
    blocks, codebook, inputs = torch.randn(50, 6), torch.randn(8, 6), torch.randn(40, 6)
    outputs = inputs @ blocks.T  # [rows, n]
    candidates = inputs @ codebook.T  # [rows, K]
    errors = (outputs[:, :, None] - candidates[:, None, :]).square().sum(dim=0)
    _, root = torch.linalg.qr(inputs)  # root^T root = inputs^T inputs
    assert torch.equal(assign(blocks, codebook, root), errors.argmin(dim=1))


def test_weighted_error_is_the_error_of_the_outputs() -> None:
    blocks, decoded, inputs = torch.randn(50, 6), torch.randn(50, 6), torch.randn(40, 6)
    expected = (inputs @ (blocks - decoded).T).square().sum(dim=0).mean()
    got = weighted_error(blocks, decoded, inputs.T @ inputs)
    assert got == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("rank", [6, 3])
def test_centroids_solve_the_least_squares_of_their_clusters(rank: int) -> None:
    """Also where the inputs do not span the blocks' space: the pseudo-inverse's solution."""
    inputs = torch.randn(40, rank) @ torch.randn(rank, 6)
    blocks = torch.randn(60, 6)
    result = quantize_blocks(blocks, lambda: inputs, 4, 1, generator())
    start = torch.randperm(60, generator=generator())[:4]
    gram = (inputs.T @ inputs).double()
    values, vectors = torch.linalg.eigh(gram)
    codes = assign(
        blocks.double(), blocks[start].double(), values.clamp_min(0).sqrt()[:, None] * vectors.T
    )
    pinv = torch.linalg.pinv(inputs.double(), rcond=1e-5)
    for k in range(4):
        members = blocks[codes == k].double()
        stacked = inputs.double() @ members.T  # the outputs that one centroid has to match
        expected = pinv @ stacked.sum(dim=1) / len(members)
        torch.testing.assert_close(result.codebook[k].double(), expected, rtol=2e-3, atol=2e-3)


def test_objective_falls_and_weighting_pays() -> None:
    blocks = torch.randn(500, 4)
    inputs = torch.randn(200, 4) * torch.tensor([10.0, 1.0, 0.1, 0.1])
    gram = (inputs.T @ inputs).double() / len(inputs)
    weighted = quantize_blocks(blocks, lambda: inputs, 16, 15, generator())
    plain = quantize_blocks(blocks, lambda: torch.eye(4), 16, 15, generator())
    assert weighted.objective[-1] < weighted.objective[0]
    errors = [
        weighted_error(blocks.double(), r.codebook.double()[r.codes], gram)
        for r in (weighted, plain)
    ]
    assert errors[0] < 0.5 * errors[1]
    assert weighted.codebook.half().float().equal(weighted.codebook)


def test_empty_clusters_take_half_of_the_fullest() -> None:
    """Equal blocks among the initial centroids leave clusters empty."""
    blocks = torch.cat([torch.zeros(30, 4), torch.ones(30, 4)]) + 0.01 * torch.randn(60, 4)
    blocks[:20] = blocks[0]
    result = quantize_blocks(blocks, lambda: torch.eye(4), 16, 5, generator())
    assert result.resolved > 0
    start = blocks[torch.randperm(60, generator=generator())[:16]].unique(dim=0)
    assert len(result.codes.unique()) > len(start)
    assert result.objective[-1] < result.objective[0]


def test_blocks_that_cannot_be_split_end_the_search() -> None:
    result = quantize_blocks(torch.ones(20, 4), lambda: torch.eye(4), 8, 3, generator())
    assert torch.equal(result.codebook[result.codes], torch.ones(20, 4))


@pytest.mark.parametrize("groups", [1, 2])
def test_inputs_of_blocks_reproduce_the_convolution(groups: int) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 4, 7, 7)
    torch.manual_seed(3)
    positions = 2 * 4 * 4 * groups
    rows = block_inputs(conv, x, 18 // groups, positions).reshape(positions, -1)
    torch.manual_seed(3)
    order = torch.randperm(positions)
    per_group = conv.weight.reshape(groups, 6 // groups, -1)
    # [N, positions, groups] in the order of the windows, back from their random order.
    ordered = torch.empty_like(rows)
    ordered[order] = rows
    windows = ordered.reshape(2, 16, groups, -1)
    got = torch.einsum("npgk,gok->ngop", windows, per_group).reshape(2, 6, 4, 4)
    torch.testing.assert_close(got, conv(x), rtol=1e-4, atol=1e-5)


def test_gradient_of_a_centroid_is_the_mean_of_its_blocks() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    codes = torch.arange(6 * 4) % 5
    codebook = torch.randn(5, 9)
    layer = codebook_layer(conv, codebook, codes)
    dense = layer.weight.detach().clone().requires_grad_()
    x, probe = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    (layer(x) * probe).sum().backward()
    (torch.nn.functional.conv2d(x, dense, padding=1) * probe).sum().backward()
    assert dense.grad is not None
    blocks = dense.grad.reshape(-1, 9)
    expected = torch.stack([blocks[codes == k].mean(dim=0) for k in range(5)])
    torch.testing.assert_close(layer.codebook.grad, expected, rtol=1e-4, atol=1e-5)


def test_folded_batch_norm_computes_the_same() -> None:
    model = nn.Sequential(nn.BatchNorm2d(5)).eval()
    norm = model[0]
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(3, 5, 4, 4)
    before = model(x)
    fold_batch_norm(model)
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    assert torch.equal(norm.weight.half().float(), norm.weight)
    torch.testing.assert_close(model(x), before, rtol=2e-3, atol=2e-3)


def test_codebook_sizes_are_those_of_the_published_checkpoints() -> None:
    """k = min(K, the largest power of two below blocks / 4): kill-the-bits' ResNet-18."""
    plan = load_plan("small", "resnet18", "imagenet").blocks
    assert codebook_size(plan, nn.Conv2d(64, 64, 3), 9) == 256
    assert codebook_size(plan, nn.Linear(512, 1000), 4) == 2048
    assert codebook_size(plan, nn.Linear(512, 10), 4) == 256
    assert codebook_size(plan, nn.Conv2d(8, 16, 1), 4) == 4
    for blocks in (5, 8, 9, 32, 100):
        size = codebook_size(BlockPlan(linear=1), nn.Linear(blocks, 1), 1)
        assert size < blocks / 4 <= 2 * size or size == 1
        assert math.log2(size).is_integer()


@pytest.mark.parametrize(
    ("arch", "blocks", "spatial", "pointwise", "linear_centroids"),
    [
        ("resnet18", "small", 9, 4, 2048),
        ("resnet18", "large", 18, 4, 2048),
        ("resnet50", "small", 9, 4, 1024),
        ("resnet50", "large", 18, 8, 1024),
    ],
)
def test_plans(arch: str, blocks: str, spatial: int, pointwise: int, linear_centroids: int) -> None:
    plan = load_plan(blocks, arch, "imagenet")
    assert (plan.blocks.spatial, plan.blocks.pointwise) == (spatial, pointwise)
    assert plan.blocks.linear_centroids == linear_centroids
    assert plan.whole_epochs == 9 and "paper" in "".join(plan.reported)


def test_refusals() -> None:
    with pytest.raises(InputError, match="unknown block sizes"):
        load_plan("medium", "resnet18", "digits")
    with pytest.raises(UnsupportedModel, match="cannot be cut"):
        BlockPlan(spatial=18).block_size("conv", nn.Conv2d(3, 4, 3))
