"""Photos from a prior that was never trained for super-resolution: the methods of `zero_shot` with photo-unconditional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from .checks import check_images, check_one_of
from .color import back_projection
from .denoisers import Denoiser, NetworkDenoiser
from .linear_operator import LinearOperator
from .noise import Noise, standard_normal
from .operators import Bicubic
from .samplers import State, last
from .schedules import Schedule, Time, uniform_times, vp_cosine
from .steps import forward_step
from .tiles import in_tiles
from .zero_shot import ddnm, ddrm, diffpir, dps, ilvr, pigdm


def late_pigdm(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float,
    times: Tensor,
    *,
    first: float = 0.9,
    noise: Noise | None = None,
    **options,
) -> Iterator[State]:
    """`pigdm` in as many steps as `times` has, from t = `first` and the noised A^+ x on.

    Its gradient is the network's Jacobian times sigma^2 / alpha. In nearly pure noise that is an error times a hundred.
    """
    noise = standard_normal() if noise is None else noise
    start = forward_step(operator.pinv(measurement), schedule, 0.0, first, noise)
    times = uniform_times(len(times) - 1, first)
    return pigdm(denoiser, schedule, operator, measurement, noise_std, times, start, noise=noise, **options)


# step sizes for 50 calls, chosen on training photos by benchmarks/zero_shot.py --choose
PRIOR_METHODS: dict[str, Callable[..., Iterator[State]]] = {
    "ilvr": ilvr,
    "ddrm": ddrm,
    "ddnm": partial(ddnm, eta_total=0.6),
    "dps": partial(dps, scale=8.0),
    "pigdm": late_pigdm,
    "diffpir": partial(diffpir, zeta=0.3),
}
CALLS = 50
FIRST_TIME = 0.995  # nothing is left of the image at t = 1, where PiGDM has no estimate to guide
SIDE = 8  # the prior's network works on sides that are multiples of this


def prior_denoiser(network: nn.Module, tile: int | None = None) -> Denoiser:
    """The denoiser E[z_0 | z_t] of an unconditional v-network for states of any size.

    The network wants sides in multiples of 8: others are mirrored at the right and at the bottom and cut again. `tile` LR
    pixels (4 x 4 of the state) as in `tiles.in_tiles`, None never cuts.
    """
    schedule = vp_cosine()
    inner = NetworkDenoiser(network, "v", schedule)

    def denoise(z: Tensor, t: Time) -> Tensor:
        height, width = z.shape[-2:]
        rows, columns = (mirrored(n, z) for n in (height, width))
        whole = z[..., rows, :][..., columns]
        z_0 = in_tiles(lambda _, part: inner(part, t), [whole[:, :1, ::4, ::4], whole], tile)
        return z_0[..., :height, :width]

    return denoise


def mirrored(side: int, z: Tensor) -> Tensor:
    """The pixels 0, ..., side - 1, then side - 1, side - 2, ... until their number is a multiple of SIDE."""
    there_and_back = torch.arange(side + -side % SIDE, device=z.device) % (2 * side)
    return torch.minimum(there_and_back, 2 * side - 1 - there_and_back)


def restore(
    lr: Tensor,
    method: str,
    operator: LinearOperator,
    network: nn.Module,
    noise_std: float = 0.0,
    steps: int = CALLS,
    noise: Noise | None = None,
    tile: int | None = None,
    progress: bool = False,
) -> Tensor:
    """A sample of the image behind lr = operator(image) + noise_std n: (B, C, h, w) in [0, 1] -> (B, C, H, W), not clipped.

    `method` is one of PRIOR_METHODS with the step sizes there, `network` an unconditional v-network of the cosine path.
    noise_std is in image units. `steps` network calls. Raises ValueError for an unknown method or bad images; see
    `zero_shot` for what the methods ask of an operator.
    """
    check_images(lr, "lr")
    check_one_of(method, PRIOR_METHODS, "method")
    white = operator(torch.ones_like(operator.adjoint(lr[:1])))
    states = PRIOR_METHODS[method](
        prior_denoiser(network, tile),
        vp_cosine(),
        operator,
        2 * lr - white,  # A (2 y - 1), also where A changes the brightness
        2 * noise_std,
        uniform_times(steps, FIRST_TIME),
        noise=noise,
        progress=progress,
    )
    return (last(states) + 1) / 2


def zero_shot_sample(
    lr: Tensor, method: str, network: nn.Module, noise: Noise, steps: int, tile: int | None, progress: bool
) -> Tensor:
    """`restore` for MATLAB's bicubic camera at scale 4, made consistent with lr, which "dps", "pigdm", "diffpir" need."""
    operator = Bicubic(4)
    sr = restore(lr, method, operator, network, steps=steps, noise=noise, tile=tile, progress=progress)
    return back_projection(sr, lr, operator)
