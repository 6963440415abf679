"""Super-resolution and other inverse problems without training: an unconditional denoiser and a measurement.

    x = A z_0 + noise_std n,   n white

Every method is one generator of `State` with one signature,

    method(denoiser, schedule, operator, measurement, noise_std=0.0, times=None, z=None, *, ..., noise=None, progress=False)

and draws z_0 given x, more or less. `denoiser(z, t)` knows images, not x. `operator` is A, any `LinearOperator`; where a
method needs its SVD it says so. `measurement` is x, (1, ...) for all samples or (B, ...) for each its own. **It and
`noise_std` are in state units**: images in [0, 1] become states 2 y - 1, so their noise doubles, and so does that of a
pooled or resized LR image. `times` is a decreasing grid (None: as many even steps as the paper takes), `z` (B, ...) a
state at times[0] (None: drawn from `noise`, one for every x). Everything random comes from `noise`; None means
standard_normal(DEFAULT_SEED). The methods that differentiate the denoiser do so under no_grad and inference_mode as
well, and never touch its weights.

`projection` puts the measurement, noised, in place of what the sampler has made of it (ILVR, RePaint, CCDF);
`decomposition` does so in the operator's own coordinates, in step with the measurement's noise (SNIPS, DDRM, DDNM);
`posterior` moves the estimate of z_0 or the state towards what explains x (MCG, DPS, GDP, PiGDM, DiffPIR).
"""

from __future__ import annotations

from .decomposition import ddnm, ddrm, snips
from .posterior import BlindState, diffpir, dps, gdp, gdp_blind, mcg, pigdm
from .problem import resampling_path
from .projection import ccdf, ilvr, repaint

__all__ = [
    "BlindState",
    "ccdf",
    "ddnm",
    "ddrm",
    "diffpir",
    "dps",
    "gdp",
    "gdp_blind",
    "ilvr",
    "mcg",
    "pigdm",
    "repaint",
    "resampling_path",
    "snips",
]
