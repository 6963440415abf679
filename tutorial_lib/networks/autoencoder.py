"""Autoencoders for latent diffusion: a Gaussian code kept near N(0, I) (KL), and a code of learned vectors (VQ)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_positive, check_whole
from ..noise import Noise
from .regression import ResidualBlock
from .vae import kl_to_standard_normal


class Autoencoder(nn.Module):
    """States (B, channels, H, W) to codes (B, latent, H / f, W / f), f = fold * 2^levels, and back: the convolutions alone.

    The state is folded by `fold` (pixel unshuffle) before the first convolution and unfolded after the last; a condition
    (B, cond_channels, H / fold, W / fold) may be stacked on there for both directions. Each of `levels` halves the grid.
    `outputs` is the channel count of `features`. `std`, in the state's units, is that of the decoder's Gaussian: what is
    smaller is not worth its price in the loss and is lost, so std sets the ceiling of everything built on the codes.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        outputs: int,
        fold: int,
        levels: int,
        hidden: tuple[int, int],
        blocks: int,
        cond_channels: int,
        std: float,
    ):
        super().__init__()
        for value, name in ((channels, "channels"), (latent, "latent"), (fold, "fold"), (levels, "levels")):
            check_whole(value, name)
        self.channels, self.latent, self.fold, self.levels = channels, latent, fold, levels
        self.cond_channels, self.std = check_whole(cond_channels, "cond_channels", 0), check_positive(std, "std")
        fine, coarse = hidden
        widths = [fine] + [coarse] * levels
        state = channels * fold**2
        self.enter = nn.Conv2d(state + cond_channels, fine, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(*_blocks(widths[i], blocks), nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[i], widths[i + 1], 1))
            for i in range(levels)
        )
        self.bottom = nn.Sequential(*_blocks(coarse, blocks), nn.Conv2d(coarse, outputs, 3, padding=1))
        self.top = nn.Sequential(nn.Conv2d(latent, coarse, 3, padding=1), *_blocks(coarse, blocks))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(widths[i + 1], 4 * widths[i], 1), nn.PixelShuffle(2), *_blocks(widths[i], blocks))
            for i in reversed(range(levels))
        )
        self.tell = nn.Conv2d(cond_channels, fine, 3, padding=1) if cond_channels else None
        self.finish = nn.Sequential(*_blocks(fine, blocks))
        self.leave = nn.Conv2d(fine, state, 3, padding=1)

    def features(self, y: Tensor, cond: Tensor | None = None) -> Tensor:
        """What the encoder's last convolution puts out, (B, outputs, h, w)."""
        check_images(y, "y", self.channels)
        multiple = self.fold * 2**self.levels
        if y.shape[-2] % multiple or y.shape[-1] % multiple:
            raise ValueError(f"y's height and width must be multiples of {multiple}, but {tuple(y.shape)} came")
        x = F.pixel_unshuffle(y, self.fold)
        self._check_condition(cond, x)
        x = self.enter(x if cond is None else torch.cat([x, cond.to(x.dtype)], 1))
        for part in self.down:
            x = part(x)
        return self.bottom(x)

    def draw(self, u: Tensor, cond: Tensor | None = None) -> Tensor:
        """Codes (B, latent, h, w) -> states (B, channels, f h, f w), as they are."""
        x = self.top(check_images(u, "u", self.latent))
        for part in self.up:
            x = part(x)
        self._check_condition(cond, x)
        if self.tell is not None:
            x = x + self.tell(cond.to(x.dtype))
        return F.pixel_shuffle(self.leave(self.finish(x)), self.fold)

    def _check_condition(self, cond: Tensor | None, x: Tensor) -> None:
        """Raise ValueError unless cond is what the constructor promised, on the grid of x."""
        if self.cond_channels == 0 and cond is not None:
            raise ValueError(f"cond must be None, for cond_channels is 0, but the shape {tuple(cond.shape)} came")
        wanted = (len(x), self.cond_channels, *x.shape[2:])
        if self.cond_channels and (cond is None or cond.shape != wanted):
            came = "None" if cond is None else f"the shape {tuple(cond.shape)}"
            raise ValueError(f"cond must have the shape {wanted}, but {came} came")

    def weighted_error(self, y: Tensor, answer: Tensor, weight: Tensor | float) -> Tensor:
        """weight |y - answer|^2 / (2 std^2), the mean over values, (B,)."""
        return (weight * (y - answer) ** 2).flatten(1).mean(1) / (2 * self.std**2)


