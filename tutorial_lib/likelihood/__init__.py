"""Likelihood: how probable a diffusion model makes the data, in nats and in bits per dimension.

States are (B, ...) in state units, with D numbers each. Every term is one value per sample, (B,), in nats, summed over
the D dimensions. Losses and terms of the ELBO are costs, small when good; `log_likelihood` is large when good. Divide
by D only at the end, with `bits_per_dim`.

`elbo` prices the steps of ancestral sampling (prior, steps, reconstruction), `continuous` is its limit of many steps,
with the weights and the schedules that can be learned from it, `flow` integrates the exact log p along the
probability-flow ODE, `bits` turns k-level data into densities and back.
"""

from __future__ import annotations

from .bits import bin_log_prob, bits_per_dim, dequantise, uniform
from .continuous import continuous_loss, learned_schedule, likelihood_weight, p2_weight, simple_weight
from .elbo import ElboTerms, elbo_terms, optimal_variances, prior_kl, reconstruction_loss, step_kl
from .flow import log_likelihood

__all__ = [
    "ElboTerms",
    "bin_log_prob",
    "bits_per_dim",
    "continuous_loss",
    "dequantise",
    "elbo_terms",
    "learned_schedule",
    "likelihood_weight",
    "log_likelihood",
    "optimal_variances",
    "p2_weight",
    "prior_kl",
    "reconstruction_loss",
    "simple_weight",
    "step_kl",
    "uniform",
]
