"""Three uses of a latent beside latent diffusion: learnt together with its prior, as a hint to a restorer, as the end of a
walk from the LR image. `domains.Latent` is the plain use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .checks import check_images, check_positive, check_same_shape, check_whole
from .denoisers import Denoiser, from_z_0
from .domains import Domain, Residual
from .likelihood import prior_kl
from .noise import Noise
from .samplers import ddim, last
from .schedules import Schedule
from .steps import forward_step


class GaussianAutoencoder(Protocol):
    """q(u | y) = N(mean, exp(log_std)^2) and p(y | u) = N(decode(u), std^2 I): `networks.autoencoder.KLAutoencoder`."""

    std: float

    def moments(self, y: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def decode(self, u: Tensor, cond: Tensor | None = None) -> Tensor: ...


class LSGMTerms(NamedTuple):
    """-ELBO of a VAE whose prior is a diffusion model, in nats, (B,) each; `total` is the loss."""

    reconstruction: Tensor
    negative_entropy: Tensor
    cross_entropy: Tensor

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.negative_entropy + self.cross_entropy


def cross_entropy(
    denoiser: Denoiser, schedule: Schedule, u: Tensor, places: Tensor, noise: Noise, t_min: float = 1e-3
) -> Tensor:
    """-log p(u) of latents (B, ...) under the prior that the denoiser stands for, (B,) nats, one draw of each latent's z_t.

    (1/2) (l_max - l_min) |eps - eps_hat|^2 at the log-SNR l_max - place (l_max - l_min), the ends being those at t_min and
    at t = 1; plus D/2 (log(2 pi e) - l_max), the price of the last bit of noise, and KL(q(z_1 | u) || N(0, sigma(1)^2)).
    Over `places` (B,) uniform in [0, 1) its mean is the integral over t of LSGM's theorem 1 (Vahdat et al., arXiv
    2106.05931) with log-SNR for time, which is its importance sampling for unweighted likelihood. Gradients reach the
    denoiser's parameters and u. Exact but for O(sigma^2/alpha^2 at t_min) when the denoiser is. Raises ValueError for places
    outside [0, 1).
    """
    places = torch.as_tensor(places, dtype=torch.float64)
    if places.shape != u.shape[:1] or not ((places >= 0) & (places < 1)).all():
        raise ValueError(f"places must hold one number in [0, 1) for each of {len(u)} latents, but {places!r:.60} came")
    high, low = schedule.log_snr(t_min), schedule.log_snr(1.0).clamp(min=-20.0)
    t = schedule.time_at(high - places * (high - low))
    drawn = noise(u)
    z = forward_step(u, schedule, 0.0, t, lambda like: drawn)
    guess = from_z_0(denoiser(z, t), "eps", z, t, schedule)
    walked = (high - low) / 2 * (drawn - guess).double().square().flatten(1).sum(1)
    ends = u[0].numel() / 2 * (math.log(2 * math.pi * math.e) - high) + prior_kl(schedule, u.double())
    return (walked + ends).to(u.dtype)


def lsgm_terms(
    autoencoder: GaussianAutoencoder,
    denoiser: Denoiser,
    schedule: Schedule,
    y: Tensor,
    places: Tensor,
    noise: Noise,
    cond: Tensor | None = None,
) -> LSGMTerms:
    """LSGM's loss for states y (B, C, H, W): -E log p(y | u), -H(q(u | y)) and the `cross_entropy` of q with the prior.

    E total >= -log p(y), equal when q is the true posterior under the prior; for fixed networks the mean over y is least when
    the prior is the law of all encoded images, the aggregate posterior, and not N(0, I). Minimise it over autoencoder and
    denoiser together. A `NetworkDenoiser` holds its weights constant: hand in a function that calls the network.
    LDM (arXiv 2112.10752) trains the same two parts one after the other. Vahdat et al., arXiv 2106.05931.
    """
    mean, log_std = autoencoder.moments(check_images(y, "y"), cond)
    u = mean + log_std.exp() * noise(mean)
    answer = autoencoder.decode(u, cond)
    check_same_shape(answer, y, ("the decoder's output", "y"))
    error = ((y - answer) / autoencoder.std) ** 2 / 2 + math.log(autoencoder.std) + math.log(2 * math.pi) / 2
    entropy = (log_std + math.log(2 * math.pi * math.e) / 2).flatten(1).sum(1)
    return LSGMTerms(error.flatten(1).sum(1), -entropy, cross_entropy(denoiser, schedule, u, places, noise))


def restore_with_prior(
    restorer: Callable[[Tensor, Tensor], Tensor],
    denoiser: Denoiser,
    schedule: Schedule,
    lr: Tensor,
    size: int,
    times: Tensor,
    noise: Noise,
    eta: float = 1.0,
) -> Tensor:
    """restorer(lr, c) with a compact code c (B, size) drawn by diffusion given lr: HI-Diff's idea (arXiv 2305.12966).

    Only c diffuses: the denoiser, denoiser(c, t, lr), works on `size` numbers an image whatever the image's size, and the
    restorer, which does the heavy work, runs once. In training c comes from the HR image through an encoder that is learnt
    with the restorer; then the denoiser learns c given lr. The answers differ in at most `size` directions: what is sharp is
    the restorer's. HI-Diff's code is a few vectors that a transformer attends to; DiffIR (arXiv 2303.09472) is its sibling.
    """
    c = noise(check_images(lr, "lr").new_empty(len(lr), check_whole(size, "size")))
    states = ddim(lambda z, t: denoiser(z, t, lr), schedule, schedule.sigma(times[0]).to(c) * c, times, eta, noise)
    return restorer(lr, last(states))


def mean_reverting(delta: float = 0.01) -> Schedule:
    """The noise path of IR-SDE (Luo et al., arXiv 2301.11699) in units of lambda: alpha = exp(-theta_bar), sigma^2 = 1 -
    alpha^2, theta_bar(1) = -log(delta).

    IR-SDE walks dx = theta (mu - x) dt + sigma dw, sigma^2 = 2 lambda^2 theta, from an image to the LR image mu plus noise
    of standard deviation lambda: x_t ~ N(mu + (x_0 - mu) e^-theta_bar, lambda^2 (1 - e^-2 theta_bar)). So (x - mu) / lambda
    is a variance-preserving process, and `Residual(predictor=mu, spread=lambda)` with this schedule is IR-SDE, for every
    sampler. theta(t) rises as sin^2(pi t / 2), the paper's cosine schedule without its small offset.
    """
    if not 0 < check_positive(delta, "delta") < 1:
        raise ValueError(f"delta must lie between 0 and 1, but {delta!r} came")

    def log_alpha(t: Tensor) -> Tensor:
        return math.log(delta) * (t - (math.pi * t).sin() / math.pi)

    return Schedule(lambda t: log_alpha(t).exp(), lambda t: torch.expm1(2 * log_alpha(t)).abs().sqrt())


def mean_reverting_domain(of: Domain, enlarge: Callable[[Tensor], Tensor], spread: float) -> Residual:
    """Refusion's space (Luo et al., arXiv 2304.08291): (state - mu) / lambda, mu the state of the enlarged LR image.

    `of` is the domain that reverts, a Latent in Refusion; `spread` is lambda in its units (the code gives it in 1/255).
    `Residual.decode` of noise alone is where the walk ends: mu + lambda eps.
    """
    return Residual(lambda lr: of.encode(enlarge(lr), lr), spread, of)