class KLAutoencoder(Autoencoder):
    """Latents that are Gaussian given the state, held near N(0, I); shapes as in `Autoencoder`.

    forward is the loss, the negative ELBO per value of y: |y - decode(u)|^2 / (2 std^2) + KL(q(u | y) || N(0, I)) with u drawn
    from q. Kingma & Welling, arXiv 1312.6114. Rombach et al., arXiv 2112.10752, use a KL weight of about 1e-6, and
    perceptual and adversarial terms instead of a likelihood.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        fold: int = 2,
        levels: int = 1,
        hidden: tuple[int, int] = (48, 64),
        blocks: int = 1,
        cond_channels: int = 0,
        std: float = 0.1,
    ):
        super().__init__(channels, latent, 2 * latent, fold, levels, hidden, blocks, cond_channels, std)

    def moments(self, y: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(u | y), each (B, latent, h, w)."""
        mean, log_std = self.features(y, cond).chunk(2, 1)
        return mean, log_std.clamp(-10, 3)

    def encode(self, y: Tensor, cond: Tensor | None = None) -> Tensor:
        """The mean of q(u | y), (B, latent, h, w): what a latent diffusion model is trained on here."""
        return self.moments(y, cond)[0]

    def decode(self, u: Tensor, cond: Tensor | None = None) -> Tensor:
        """Latents (B, latent, h, w) -> states (B, channels, f h, f w)."""
        return self.draw(u, cond)

    def forward(self, y: Tensor, noise: Noise, cond: Tensor | None = None, weight: Tensor | float = 1.0) -> Tensor:
        """The loss (B,), without the decoder's constant; `weight` multiplies the squared error."""
        mean, log_std = self.moments(y, cond)
        answer = self.draw(mean + log_std.exp() * noise(mean), cond)
        return self.weighted_error(y, answer, weight) + kl_to_standard_normal(mean, log_std) / y[0].numel()


class VQAutoencoder(Autoencoder):
    """The same networks around a code book: each place of the latent grid is replaced by the nearest of `codes` vectors.

    encode gives the vectors before they are replaced, and decode replaces them, as in latent diffusion: the diffusion model
    works on the continuous side, and the code book cleans up after it. forward is the loss: squared error over (2 std^2)
    plus the book's. van den Oord et al., arXiv 1711.00937.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        codes: int = 256,
        fold: int = 2,
        levels: int = 1,
        hidden: tuple[int, int] = (48, 64),
        blocks: int = 1,
        cond_channels: int = 0,
        std: float = 0.1,
        commitment: float = 0.25,
    ):
        super().__init__(channels, latent, latent, fold, levels, hidden, blocks, cond_channels, std)
        self.commitment = check_positive(commitment, "commitment")
        self.book = nn.Parameter(torch.randn(check_whole(codes, "codes"), latent))

    def encode(self, y: Tensor, cond: Tensor | None = None) -> Tensor:
        """The vectors before they are replaced, (B, latent, h, w)."""
        return self.features(y, cond)

    def nearest(self, u: Tensor) -> Tensor:
        """Which vector of the book is nearest at each place: (B, latent, h, w) -> (B, h, w) numbers."""
        flat = u.movedim(1, -1)
        return torch.cdist(flat.reshape(-1, self.latent).float(), self.book.float()).argmin(1).view(flat.shape[:-1])

    def quantise(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors, codes, loss): the nearest vectors (B, latent, h, w), which they are (B, h, w), and the loss (B,).

        The vectors carry the gradient of u (straight through): argmin has none. The loss moves the book to the encoder,
        |sg(u) - vector|^2, and holds the encoder to the book, commitment |u - sg(vector)|^2.
        """
        codes = self.nearest(u.detach())
        vectors = self.book[codes].movedim(-1, 1).to(u.dtype)
        loss = (u.detach() - vectors) ** 2 + self.commitment * (u - vectors.detach()) ** 2
        return u + (vectors - u).detach(), codes, loss.flatten(1).mean(1)

    def decode(self, u: Tensor, cond: Tensor | None = None) -> Tensor:
        """Replace each place by its nearest vector, then latents (B, latent, h, w) -> states (B, channels, f h, f w)."""
        return self.draw(self.quantise(check_images(u, "u", self.latent))[0], cond)

    def forward(self, y: Tensor, cond: Tensor | None = None, weight: Tensor | float = 1.0) -> Tensor:
        """The loss (B,); `weight` multiplies the squared error."""
        vectors, _, book_loss = self.quantise(self.encode(y, cond))
        return self.weighted_error(y, self.draw(vectors, cond), weight) + book_loss


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]
