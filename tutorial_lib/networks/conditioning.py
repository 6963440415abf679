"""Ways to tell a denoiser something: one network of faces that knows them all, and an adapter for a network that knows none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_one_of, check_same_shape
from ..data.captions import PHRASES
from .rrdb import RRDBEncoder
from .unet import Block, UNet, noise_embedding

FACE_WAYS = ("none", "concat", "film", "reference", "vae", "features")


class Modulator(nn.Module):
    """forward(image, level): (B, 3, H, W), (B,) -> a pair (gain, shift) for each level of a U-Net's way down.

    The image is folded as the U-Net's state is, so pairs fit its grids; the noise level is told, because coarse structure
    matters early and detail late (the time-aware encoder of StableSR, arXiv 2305.07015). The last convolutions start at zero:
    at first nothing is modulated (ControlNet's zero convolution, arXiv 2302.05543).
    """

    def __init__(self, channels: tuple[int, ...], fold: int, width: int = 48, embedding: int = 128):
        super().__init__()
        self.fold, self.embedding = fold, embedding
        self.embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(3 * fold**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, width, embedding) for _ in channels)
        self.shrink = nn.ModuleList(nn.Conv2d(4 * width, width, 1) for _ in channels[1:])
        self.leave = nn.ModuleList(nn.Conv2d(width, 2 * count, 1) for count in channels)
        for layer in self.leave:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, level: Tensor) -> list[tuple[Tensor, Tensor]]:
        embedding = self.embed(noise_embedding(level, self.embedding))
        x = self.enter(F.pixel_unshuffle(image, self.fold))
        pairs = []
        for i, (block, leave) in enumerate(zip(self.blocks, self.leave, strict=True)):
            x = block(x, embedding)
            gain, shift = leave(x).chunk(2, 1)
            pairs.append((gain, shift))
            if i < len(self.shrink):
                x = self.shrink[i](F.pixel_unshuffle(x, 2))
        return pairs


def face_condition(
    way: str, image: Tensor | None = None, words: Tensor | None = None, count: int = 1, size: int = 32
) -> Tensor:
    """What `ConditionedUNet` is told, in one tensor (B, 3 + len(FACE_WAYS) + len(PHRASES), size, size).

    `image` (B, 3, size, size) in [0, 1]: the enlarged LR face for the ways "concat", "film" and "features" (bicubic), a
    super-resolved face for "reference", a VAE's face for "vae", None for "none". `words` (B, len(PHRASES)) as
    `data.captions.words` makes them; None says nothing. `count` is B when neither is given.
    Raises ValueError for an unknown way, and when an image is missing or has no way to go.
    """
    check_one_of(way, FACE_WAYS, "way")
    if (image is None) != (way == "none"):
        came = "no image" if image is None else "an image"
        raise ValueError(f"way {way!r} {'takes no' if way == 'none' else 'needs an'} image, but {came} came")
    if image is not None:
        check_images(image, "image", 3)
        count, size = len(image), image.shape[-1]
    elif words is not None:
        count = len(words)
    state = torch.zeros(count, 3, size, size) if image is None else 2 * image - 1
    said = state.new_zeros(count, len(PHRASES)) if words is None else words.to(state)
    if said.shape != (count, len(PHRASES)):
        raise ValueError(f"words must be ({count}, {len(PHRASES)}), one row per image, but {tuple(said.shape)} came")
    one_hot = state.new_zeros(count, len(FACE_WAYS))
    one_hot[:, FACE_WAYS.index(way)] = 1
    constant = torch.cat([one_hot, said], 1)[:, :, None, None].expand(-1, -1, *state.shape[2:])
    return torch.cat([state, constant], 1)


class ConditionedUNet(nn.Module):
    """network(z, level, cond): faces (B, 3, 32, 32) in state units, told by `face_condition`; predicts v.

    "concat" (SR3, arXiv 2104.07636), "reference" (CDPMSR, arXiv 2302.12831) and "vae" (DiffuseVAE, arXiv 2201.00308,
    formulation 1) stack the image on the state; "film" turns it into gains and shifts (`Modulator`); "features" takes the LR
    face back out of its enlargement and stacks an RRDB encoder's features on the state (SRDiff, arXiv 2104.14951). Words are
    added to the embedding of the noise level. One set of weights learns all ways side by side, so that they can be compared
    at equal training; each way alone would be better for the same effort.
    """

    def __init__(self, channels: tuple[int, ...] = (64, 96), blocks: int = 2, fold: int = 2, embedding: int = 128):
        super().__init__()
        self.fold = fold
        self.encoder = RRDBEncoder(channels=24, growth=12, blocks=1)
        self.modulator = Modulator(channels, fold, embedding=embedding)
        self.told = nn.Linear(len(FACE_WAYS) + len(PHRASES), embedding)
        cond_channels = 3 * fold**2 + 24
        self.unet = UNet(3, 3, cond_channels, channels, blocks, fold, embedding)

    def forward(self, z: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        wanted = 3 + len(FACE_WAYS) + len(PHRASES)
        if cond is None or cond.shape != (len(z), wanted, *z.shape[2:]):
            came = "None" if cond is None else f"the shape {tuple(cond.shape)}"
            raise ValueError(
                f"cond must be face_condition(...) of shape {(len(z), wanted, *z.shape[2:])}, but {came} came"
            )
        image, said = cond[:, :3], cond[:, 3:, 0, 0]
        share = {way: said[:, i].view(-1, 1, 1, 1) for i, way in enumerate(FACE_WAYS)}
        stacked = image * (share["concat"] + share["reference"] + share["vae"])
        lr = (F.avg_pool2d(image, 4) + 1) / 2  # of a face enlarged from 8 x 8: close to the LR face itself
        features = F.interpolate(self.encoder(lr) * share["features"], size=[n // self.fold for n in z.shape[2:]])
        pairs = self.modulator(image, level)
        pairs = [(gain * share["film"], shift * share["film"]) for gain, shift in pairs]
        stack = torch.cat([F.pixel_unshuffle(stacked, self.fold), features], 1)
        return self.unet(z, level, stack, self.told(said), pairs)


class AdaptedUNet(nn.Module):
    """network(z, level, cond): an unconditional `prior` (frozen) steered by an `adapter` (a `Modulator`) that sees the LR image.

    cond (B, 3, H, W) is the enlarged LR image in state units. `fidelity` in [0, 1] multiplies the adapter's gains and
    shifts: 1 as trained, 0 the prior alone, which has never heard of the LR image. StableSR (arXiv 2305.07015) and DiffBIR
    (arXiv 2308.15070) steer a text-to-image model in this way; their knobs sit elsewhere (in the decoder, in the sampler)
    and trade the same two things.
    """

    def __init__(self, prior: UNet, adapter: Modulator, fidelity: float = 1.0):
        super().__init__()
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity must lie in [0, 1], but {fidelity!r} came")
        self.prior = prior.requires_grad_(False)
        self.adapter, self.fidelity = adapter, fidelity

    def forward(self, z: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        check_same_shape(cond, z, ("cond", "z"))
        pairs = self.adapter(cond, level)
        return self.prior(z, level, modulation=[(self.fidelity * gain, self.fidelity * shift) for gain, shift in pairs])
