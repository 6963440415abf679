"""Samplers: generators of State, from the start to the sample.

Every sampler is `f(denoiser, schedule, z, times, ...)`: `z` (B, ...) is a state at times[0], often
`schedule.sigma(times[0])` times white noise; the last State is at times[-1], so it is noisy unless that is 0. Draw `z`
and the noise of the steps from one source: `noise = standard_normal(0); z = noise(like); last(ddpm(denoiser, schedule,
z, times, noise=noise))`. A sampler holds one state at a time, so memory does not grow with the number of steps. It
leaves autograd alone: run it under `torch.inference_mode()` when the denoiser is a bare network.

What a sampler does is write down one step from a time t to a cleaner time s and walk it along the grid. `ancestral`
draws from the posterior of z_s given z_t and an estimate of z_0 (DDPM, DDIM, Analytic-DPM), `langevin` lets each noise
level settle before the next (NCSN), `sde` runs the reverse stochastic differential equation, `ode` the probability
flow, which needs no noise and can be walked back, and `multistep` the same flow with the help of earlier steps. In all
of them but `analytic_dpm` a step to sigma(s) = 0 ends in the denoiser's answer, without noise.
"""

from __future__ import annotations

from .ancestral import analytic_dpm, ddim, ddpm, mean_square_eps
from .langevin import annealed_langevin
from .multistep import deis, dpm_solver_pp_2m, pndm, unipc
from .ode import dpm_solver_2, heun, invert, probability_flow
from .sde import adaptive_sde, predictor_corrector, reverse_sde
from .states import DEFAULT_SEED, State, last, trajectory

__all__ = [
    "DEFAULT_SEED",
    "State",
    "adaptive_sde",
    "analytic_dpm",
    "annealed_langevin",
    "ddim",
    "ddpm",
    "deis",
    "dpm_solver_2",
    "dpm_solver_pp_2m",
    "heun",
    "invert",
    "last",
    "mean_square_eps",
    "pndm",
    "predictor_corrector",
    "probability_flow",
    "reverse_sde",
    "trajectory",
    "unipc",
]
