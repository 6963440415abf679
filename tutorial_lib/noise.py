"""Where noise comes from: a callable `noise(like) -> Tensor` that every stochastic function is handed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

Noise = Callable[[Tensor], Tensor]


def standard_normal(source: int | Generator | Sequence[Generator] = 0) -> Noise:
    """A noise source: `noise(like)` draws N(0, I) with the shape, dtype and device of `like`.

    An integer seeds one CPU generator (seed 0 is a seed). A list of B generators gives each sample of a batch its own
    stream, so that sample i does not depend on its batch mates. Nothing draws from torch's global generator.
    Draws are made on the generator's device and then moved, so a CPU seed gives the same noise on every device.
    """
    many = isinstance(source, Sequence) and all(isinstance(generator, Generator) for generator in source)
    if isinstance(source, bool | str) or not (many or isinstance(source, int | Generator)):
        raise TypeError(f"source must be an integer seed, a torch.Generator or a list of them, but {source!r} came")
    generators = Generator().manual_seed(source) if isinstance(source, int) else source

    def draw(like: Tensor) -> Tensor:
        if isinstance(generators, Generator):
            return torch.randn(like.shape, generator=generators, device=generators.device, dtype=like.dtype).to(
                like.device
            )
        if len(generators) != len(like):
            raise ValueError(f"noise has {len(generators)} generators, but the batch has {len(like)} samples")
        rows = [torch.randn(like.shape[1:], generator=g, device=g.device, dtype=like.dtype) for g in generators]
        return (torch.stack(rows) if len(rows) > 1 else rows[0][None]).to(like.device)

    return draw
