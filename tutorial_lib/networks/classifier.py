"""A classifier of noisy faces, for classifier guidance."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_one_of
from ..data.faces import NAMES
from .unet import Block, noise_embedding

CLASSIFIED = ("glasses", "hat", "beard", "hair_color", "background")


class FaceClassifier(nn.Module):
    """forward(u, level): noisy faces (B, 3, 32, 32), (B,) -> logits (B, K), the words of every attribute of CLASSIFIED in a row.

    u = alpha y + sigma eps has unit variance and level = log_snr / 8 says how noisy it is, as for the denoisers. Guidance asks
    for p(c | z_t) at every noise level, so the classifier must have seen noise and be told how much (Dhariwal & Nichol,
    arXiv 2105.05233); one that only knows clean faces is sure of itself in pure noise, and its gradients mean nothing there.
    """

    def __init__(self, channels: tuple[int, int] = (32, 64), embedding: int = 64):
        super().__init__()
        fine, coarse = channels
        self.embedding = embedding
        self.embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(12, fine, 3, padding=1)
        self.blocks = nn.ModuleList([Block(fine, fine, embedding), Block(4 * fine, coarse, embedding)])
        self.last = Block(4 * coarse, coarse, embedding)
        self.leave = nn.Linear(16 * coarse, sum(len(NAMES[name]) for name in CLASSIFIED))

    def forward(self, u: Tensor, level: Tensor) -> Tensor:
        if check_images(u, "u", 3).shape[2:] != (32, 32):
            raise ValueError(
                f"u must hold faces of 32 x 32 pixels, (B, 3, 32, 32), but the shape {tuple(u.shape)} came"
            )
        embedding = self.embed(noise_embedding(level, self.embedding))
        x = self.enter(F.pixel_unshuffle(u, 2))
        for block in self.blocks:
            x = F.pixel_unshuffle(block(x, embedding), 2)
        return self.leave(self.last(x, embedding).flatten(1)).float()


def attribute_log_prob(logits: Tensor, name: str) -> Tensor:
    """log p(word | u) in nats for the words of one attribute, (B, words), from the logits of `FaceClassifier`."""
    check_one_of(name, CLASSIFIED, "name")
    sizes = [len(NAMES[other]) for other in CLASSIFIED]
    return logits.split(sizes, 1)[CLASSIFIED.index(name)].log_softmax(1)
