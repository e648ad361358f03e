"""Codebooks that keep a layer's outputs, not its weights: EM weighted by activations.

Stock et al., section 3.2. A weight's blocks are the columns of W [d, n]; A [rows, d] holds the
inputs that such a block sees. Wanted are centroids c and codes that minimize

    sum over blocks of |A (w - c[code])|^2 = sum of (w - c)^T G (w - c),     G = A^T A

    E-step  code = argmin of |L (w - c)|, with G = L^T L: a nearest neighbour after the map L
    M-step  c = A^+ A mean of its blocks, which is their mean where A has full rank

An empty cluster takes half of the most populated one: both centroids become that one's, moved a
little in opposite directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Quantized", "assign", "quantize_blocks", "weighted_error"]

_CHUNK = 1 << 16
_SPLITS = 8


@dataclass(frozen=True)
class Quantized:
    """The result for one layer.

    Attributes:
        codebook: float32 [K, d].
        codes: int64 [n].
        objective: Mean weighted error of a block after each iteration.
        resolved: Empty clusters that were filled, over all iterations.
    """

    codebook: Tensor
    codes: Tensor
    objective: tuple[float, ...]
    resolved: int


def quantize_blocks(
    blocks: Tensor,
    sample_inputs: Callable[[], Tensor],
    centroids: int,
    iterations: int,
    generator: torch.Generator,
) -> Quantized:
    """Quantize the blocks of one layer.

    Args:
        blocks: float [n, d].
        sample_inputs: Draws A, float [rows, d]; called once an iteration.
        centroids: K, at most n.
        iterations: Of the E- and M-step; the codes come from one more E-step.
        generator: Of the initial centroids and of the splits, on the CPU.
    """
    blocks = blocks.double()
    start = torch.randperm(len(blocks), generator=generator)[:centroids]
    codebook = blocks[start.to(blocks.device)].clone()
    objective, resolved = [], 0
    for _ in range(iterations):
        gram = _gram(sample_inputs())
        root, projection = _root_and_projection(gram)
        codes = assign(blocks, codebook, root)
        resolved += _fill_empty(blocks, codes, centroids, root, generator)
        codebook = _means(blocks, codes, codebook) @ projection
        objective.append(weighted_error(blocks, codebook[codes], gram))
    # float16 is what the file holds; the codes are chosen for it.
    codebook = codebook.half().double()
    codes = assign(blocks, codebook, _root_and_projection(_gram(sample_inputs()))[0])
    return Quantized(codebook.float(), codes, tuple(objective), resolved)


def assign(blocks: Tensor, codebook: Tensor, root: Tensor) -> Tensor:
    """The nearest centroid of each block in the metric of G = root^T root; int64 [n].

    In float32, twice as fast: a block between two centroids may as well take either.
    """
    mapped, targets = (blocks @ root.T).float(), (codebook @ root.T).float()
    parts = torch.split(mapped, _CHUNK)
    return torch.cat([torch.cdist(part, targets).argmin(dim=1) for part in parts])


def weighted_error(blocks: Tensor, decoded: Tensor, gram: Tensor) -> float:
    """Mean of (w - c)^T G (w - c) over the blocks."""
    error = blocks - decoded
    return float(((error @ gram) * error).sum(dim=1).mean())


def _gram(inputs: Tensor) -> Tensor:
    """G of A, as a mean over its rows."""
    inputs = inputs.double()
    return inputs.T @ inputs / len(inputs)


def _root_and_projection(gram: Tensor) -> tuple[Tensor, Tensor]:
    """L with G = L^T L, and the projection A^+ A on the rows of A; both [d, d]."""
    values, vectors = torch.linalg.eigh(gram)
    tolerance = values.max().clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    seen = values > tolerance
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T
    kept = vectors[:, seen]
    return root, kept @ kept.T


def _means(blocks: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
    """Mean of each cluster; a cluster that stayed empty keeps its centroid."""
    counts = torch.bincount(codes, minlength=len(codebook)).to(blocks.dtype)[:, None]
    sums = torch.zeros_like(codebook).index_add_(0, codes, blocks)
    return torch.where(counts > 0, sums / counts.clamp_min(1), codebook)


def _fill_empty(
    blocks: Tensor, codes: Tensor, centroids: int, root: Tensor, generator: torch.Generator
) -> int:
    """Split populated clusters until none is empty; codes are changed in place.

    A plane through its mean splits a cluster, as two centroids near the mean would. A cluster of
    equal blocks cannot be split; after a few tries it is left alone.
    """
    counts = torch.bincount(codes, minlength=centroids)
    empty = (counts == 0).nonzero().flatten().tolist()
    filled = 0
    for hole in empty:
        for _ in range(_SPLITS):
            fullest = int(counts.argmax())
            if int(counts[fullest]) < 2:
                return filled
            across = torch.randn(blocks.shape[1], generator=generator, dtype=torch.float64)
            members = (codes == fullest).nonzero().flatten()
            centred = blocks[members] - blocks[members].mean(dim=0)
            side = (centred @ root.T) @ (root @ across.to(blocks.device)) > 0
            moved = members[side]
            if not 0 < len(moved) < len(members):
                continue
            codes[moved] = hole
            counts[fullest] -= len(moved)
            counts[hole] = len(moved)
            filled += 1
            break
    return filled
