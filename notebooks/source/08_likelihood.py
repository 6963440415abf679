# ---
# jupyter:
#   jupytext:
#     formats: ipynb,source//py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 Likelihood: how surprised is the model?
#
# A diffusion model does more than draw. It also holds an opinion on every image you show it: a probability. In this chapter
# you make it say that probability out loud, in bits per pixel, in two ways that check each other. Then you find out what
# the number is good for, and why a model with the better number may draw the worse pictures.
#
# ## What you will be able to do
#
# 1. **Compute** bits per dimension of a model, with its uncertainty, and say what happens without dequantisation.
# 2. **Integrate** the exact log-likelihood along the probability-flow ODE, and know its two errors and their sizes.
# 3. **Derive** the ELBO as a sum of priced steps, and compare it with the exact value.
# 4. **Choose** the variances of the steps, by learning them or by a formula.
# 5. **Read** a schedule as a curve of signal-to-noise ratio, and let it learn.
# 6. **Weight** the loss, and show by an example that likelihood and looks can disagree.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (forward chain, posterior, variances) and [chapter 06](06_sdes.ipynb) (probability-flow ODE, continuity equation).
#
# **Reading time**: 75 minutes. Running time: about 25 s on two cores.
# **Survey section**: III, improvements: likelihood (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/08_likelihood.ipynb), worked in [solutions](../solutions/08_likelihood.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_t = \alpha_t z_0 + \sigma_t \epsilon$ | `z`, `t` | state at time $t$: 0 is data, 1 is noise |
# > | $D$ | `dim` | how many numbers an image has: 64 for the digits here |
# > | $k$ | `levels` | how many grey levels a pixel can take: 17 here, 256 in photos |
# > | $p_t$, $p$ | `log_prob` | density of the noised data; density that a model claims |
# > | $\hat z_0$ | `denoiser(z, t)` | the denoiser's answer, $\mathbb E[z_0 \mid z_t]$ when it is exact |
# > | $\mathrm{SNR} = \alpha_t^2/\sigma_t^2$, $\lambda = \log \mathrm{SNR}$ | `log_snr` | signal-to-noise ratio; twice the $\lambda$ of DPM-Solver (chapter 07) |
# > | $\beta$, $\tilde\beta$ | `"beta"`, `"posterior"` | variance of a forward step; of the same step backwards when $z_0$ is known |
# > | KL | | Kullback–Leibler divergence, $\mathrm{KL}(q\,\|\,p) = \mathbb E_q[\log q - \log p] \ge 0$ |
# > | nat, bit | | units of $-\log p$: natural logarithm, or logarithm to base 2; 1 bit = 0.693 nats |
# >
# > The survey's $\alpha_t$ is our $\beta$ and its $\gamma_t$ is our $\alpha_t^2$. The VDM paper (arXiv 2107.00630) counts $\gamma = -\lambda$.

# %%
import math

import numpy as np
import torch
from IPython.display import display
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import leaves
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.likelihood import (
    bits_per_dim,
    continuous_loss,
    dequantise,
    elbo_terms,
    learned_schedule,
    likelihood_weight,
    log_likelihood,
    optimal_variances,
    p2_weight,
    prior_kl,
    reconstruction_loss,
    simple_weight,
    uniform,
)
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import EmpiricalData, Gaussian, GaussianMixture, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.recipes.digits import DIGIT_LOG_SNR, split_digits
from tutorial_lib.samplers import heun, last, probability_flow
from tutorial_lib.schedules import flow, log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.score_matching import rademacher
from tutorial_lib.steps import forward_std, forward_step, posterior_std
from tutorial_lib.widgets import bootstrap_interval

# %% [markdown]
# ## 1. A model that can be surprised
#
# `digits-likelihood` is a small diffusion model of handwritten digits, 8 × 8 pixels with 17 grey levels. It was trained on 1437 of the
# 1797 scans in scikit-learn; every fifth was held out. The function below asks for the bits that it needs for each pixel of an
# image. You will understand almost every line of it by the end of section 4; `learned_schedule` waits until section 7, and `[:-1]` drops the
# final time 0. The function draws random numbers, and one run of it scatters by about 0.15 bits for a digit (section 4 says why), so each number
# below is the mean of eight runs.

# %%
train, held_out = split_digits()
low, high = DIGIT_LOG_SNR
digit_schedule = learned_schedule(torch.zeros(1), high, low)  # log SNR falls from 12 to -8 in a straight line
model = NetworkDenoiser(load_pretrained("digits-likelihood"), "v", digit_schedule)


def exact_bits(images, steps=40, seed=0):
    """Bits per pixel of images (B, 1, 8, 8) under the digit model, by the probability-flow ODE."""
    z = dequantise(images, 17, uniform(standard_normal(seed)))
    times = uniform_times(steps + 1, t_min=1e-6)[:-1]
    log_p = log_likelihood(model, digit_schedule, z, times, noise=rademacher(standard_normal(seed + 1)), solver="heun")
    return bits_per_dim(log_p, 64, levels=17)


some = held_out[[5, 9, 14, 21]]
order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
leafy = (leaves(4, 8, seed=1, radius=(1.0, 6.0), channels=1) * 16).round() / 16
flat = torch.tensor([0.0, 0.25, 0.5, 0.75]).view(4, 1, 1, 1).expand(4, 1, 8, 8)
kinds = {
    "held out": some,
    "on its side": some.rot90(1, (2, 3)),
    "inverted": 1 - some,
    "shuffled": some.flatten(1)[:, order].view(-1, 1, 8, 8),
    "dead leaves": leafy,
    "flat": flat,
}
runs = exact_bits(torch.cat(list(kinds.values())).repeat(8, 1, 1, 1)).view(8, 24)  # each image eight times
surprise = dict(zip(kinds, runs.mean(0).split(4), strict=True))

# %%
plots.image_grid(
    torch.cat(list(kinds.values())),
    [f"{name}\n{bits:.1f}" for name, values in surprise.items() for bits in values.tolist()],
    title="Bits per pixel: digits are cheap, everything else is dear, with one exception",
    alt="Six groups of four 8 by 8 images with their bits per pixel. "
    + " ".join(f"{name}: {', '.join(f'{b:.1f}' for b in values.tolist())}." for name, values in surprise.items())
    + " The first flat image, all black, has the lowest number of all.",
    caption="Each number is the mean of eight runs; the standard errors of the means lie between "
    + "{:.2f} and {:.2f} bits.".format(*(runs.std(0) / 8**0.5).aminmax()),
    zoom=10,
    columns=8,
)

# %% [markdown]
# A digit that it has never seen costs the model somewhat less than 2 bits a pixel. Laid on its side it costs more, inverted or shuffled far more: the model was
# never told what a digit is *not*, yet it is surprised. The dead leaves (overlapping discs of random grey) surprise it too.
#
# Now look at the first of the flat images. An entirely black square, which is no digit at all, gets the *best* value of all 24. Keep this in
# mind: a high likelihood does not mean "looks like the data". Section 9 says what it does mean.
#
# ## 2. What is a bit per dimension?
#
# Suppose you and a friend both hold the model $P$, and you want to send her an image. A good code spends about $-\log_2 P(\text{image})$ bits (Shannon): likely images get
# short words. Divided by the number $D$ of pixels this is **bits per dimension**, and lower is better:
#
# $$\text{bits/dim} = -\frac{\log_2 P(\text{image})}{D}.$$
#
# Nothing known: 17 equally likely levels cost $\log_2 17 = 4.09$ bits each. The simplest model that knows something counts how often each of the 64 pixels takes each level, and treats
# pixels as independent. Fit it on the training digits, score the held-out ones (→ Exercise 08.1):

# %% tags=["nbval-check-output"]
counts = torch.nn.functional.one_hot((train.flatten(1) * 16).long(), 17).sum(0).double()
table = ((counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)).log()  # log P(level) of every pixel, (64, 17)
place = (held_out.flatten(1) * 16).long()
log_prob = table.expand(len(place), -1, -1).gather(2, place[..., None]).sum((1, 2))
histogram_bits = -log_prob / 64 / math.log(2)
assert_close(histogram_bits, bits_per_dim(log_prob, 64))
mean, error = histogram_bits.mean(), histogram_bits.std() / len(histogram_bits) ** 0.5
print(f"levels equally likely: {math.log2(17):.2f} bits per pixel")
print(f"one histogram a pixel: {mean:.2f} +- {error:.2f} (standard error over {len(place)} held-out digits)")
print("95 % interval, bootstrap: {:.2f} to {:.2f}".format(*bootstrap_interval(histogram_bits)))

# %% [markdown]
# The interval matters. Digits differ: a slim 1 is cheap, a wide 8 is dear, so the mean over 360 of them is uncertain by two hundredths
# of a bit. A table that ranks models by the third decimal needs tens of thousands of test images, or the same images for both models (then compare the *differences*).
#
# ## 3. Probabilities of levels from densities
#
# A diffusion model does not give probabilities of levels. It gives a **density** over real numbers. Densities have units (probability per
# length), so they can exceed 1, and $-\log_2 p$ can be negative. What happens if you fit a density to data that only take 17 values and ignore that?
#
# Take one pixel, the one in row 3, column 3. As a model, put a narrow Gaussian of width $s$ on each level with the right frequency. Then make $s$ smaller.

# %%
pixel = train[:, 0, 3, 3]
share = torch.bincount((pixel * 16).long(), minlength=17).double() / len(pixel)
entropy = -(share[share > 0] * share[share > 0].log2()).sum().item()
widths = torch.logspace(-3, -0.3, 28).double()


def pixel_bits(z, s, levels_at):
    """Bits per pixel that Gaussians of width s at the levels claim for states z (B, N), averaged over N."""
    peaks = torch.distributions.Normal(levels_at, s).log_prob(z[..., None])
    log_p = torch.logsumexp(peaks + share.clamp(min=1e-12).log(), -1)
    return (bits_per_dim(log_p, 1, levels=17).mean(1) * share).sum().item()


middle = 2 * (torch.arange(17).double() + 0.5) / 17 - 1  # the middle of each level's bin in [-1, 1]
inside = middle[:, None] + (torch.arange(200).double() / 200 + 0.0025 - 0.5) * 2 / 17  # 200 places in each bin
raw = [pixel_bits(middle[:, None], s, middle) for s in widths]
dequantised = [pixel_bits(inside, s, middle) for s in widths]
plots.curves(
    widths,
    {"asked at the levels themselves": raw, "dequantised: spread over the bin": dequantised},
    title="Asked at the levels, a density claims fewer bits than there are",
    alt=f"Bits of one pixel against the width s of the model's Gaussians, from 0.001 to 0.5. The entropy, {entropy:.2f} bits, is a horizontal line. Asked at the levels, the "
    "curve dives through this line and below zero as s shrinks. Dequantised it stays above the line, is lowest near "
    f"s = {widths[int(np.argmin(dequantised))]:.2f} and rises on both sides.",
    xlabel="width s of each Gaussian (a grey level is 0.118 wide)",
    ylabel="bits",
    horizontal={"entropy of this pixel": entropy, "": 0.0},
    logx=True,
    ylim=(-3, 9),
    height=360,
)

# %% [markdown]
# Shannon's entropy is a floor: no honest model can go below it on average. The black curve crosses the floor and goes to $-\infty$. This is no triumph of
# modelling. The density grows without limit at 17 points as $s$ shrinks, and we asked exactly there.
#
# The cure is **dequantisation**: add uniform noise that fills each level's bin, $z = 2(i + u)/k - 1$ with $u \in [0, 1)$, so that the data have a density themselves. Level $i$ then owns an interval of length $2/k$, and a model's
# probability of the level is the integral of its density over it. By Jensen's inequality
#
# $$\log P(i) = \log \int_0^1 \tfrac{2}{k}\, p\big(\tfrac{2(i+u)}{k} - 1\big)\,du \;\ge\; \mathbb E_u\big[\log p(z)\big] + \log\tfrac{2}{k}$$
#
# for each pixel: bits from dequantised data are an upper bound on honest bits. This is also where the mysterious constant in public code comes from: with $k = 256$ and states in
# $[-1, 1]$, $-\log_2(2/256) = 7$ bits are added to $-\log_2 p$. (→ Exercise 08.2)


# %%
def my_dequantise(images, levels, u):
    """Images with values i/(levels - 1) as states 2 (i + u) / levels - 1."""
    return 2 * ((images * (levels - 1)).round() + u) / levels - 1


def my_bits(log_p, dim, levels):
    """From the density of dequantised states to bits per dimension."""
    return -(log_p + dim * math.log(2 / levels)) / (dim * math.log(2))


u = uniform(standard_normal(0))(held_out)
states = dequantise(held_out, 17, uniform(standard_normal(0)))
assert_close(my_dequantise(held_out, 17, u), states)
log_p = torch.full((5,), -64 * math.log(2.0))  # the density 1/2 on [-1, 1] for each of 64 pixels
assert_close(my_bits(log_p, 64, 17), bits_per_dim(log_p, 64, levels=17))
print(f"the uniform density costs {my_bits(log_p, 64, 17)[0]:.4f} bits, log2(17) = {math.log2(17):.4f}")

# %% [markdown]
# <details><summary><b>Question.</b> Why must the network have been <i>trained</i> on dequantised digits, too?</summary>
#
# Trained on the bare levels, its best answer at small noise is a spike on each level. Scored on states between the levels, such a spike gives next to nothing: the left end of the orange curve.
# </details>
#
# ## 4. The exact likelihood, along the flow
#
# Chapter 06 ended with a probability-flow ODE, $dz/dt = u(z, t)$, that moves noise into data along paths that never cross. Such a map keeps account of density. Ride along with a
# point: where neighbouring paths spread, the sand thins out. From the continuity equation $\partial p/\partial t = -\nabla\!\cdot(u\,p)$,
#
# $$\frac{d}{dt}\log p_t(z_t) = \frac{1}{p}\Big(\frac{\partial p}{\partial t} + u\cdot\nabla p\Big) = -\nabla\!\cdot u(z_t, t),$$
#
# since $\nabla\!\cdot(u p) = p\,\nabla\!\cdot u + u\cdot\nabla p$. So carry the image from $t_\text{min}$ up to $t = 1$, add up the divergence on the way, and look up the density of what arrives, where it is (nearly) a known normal law (→ Exercise 08.6):
#
# $$\log p_{t_\text{min}}(z) = \log p_1(z_1) + \int_{t_\text{min}}^1 \nabla\!\cdot u(z_t, t)\,dt .$$
#
# In two dimensions, on a mixture of three Gaussians, everything can be checked:

# %%
toy = GaussianMixture(
    torch.tensor([0.3, 0.5, 0.2]),
    torch.tensor([[-1.0, 0.6], [0.8, -0.4], [0.2, 1.0]]).double(),
    torch.tensor([[0.06, 0.03], [0.03, 0.09]]).double().expand(3, 2, 2),
)
vp = vp_linear()
toy_denoiser = denoiser_for(toy, vp)
points = toy.sample(64, standard_normal(1))


def density_at(t):
    """The exact log-density of the noised toy at time t, as a function of the state."""
    return lambda z: toy.log_prob(z, vp.alpha(t), vp.sigma(t))


# %%
def velocity(z, t):
    """The probability flow: f z - g^2 score / 2, the score by Tweedie's formula."""
    score = (vp.alpha(t) * toy_denoiser(z, t) - z) / vp.sigma(t) ** 2
    return vp.drift(t) * z - vp.diffusion(t) ** 2 / 2 * score


def velocity_and_divergence(z, t):
    """u (B, D) and the trace of its Jacobian (B,): one backward pass for each dimension."""
    z = z.detach().requires_grad_()
    u = velocity(z, t)
    rows = [torch.autograd.grad(u[:, i].sum(), z, retain_graph=True)[0][:, i] for i in range(z.shape[1])]
    return u.detach(), sum(rows)


def my_log_likelihood(z, times, prior):
    """log p at times[-1], by Heun's method from there up to times[0]."""
    total = 0
    for t, s in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):
        u, divergence = velocity_and_divergence(z, t)
        u_there, divergence_there = velocity_and_divergence(z + (s - t) * u, s)
        z = z + (s - t) * (u + u_there) / 2
        total = total + (s - t) * (divergence + divergence_there) / 2
    return prior(z) + total


grid = log_snr_times(vp, 40)[:-1]
found = log_likelihood(toy_denoiser, vp, points, grid, density_at(1.0), solver="heun")
assert_close(my_log_likelihood(points, grid, density_at(1.0)), found)
print("our loop agrees with the library")

# %% tags=["nbval-check-output"]
ends = torch.tensor([1.0, 1e-3]).double()
fine = {"rtol": 1e-8, "atol": 1e-8}
found = log_likelihood(toy_denoiser, vp, points, ends, density_at(1.0), **fine)
print(f"largest error against log p at t_min: below 1e-6: {(found - density_at(1e-3)(points)).abs().max() < 1e-6}")

# %% [markdown]
# Six correct digits (with scipy's adaptive solver), when the prior at $t = 1$ is the true $p_1$ and when we ask for $p_{t_\text{min}}$. In practice you know neither: you take $N(0, I)$ for $p_1$ and want $p_0$. These are the **two errors** that no solver removes.
# How large are they? Move $t_\text{min}$ and measure the first; stop the journey early, at $t_\text{max}$, and measure the second.

# %%
earliest, latest = [1e-4, 1e-3, 1e-2], [0.4, 0.6, 0.8, 1.0]
medium = {"rtol": 1e-6, "atol": 1e-6}
cut = [
    log_likelihood(toy_denoiser, vp, points, [1.0, t], density_at(1.0), **medium) - toy.log_prob(points)
    for t in earliest
]
normal = [log_likelihood(toy_denoiser, vp, points, [t, 1e-3], **medium) - density_at(1e-3)(points) for t in latest]
start_error, end_error = ([error.abs().mean().item() for error in errors] for errors in (cut, normal))
plots.curves(
    [],
    {
        "asked at $t_{min}$ instead of 0": (earliest, start_error),
        "N(0, I) taken for the law at $t_{max}$": (latest, end_error),
    },
    title="Begin late (t_min) and the density is blurred; stop early (t_max) and the arrival is not normal",
    alt="Mean error in nats on doubly logarithmic axes. Asked at t_min, it grows roughly in proportion to t_min: "
    + ", ".join(f"{e:.1e} at {t:g}" for t, e in zip(earliest, start_error, strict=True))
    + ". With a normal law at t_max it falls steeply: "
    + ", ".join(f"{e:.1e} at {t:g}" for t, e in zip(latest, end_error, strict=True)),
    xlabel="$t_{min}$ or $t_{max}$",
    ylabel="mean error of log p in nats",
    logx=True,
    logy=True,
    height=360,
)

# %% [markdown]
# Both are small against 64 pixels' worth of nats, if the ends are chosen with care. At $t_\text{min} = 0.001$ and $t_\text{max} = 1$ they are a thousandth of a nat or two. But look how steep the orange curve is: a schedule
# that ends too soon costs a hundred times more at $t_\text{max} = 0.4$ than at 1. And the black error depends on the data: the finer their detail, the smaller $t_\text{min}$ must be. For the digits the bins have sharp edges, which we blur
# with $\sigma = e^{-6} = 0.0025$, a 47th of a bin.
#
# ### Where there are too many dimensions
#
# The divergence took one backward pass for each dimension: 64 for a digit, 3072 for a small photo, at each step. **Hutchinson's trick** needs one. Draw a vector $v$ of random signs; then
#
# $$\mathbb E\big[v^\top J v\big] = \sum_{ij} J_{ij}\, \mathbb E[v_i v_j] = \sum_i J_{ii} = \nabla\!\cdot u ,$$
#
# and $v^\top J$ is one backward pass. Keep the same $v$ along the whole path, so that the ODE stays an ODE. (→ Exercise 08.5) How noisy is it? Test on a law in 64 dimensions where the answer is known: the Gaussian with the digits' mean and covariance.

# %%
flat_train = dequantise(train, 17, uniform(standard_normal(2))).flatten(1).double()
bell = Gaussian(flat_train.mean(0), flat_train.T.cov())
bell_denoiser = denoiser_for(bell, digit_schedule)
one = bell.sample(8, standard_normal(3))
clock = uniform_times(31, t_min=1e-3)[:-1]
many = one.repeat(128, 1)
probed = log_likelihood(
    bell_denoiser, digit_schedule, many, clock, noise=rademacher(standard_normal(4)), solver="heun"
).view(128, 8)
exactly = log_likelihood(bell_denoiser, digit_schedule, one, clock, solver="heun")
probes = [1, 2, 4, 8, 16, 32]
spread = [(probed.view(-1, n, 8).mean(1) - exactly).square().mean().sqrt().item() / 64 / math.log(2) for n in probes]
at_t_min = bell.log_prob(one, digit_schedule.alpha(1e-3), digit_schedule.sigma(1e-3))
solver_error = (exactly - at_t_min).abs().mean().item() / 64 / math.log(2)
plots.curves(
    probes,
    {"error with random signs": spread, "$1/\\sqrt{n}$": [spread[0] / n**0.5 for n in probes]},
    title="One random vector a digit is noisy, but its error averages out",
    alt="Root mean square error in bits per pixel against the number of random vectors, doubly logarithmic: "
    + ", ".join(f"{e:.3f} with {n}" for n, e in zip(probes, spread, strict=True))
    + ". The points follow one over the square root of n. A horizontal line marks the error of 30 Heun steps.",
    xlabel="random vectors n",
    ylabel="error in bits per pixel",
    horizontal={"error of 30 Heun steps": solver_error},
    logx=True,
    logy=True,
    height=340,
)

# %% [markdown]
# One vector is unbiased, so for the *mean over a test set* one vector a digit is enough: its noise is one more contribution to the scatter between digits, which the interval shows anyway. For a single image, use several.
#
# <details><summary><b>Question.</b> Would the number still be a likelihood if the denoiser were badly trained?</summary>
#
# Yes. Any smooth velocity field moves probability without losing any, so the result is the exact density of *some* model, the one that the probability-flow ODE samples from. It
# integrates to one. It is a density that gives the data little mass, but not a wrong number.
# </details>
#
# ## 5. The ELBO: every step has a price
#
# The other way needs no divergence and no gradient. Sampling goes $z_1 \to \dots \to z_0$ in $n$ random steps $p(z_s \mid z_t)$; the forward process $q$ goes the other way. For any such pair, Jensen's inequality again gives
#
# $$-\log p(z_0) \le \underbrace{\mathrm{KL}\big(q(z_1|z_0)\,\|\,N(0, \sigma_1^2 I)\big)}_{\text{start}} + \sum_{t \to s}\underbrace{\mathbb E\,\mathrm{KL}\big(q(z_s|z_t,z_0)\,\|\,p(z_s|z_t)\big)}_{\text{one step}} + \underbrace{\mathbb E[-\log p(z_0|z_{t_1})]}_{\text{last step}},$$
#
# the negative **evidence lower bound** (ELBO), where $t_1$ is the last time before 0. ($\tilde\beta$ is 0 for the step from $t_1$ to 0, and a density needs a width, so the last step gets the width $\sigma_{t_1}$.) Think of the sum as a bill. Each step of the sampler must hit the posterior $q(z_s|z_t, z_0)$, which knows $z_0$, while $p$ only knows the guess $\hat z_0$. Both are Gaussians. With the same variance $\tilde\beta$ the KL is half the squared distance of the
# means over the variance. The mean is $c\,z_0 + \dots$ with $c = \alpha_s(1 - \alpha_t^2\sigma_s^2/(\alpha_s^2\sigma_t^2))$ (chapter 04), and after some algebra all of it collapses into one line (→ Exercise 08.3):
#
# $$\mathrm{KL} = \frac{c^2 |z_0 - \hat z_0|^2}{2 \tilde\beta} = \tfrac12\big(\mathrm{SNR}(s) - \mathrm{SNR}(t)\big)\,|z_0 - \hat z_0|^2 .$$
#
# A step costs the gain in signal-to-noise ratio, times the error of the guess. On a line, with a mixture whose $\log p$ is known:

# %%
pair = GaussianMixture(
    torch.tensor([0.35, 0.65]), torch.tensor([[-0.8], [0.7]]).double(), torch.tensor([[[0.02]], [[0.08]]]).double()
)
cosine = vp_cosine()
pair_denoiser = denoiser_for(pair, cosine)


def my_elbo(denoiser, schedule, z_0, times, noise):
    """-ELBO with beta-tilde at every step: start, steps and last step, each (B,)."""

    def snr(t):
        return (schedule.alpha(t) / schedule.sigma(t)) ** 2

    def guess(t):
        z = schedule.alpha(t) * z_0 + schedule.sigma(t) * noise(z_0)
        return denoiser(z, t)

    alpha, sigma = schedule.alpha(times[0]), schedule.sigma(times[0])
    start = ((alpha * z_0) ** 2 / sigma**2).sum(1) / 2  # KL of N(alpha z_0, sigma^2) from N(0, sigma^2)
    steps = [
        (snr(s) - snr(t)) / 2 * (z_0 - guess(t)).square().sum(1) for t, s in zip(times[:-2], times[1:-1], strict=True)
    ]
    final = torch.distributions.Normal(guess(times[-2]), schedule.sigma(times[-2]))
    return start, torch.stack(steps, 1), -final.log_prob(z_0).sum(1)


z_0, times = pair.sample(500, standard_normal(5)), uniform_times(20)
ours = my_elbo(pair_denoiser, cosine, z_0, times, standard_normal(6))
library = elbo_terms(pair_denoiser, cosine, z_0, times, standard_normal(6))
assert_close(ours, tuple(library))
print("start, steps and last step agree with the library")

# %% [markdown]
# How far is the bill from the truth, on average? Sampling noise would hide the small differences, so take exact averages: 81 places for $z_0$, weighted by $p(z_0)$, and 24 for $\epsilon$ (Gauss–Hermite quadrature, a
# weighted sum that is very accurate for smooth functions). Noise is handed in here, so the quadrature points can simply be handed in as "noise".

# %%
nodes, node_weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(24))
places = torch.linspace(-2.0, 2.0, 81).double()[:, None]
mass = pair.log_prob(places).exp()
mass = mass / mass.sum()
true_cost = -(mass @ pair.log_prob(places)).item()
every_z_0, every_eps = places.repeat_interleave(24, 0), nodes.repeat(81)[:, None]


def average(cost):
    """Mean over data and noise of a cost (81 * 24, ...) given for every pair."""
    return torch.einsum("i,ij...,j->...", mass, cost.view(81, 24, *cost.shape[1:]), node_weights / node_weights.sum())


def bill(schedule, times, variance="posterior"):
    """Expected (start, steps, last step) of the ELBO in nats."""
    args = (denoiser_for(pair, schedule), schedule, every_z_0, times, lambda like: every_eps)
    return [average(part) for part in elbo_terms(*args, variance)]


# %%
grids = {"evenly in t": uniform_times(20), "evenly in log SNR": log_snr_times(cosine, 20)}
prices, totals = {}, {}
for name, times in grids.items():
    start, steps, end = bill(cosine, times)
    prices[name] = (cosine.log_snr(times[1:-1]), steps)
    totals[name] = (start + steps.sum() + end).item() - true_cost
plots.curves(
    [],
    prices,
    title="The same 20 steps, spent in two ways",
    alt="Price of each of 19 steps in nats against the log SNR that it reaches. "
    + " ".join(
        f"{name}: dearest step {y.max():.2f} nats, gap to the true cost {totals[name]:.2f}."
        for name, (_, y) in prices.items()
    )
    + " Evenly in t most steps are cheap and the last, a jump from log SNR 4.7 to 10.1, is dearest by far; evenly in log SNR the prices rise and then stay level near 1.",
    caption="Gap between the ELBO and the true cost: "
    + ", ".join(f"{total:.3f} nats {name}" for name, total in totals.items()),
    xlabel="log SNR at the end of the step",
    ylabel="price of the step in nats",
    logy=True,
    ylim=(1e-4, 2e2),
    height=340,
)

# %% [markdown]
# The bill is honest: it lies above $-\mathbb E\log p(z_0)$, never below, for any grid. But what an overcharge! One step of the uniform grid jumps from log SNR 4.7 to 10.1, which multiplies the SNR by 220, and pays
# for it. Even the better grid is 2.8 nats too dear, on data that take one number each. Chapter 04's samples with $\tilde\beta$ looked fine; the ELBO is a stricter judge. What is wrong with them?
#
# **In plain words:** the exact likelihood belongs to the ODE, the ELBO to the random sampler. They are two models that share one network. With an exact denoiser and ever more steps both tend to the truth.
#
# ## 6. Whose variance?
#
# A step of the sampler needs a variance. Chapter 04 offered two, $\tilde\beta$ and $\beta$. The ELBO lets you do better. Let $E = \mathbb E|z_0 - \hat z_0|^2 / D$ be the error of the guess for each number. Each step's KL, now with
# any variance $v$, is $\tfrac{D}{2}\big[(\tilde\beta + c^2 E)/v - 1 - \log(\tilde\beta/v)\big]$. Set its derivative to zero:
#
# $$v^* = \tilde\beta + c^2 E, \qquad \text{price} = \tfrac{D}{2}\log\frac{v^*}{\tilde\beta} .$$
#
# What the sampler does not know about $z_0$ must be added to its noise. With $\tilde\beta$ it is too sure of itself, and a Gaussian that is too narrow pays by the square of its misses. For an exact denoiser this is **Analytic-DPM** (arXiv 2201.06503). With $\mathrm{price}_{\tilde\beta}$ from the last section, $v^* = \tilde\beta\,(1 + 2\,\mathrm{price}_{\tilde\beta}/D)$: the dearer
# a step, the more a better variance saves. (→ Exercise 08.4)
#
# The other road, **iDDPM** (arXiv 2102.09672), learns: $v = \beta^{f}\,\tilde\beta^{1-f}$ with a fraction $f \in [0, 1]$ from the network, trained on the ELBO. Do both for 20 steps:

# %%
times = log_snr_times(cosine, 20, t_max=0.99)
steps = [(t, s) for t, s in zip(times[:-2], times[1:-1], strict=True)]
beta_tilde = torch.stack([posterior_std(cosine, t, s) ** 2 for t, s in steps])
beta = torch.stack([forward_std(cosine, s, t) ** 2 for t, s in steps])
price = bill(cosine, times)[1]
best = beta_tilde * (1 + 2 * price)

logits = torch.zeros(19, dtype=torch.float64, requires_grad=True)
optimiser = torch.optim.Adam([logits], 0.4)
for _ in range(40):
    optimiser.zero_grad()
    loss = bill(cosine, times, lambda z, t, s: logits.sigmoid()[(times[:-2] - t).abs().argmin()])[1].sum()
    loss.backward()
    optimiser.step()
learned = beta ** logits.sigmoid().detach() * beta_tilde ** (1 - logits.sigmoid().detach())
drawn = pair.sample(20_000, standard_normal(7))
measured = optimal_variances(pair_denoiser, cosine, drawn, times, standard_normal(8))[:-1]
assert_close(measured, best, rtol=0.03, atol=0)
plots.curves(
    cosine.log_snr(times[1:-1]),
    {
        "$\\beta$": beta / beta_tilde,
        "best, by the formula": best / beta_tilde,
        "learned fraction": learned / beta_tilde,
    },
    title="The best variance lies between, and at small noise it is beta",
    alt="Variance of each step divided by beta-tilde, against log SNR. All ratios are 1 below -4. Beta's rises to 2.6 between 0 and 5. The best variance stays below it, "
    "with a dent near 3, where the model knows z_0 fairly well, and reaches beta's value above 8. The learned fractions follow the best curve closely, a little above it between log SNR 5 and 7.",
    xlabel="log SNR at the end of the step",
    ylabel=r"variance / $\tilde\beta$",
    horizontal={r"$\tilde\beta$": 1.0},
    height=340,
)

# %%
counts = [5, 10, 20, 40, 80]
gaps = {name: [] for name in ("beta-tilde", "beta", "best")}
for n in counts:
    times = log_snr_times(cosine, n, t_max=0.99)
    start, price, end = bill(cosine, times)
    gaps["beta-tilde"].append((start + price.sum() + end).item() - true_cost)
    gaps["beta"].append(sum(part.sum().item() for part in bill(cosine, times, "beta")) - true_cost)
    gaps["best"].append((start + torch.log1p(2 * price).sum() / 2 + end).item() - true_cost)
plots.curves(
    counts,
    gaps,
    title="For the likelihood, the variance is worth more than the steps",
    alt="Gap between ELBO and true cost in nats against the number of steps, doubly logarithmic. "
    + " ".join(f"{name}: {', '.join(f'{g:.3f}' for g in values)}." for name, values in gaps.items()),
    xlabel="number of steps",
    ylabel="gap to the true cost in nats",
    logx=True,
    logy=True,
    height=340,
)

# %% [markdown]
# The dent in the last figure but one is at noise of about the width of the bumps, where the denoiser knows most. Where the noise is finer than any detail it knows nothing at that scale, and $\beta$ is best.
#
# All gaps shrink like $1/n$ in the end. But at the numbers of steps in this figure $\tilde\beta$ pays 13 to 140 times as much as the best variance: five steps with the best variance (0.475 nats) are as good as 80 with $\tilde\beta$ (0.463). (At 20 steps $\tilde\beta$ is 2.47 nats too dear here and was 2.82 in section 5: here the grid starts from $t = 0.99$.) For *samples* the difference is smaller; chapter 07 races Analytic-DPM.
#
# <details><summary><b>Question.</b> With $T = 1000$ steps $\beta$ and $\tilde\beta$ are equal to within a percent at almost all steps. Yet iDDPM reports clearly better bits/dim for learned variances. Which steps are responsible?</summary>
#
# The few next to the data. Evenly spaced in $t$, even 1000 steps make large jumps in log SNR there: the SNR more than doubles in the last step and grows by more than half in the one before, and $\beta/\tilde\beta$ is far from 1. Most of the bits are paid there, too (section 10).
# </details>
#
# ## 7. A schedule is a way to walk along the SNR
#
# Let the number of steps grow. The sum of prices becomes an integral:
#
# $$\sum \tfrac12\big(\mathrm{SNR}(s) - \mathrm{SNR}(t)\big)\,|z_0-\hat z_0|^2 \;\to\; -\tfrac12\int \mathrm{SNR}'(t)\,|z_0 - \hat z_0|^2\,dt = \tfrac12\int e^\lambda\,|z_0 - \hat z_0|^2\,d\lambda .$$
#
# The last form has no $t$ in it. Written in $\lambda = \log \mathrm{SNR}$ the integral depends on the schedule **through its two ends only** (Kingma et al., VDM, arXiv 2107.00630). Cosine or linear, it is the same bill, paid in another order. Test it with three schedules between $\lambda = 8$ and $-8$:

# %%
lambdas = torch.linspace(8, -8, 121).double()
walks = {"vp_linear": vp_linear(), "vp_cosine": cosine, "flow": flow()}
rates, squares, moments = {}, {}, {}
for name, schedule in walks.items():
    t = schedule.time_at(lambdas)
    args = (denoiser_for(pair, schedule), schedule, every_z_0.repeat(121, 1), t.repeat_interleave(len(every_z_0)))
    losses = continuous_loss(*args, lambda like: every_eps.repeat(121, 1)).view(121, -1)
    rates[name] = (t, torch.stack([average(loss) for loss in losses]))
    squares[name] = torch.stack([average(loss**2) for loss in losses])
    width = t[-1] - t[0]
    total = torch.trapezoid(rates[name][1], t)
    moments[name] = total.item(), ((width * torch.trapezoid(squares[name], t)).sqrt() / total).item()
display(
    plots.curves(
        [],
        rates,
        title="Three schedules, three ways to spread the cost over time",
        alt="Cost in nats per unit of time, logarithmic, against t. At log SNR 8 vp_linear starts at 226, vp_cosine at 102, flow at 56, and all three fall. vp_linear falls fastest, below 0.01 at t = 0.8; vp_cosine and flow stay near 1 in the middle.",
        xlabel="time t",
        ylabel="nats per unit of time",
        logy=True,
        ylim=(1e-2, 1e4),
        height=320,
    )
)
plots.curves(
    [],
    {name: (lambdas, rate * simple_weight(walks[name])(lambdas)) for name, (t, rate) in rates.items()},
    title="Against log SNR they are one curve",
    alt="Cost in nats per unit of log SNR. The three curves coincide: near zero below -4, a shoulder of 0.27 between 1 and 3, then rising to one half.",
    xlabel="log SNR",
    ylabel="nats per unit of log SNR",
    horizontal={"nothing predictable: D/2": 0.5},
    height=320,
)

# %% tags=["nbval-check-output"]
for name, (total, noise_ratio) in moments.items():
    print(
        f"{name:10} integral {total:.3f} nats; one random t and eps: root mean square {noise_ratio:.1f} times the mean"
    )

# %% [markdown]
# The integrals agree. (In $\lambda$ the curve tends to $D/2$: once the noise is finer than the data's detail, $\epsilon$ is unpredictable and each further unit of log SNR costs half a nat a number. The last step of the
# ELBO pays it back.) What differs is the last column: how noisy the estimate is when training draws a single $t$. A schedule that rushes through the expensive region makes rare, huge losses.
# So let the schedule **learn**: not to lower the loss, which it cannot, but to lower its variance. Below, eight shares of the fall from 8 to -8 are trained by gradient on the variance, with an exact denoiser.


# %%
def losses_of(logits, t, z_0, eps):
    """The continuous loss with the learned schedule at times t (B,), with gradients to the logits."""
    schedule = learned_schedule(logits, 8.0, -8.0)
    return continuous_loss(denoiser_for(pair, schedule), schedule, z_0, t, lambda like: eps)


t = (torch.arange(64).double() + 0.5).repeat_interleave(100) / 64
z_0, eps = pair.sample(6400, standard_normal(9)), standard_normal(10)(torch.empty(6400, 1, dtype=torch.float64))
logits = torch.zeros(8, dtype=torch.float64, requires_grad=True)
optimiser = torch.optim.Adam([logits], 0.1)
before = losses_of(logits, t, z_0, eps).detach()
for _ in range(60):
    optimiser.zero_grad()
    losses_of(logits, t, z_0, eps).var().backward()
    optimiser.step()
after = losses_of(logits, t, z_0, eps).detach()
learned_walk = learned_schedule(logits.detach(), 8.0, -8.0)
axis = torch.linspace(1e-3, 1, 200).double()
plots.curves(
    axis,
    {
        "straight": 8 - 16 * axis,
        "learned": learned_walk.log_snr(axis),
    },
    title="The learned schedule lingers where the bits are paid",
    alt="Log SNR against time. One line falls straight from 8 to minus 8. The learned one falls slowly at first, staying above log SNR 0 until about "
    f"t = {learned_walk.time_at(0.0).item():.2f}, then fast to minus 8.",
    caption=f"Mean loss {before.mean():.2f} before and {after.mean():.2f} after; standard deviation of a single draw {before.std():.2f} before, {after.std():.2f} after.",
    xlabel="time t",
    ylabel="log SNR",
    height=320,
)

# %% tags=["nbval-check-output"]
standard_error = (before - after).std().item() / 80
print(
    f"the mean stays: change below 4 standard errors: {abs(before.mean() - after.mean()).item() < 4 * standard_error}"
)
print(f"standard deviation of one draw: {before.std():.1f} -> {after.std():.1f}")
per_level = simple_weight(walks["flow"])(lambdas)  # from one unit of time to one unit of log SNR
first, second = rates["flow"][1] * per_level, squares["flow"] * per_level**2  # mean and mean square of the loss
area = {name: torch.trapezoid(y, -lambdas) for name, y in {"mean": first, "root": second.sqrt()}.items()}
mean_squares = {
    "straight": 16 * torch.trapezoid(second, -lambdas),
    "equal mean at all times": area["mean"] * torch.trapezoid(second / first, -lambdas),
    "equal root mean square": area["root"] ** 2,
}
for name, mean_square in mean_squares.items():
    print(f"by quadrature, {name}: {(mean_square - area['mean'] ** 2).sqrt():.2f}")

# %% [markdown]
# What is the best that it can do? A walk that passes a level at the speed $|d\lambda/dt|$ multiplies the loss there by this speed. The variance is least when the *root mean square* of the loss is the same at all times, so the speed is proportional to one over the
# root mean square per unit of $\lambda$. Making the *expected* loss equal at all times is nearly as good, as the last lines show, and easier to measure (→ Exercise 08.8). What remains is mostly the scatter of $z_0$ and $\epsilon$ at a given time, which no schedule removes. For a learned denoiser the same trick is used while training: the digit model draws $\lambda$ uniformly.
#
# ## 8. Weightings: which noise levels shall the network care about?
#
# The network has only so much capacity, and the weight of each noise level in the loss says where to spend it. Since $z_t$ is given, an error of $z_0$ is an error of $\epsilon$: $e^\lambda |z_0 - \hat z_0|^2 = |\epsilon - \hat\epsilon|^2$. So
# in terms of $\lambda$ every loss in use is $\tfrac12\int w(\lambda)\,|\epsilon - \hat\epsilon|^2\,d\lambda$:
#
# | loss | $w(\lambda)$ | from |
# |---|---|---|
# | ELBO, maximum likelihood | $1$; on the error of the score this is $g^2$ | arXiv 2101.09258 |
# | simple, $\lvert\epsilon - \hat\epsilon\rvert^2$ with uniform $t$ | $1/(-d\lambda/dt)$, so it depends on the schedule | arXiv 2006.11239 |
# | P2 | simple divided by $(k + \mathrm{SNR})^\gamma$ | arXiv 2204.00227 |
#
# P2's $k$ and $\gamma$ are both 1 here (this $k$ is not the number of levels). (→ Exercise 08.7)

# %%
lambdas = torch.linspace(-8, 8, 81).double()
weights = {
    "ELBO": likelihood_weight(lambdas),
    "simple, cosine": simple_weight(cosine)(lambdas),
    "simple, vp_linear": simple_weight(vp_linear())(lambdas),
    "P2, cosine": p2_weight(cosine)(lambdas),
}
plots.curves(
    lambdas,
    {name: w / torch.trapezoid(w, lambdas) for name, w in weights.items()},
    title="What each loss cares about",
    alt="Weights, each with area 1, against log SNR from -8, noise, to 8, clean. ELBO: level at 0.06. Simple with the cosine schedule: a hill around 0. Simple with "
    "vp_linear: a flatter hill around -1. P2: a higher hill around -1, next to nothing above 3.",
    xlabel="log SNR",
    ylabel="weight, area 1",
    height=340,
)

# %% [markdown]
# What follows from that? You would have to train a network for each weighting; here is a world so small that training takes 20 milliseconds. The data lie on a line: two *clusters*, each of five fine *teeth*. Clusters are what you
# see from afar, teeth are fine texture. The "network" predicts $v = \alpha\epsilon - \sigma z_0$ from a dozen Gaussian bumps at random places in the $(z, \lambda)$ plane, too few for everything, and the best coefficients follow from one weighted least-squares solution.

# %%
teeth = 0.12 * torch.arange(-2, 3).double()
comb = GaussianMixture(
    torch.tensor([0.3] * 5 + [0.7] * 5),
    torch.cat([teeth - 1, teeth + 0.7])[:, None],
    torch.full((10, 1, 1), 0.02**2).double(),
)
levels = torch.linspace(-8, 8, 49).double()
inner, inner_weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(4))
outer, outer_weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(12))
comb_z_0 = (comb.means + 0.02 * inner).reshape(-1)  # four places on each tooth
grid = torch.meshgrid(levels, comb_z_0, outer, indexing="ij")
at, clean, eps = (part.reshape(-1) for part in grid)
alpha, sigma = at.sigmoid().sqrt(), (-at).sigmoid().sqrt()
target = alpha * eps - sigma * clean
chances = (comb.weights[:, None] * inner_weights / inner_weights.sum()).reshape(-1, 1) * outer_weights
quadrature = (chances / chances.sum()).expand(49, 40, 12).reshape(-1)
WEIGHTS = {
    "ELBO": likelihood_weight,
    "simple": simple_weight(cosine),
    "P2": p2_weight(cosine),
}


def features(z, log_snr, bumps, seed):
    """A constant, a slope, and `bumps` Gaussian bumps at random places: (N, 2 + bumps)."""
    spots = torch.rand(bumps, 2, generator=torch.Generator().manual_seed(seed)).double()
    spots = spots * torch.tensor([4.0, 16.0]) + torch.tensor([-2.0, -8.0])
    away = (torch.stack([z, log_snr], 1)[:, None] - spots) / torch.tensor([0.5, 3.0])
    plain = torch.stack([torch.ones_like(z), z * (log_snr / 2).sigmoid()], 1)
    return torch.cat([plain, (-away.square().sum(2) / 2).exp()], 1)


# %%
def train_comb(weighting, bumps=12, seed=0):
    """Coefficients that minimise the weighted loss, and the bill for each unit of log SNR (49,)."""
    rows = features(alpha * clean + sigma * eps, at, bumps, seed)
    w = WEIGHTS[weighting](levels).repeat_interleave(40 * 12) * alpha**2 * quadrature
    gram = rows.T @ (w[:, None] * rows)
    gram = gram + 1e-4 * gram.diagonal().mean() * torch.eye(len(gram))
    coefficients = torch.linalg.solve(gram, rows.T @ (w * target))
    error = (rows @ coefficients - target) ** 2 * alpha**2 * quadrature
    return coefficients, error.view(49, -1).sum(1) / 2


def comb_samples(coefficients, bumps=12, seed=0, n=200):
    """Samples (n,) by the probability-flow ODE from the quantiles of the normal law."""

    def denoiser(z, t, cond=None):
        log_snr = cosine.log_snr(t).clamp(-8, 8).expand(len(z))
        v = features(z[:, 0], log_snr, bumps, seed) @ coefficients
        return cosine.alpha(t) * z - cosine.sigma(t) * v[:, None]

    start = torch.special.ndtri((torch.arange(n).double() + 0.5) / n)[:, None]
    first, final = cosine.time_at(torch.tensor([-8.0, 7.99])).tolist()
    return last(probability_flow(denoiser, cosine, start, log_snr_times(cosine, 25, first, final)))[:, 0]


comb_quantiles = comb.sample(40_000, standard_normal(12))[:, 0].sort().values[100::200]


def judge(weighting, bumps=12, seed=0):
    """(bill in nats, W1 of the samples): both are small when good."""
    coefficients, rate = train_comb(weighting, bumps, seed)
    distance = (comb_samples(coefficients, bumps, seed).sort().values - comb_quantiles).abs().mean()
    return torch.trapezoid(rate, levels).item(), distance.item()


# %% tags=["nbval-check-output"]
scores = {}
print("mean of 8 placements of the bumps, and the difference to ELBO with its standard error")
for bumps in (12, 60):
    for name in WEIGHTS:
        scores[name, bumps] = torch.tensor([judge(name, bumps, seed) for seed in range(8)])
        bill_nats, distance = scores[name, bumps].mean(0).tolist()
        difference = scores[name, bumps] - scores["ELBO", bumps]
        (more, further), (e, f) = difference.mean(0).tolist(), (difference.std(0) / 8**0.5).tolist()
        print(
            f"{bumps} bumps, {name:7} bill {bill_nats:.2f} nats ({more:+.2f} +- {e:.2f})   W1 {distance:.3f} ({further:+.3f} +- {f:.3f})"
        )

# %% [markdown]
# That the ELBO has the best bill is no surprise: its fit minimises this very number. The question is what the others lose by it, and what they gain. Look at 12 bumps first. Simple loses 0.06 nats and P2 three quarters of a nat, for data of one number each.
# And the gain? The samples ($W_1$, the Wasserstein distance of chapter 06, between 200 samples and the exact law) show no difference beyond two standard errors.
# Three quarters of a nat are a factor of two in likelihood, for each number of an image, and here they change nothing that $W_1$ can see. The ELBO pays for each unit of log SNR alike, and P2 leaves those units alone on which only the
# sharpness of the teeth depends; no model with 12 bumps draws the teeth anyway. With 60 bumps it is another story: P2 still loses more than half a nat, and now its samples are worse, too, by six standard errors. Play with it:


# %%
def draw_weighting(weighting="ELBO", bumps=12, seed=0):
    """A histogram of the samples over the exact density, blurred by 0.04, with the bill and W1 in the title."""
    coefficients, rate = train_comb(weighting, bumps, seed)
    samples = comb_samples(coefficients, bumps, seed)
    bill_nats = torch.trapezoid(rate, levels).item()
    distance = (samples.sort().values - comb_quantiles).abs().mean().item()
    line = torch.linspace(-1.8, 1.6, 500).double()[:, None]
    return plots.histogram(
        {"samples": samples.clamp(-1.8, 1.6)},
        exact={"exact, blurred by 0.04": (line[:, 0], comb.log_prob(line, 1.0, 0.04).exp())},
        bins=70,
        title=f"{weighting}, {bumps} bumps: bill {bill_nats:.2f} nats, W1 {distance:.3f}",
        alt=f"Histogram of samples of a model trained with weighting {weighting} over the exact density of two clusters, blurred by 0.04; bill {bill_nats:.2f} nats, W1 {distance:.3f}.",
        xlabel="$z_0$",
        width=460,
        height=280,
    )


widgets.explorer(draw_weighting, weighting=list(WEIGHTS), bumps=(4, 60, 4, 12), seed=(0, 11, 1, 0))

# %%
widgets.frames(
    draw_weighting,
    [{"weighting": name, "bumps": bumps} for bumps in (12, 60) for name in WEIGHTS],
    title="With 12 bumps the bills differ, the samples hardly",
    alt="Two rows of three histograms: ELBO, simple and P2, with 12 bumps above and 60 below, over the exact density, blurred by 0.04, of two clusters with five teeth each. No model with 12 bumps draws the teeth. "
    + " ".join(
        f"{name}, {bumps} bumps: bill {values[0, 0]:.2f}, W1 {values[0, 1]:.3f}."
        for (name, bumps), values in scores.items()
    ),
    columns=3,
)

# %% [markdown]
# Three things to try. Raise the number of bumps: all bills fall, slowly. With 12 bumps the samples cannot tell the weightings apart; with 60 the better bill also draws the better samples, on average over the placements. So whether the two agree depends on the capacity, and section 9 has models on which they cannot
# agree. Change the seed: a single $W_1$ jumps about, which is why the table averages over eight. And look at P2: it
# spends almost nothing above $\lambda = 3$, so nobody checks the model there, and its bill shows it. (P2 is meant for large networks that get the fine levels right in passing; its authors report better FID on faces.)
#
# <details><summary><b>Question.</b> With infinitely many bumps, which weighting would win?</summary>
#
# None. Every positive weight has the same minimiser, the exact denoiser. Weightings matter because capacity, data and training time are limited, and because they change how noisy the gradients are.
# </details>
#
# ## 9. Why likelihood and looks disagree
#
# The example above was mild. Here are two extreme ones, on digits, after Theis, van den Oord and Bethge (arXiv 1511.01844).
#
# **Model A** is our network. **Model B** answers, in 99 of 100 draws, with uniform noise, and otherwise asks A. Its likelihood is $P_B = 0.01\,P_A + 0.99\,P_\text{noise} \ge 0.01\,P_A$, so it needs at most $\log_2 100 = 6.6$ bits more **for
# the whole image**: a tenth of a bit per pixel. For a photo with 200,000 numbers that is invisible in any table. **Model C** keeps the training digits in a drawer, pulls one out and adds a whiff of noise, $\sigma = 0.06$, half a grey level. Its
# density is a mixture of 1437 narrow Gaussians, `EmpiricalData` in this package.

# %%
drawer = EmpiricalData(dequantise(train, 17, uniform(standard_normal(2))).flatten(1).double())
start = standard_normal(13)(torch.empty(12, 1, 8, 8))
with torch.inference_mode():
    drawn_a = last(heun(model, digit_schedule, start, uniform_times(25, t_min=0.02)))
generator = torch.Generator().manual_seed(1)
coins = torch.rand(12, generator=generator) < 0.01
drawn_b = torch.where(coins.view(12, 1, 1, 1), drawn_a, 2 * torch.rand(12, 1, 8, 8, generator=generator) - 1)
picked = dequantise(train[torch.randint(len(train), (12,), generator=generator)], 17, uniform(standard_normal(14)))
drawn_c = picked + 0.06 * standard_normal(15)(picked)

tested = held_out[::8]
tested_z = dequantise(tested, 17, uniform(standard_normal(0)))
bits_a = exact_bits(tested).double()
log_a, log_noise = -bits_a * 64 * math.log(2), -64 * math.log(17.0)
log_b = torch.logaddexp(log_a + math.log(0.01), torch.tensor(log_noise + math.log(0.99)).double())
bits = {
    "A: the network": bits_a,
    "B: 99 % noise": bits_per_dim(log_b, 64),
    "C: a drawer": bits_per_dim(drawer.log_prob(tested_z.flatten(1).double(), 1.0, 0.06), 64, levels=17),
}
intervals = {name: bootstrap_interval(values) for name, values in bits.items()}
plots.image_grid(
    (torch.cat([drawn_a, drawn_b, drawn_c]) + 1) / 2,
    [name if i == 0 else "" for name in bits for i in range(12)],
    title="Twelve draws from each model: which one has the best likelihood?",
    alt="Three rows of twelve 8 by 8 images. A, the network: digits, most of them legible. B: uniform noise. C: legible digits with a little grain. Bits per pixel on held-out digits: "
    + ", ".join(f"{name} {values.mean():.2f}" for name, values in bits.items()),
    caption="Bits per pixel on 45 held-out digits, with 95 % intervals. "
    + " ".join(f"{name}: {bits[name].mean():.2f} ({a:.2f} to {b:.2f})." for name, (a, b) in intervals.items()),
    zoom=7,
    columns=12,
)

# %% [markdown]
# B draws rubbish and needs almost the bits per pixel of A (1.77 against 1.67). C draws real digits, and its likelihood on digits that it has not seen is worse than that of knowing *nothing*, 4.09 bits. Why?
#
# - **Likelihood asks about coverage.** It is an average over the *data*: does the model give mass to every digit that exists? C fails as soon as a new digit comes, and the logarithm punishes it without mercy.
# - **Looks ask about precision.** They are an average over the *samples*: is everything that the model draws a digit? B fails in 99 of 100 draws, and a logarithm turns the factor 100 into nearly nothing.
#
# In the language of divergences: likelihood is $\mathrm{KL}(\text{data}\,\|\,\text{model})$ (up to the data's entropy, which no model changes), looks are closer to the opposite direction. Only a perfect model is best in both.
#
# And the black square of section 1? Think of a coin that shows heads 60 times in 100. The single most probable sequence of 100 throws is 100 heads, and yet you will never see it: the sequences with about 60 heads are less probable each, but there are so many more of them. Black
# is the most probable value of most pixels, so all black is dense, and nothing like a digit. Likelihood *compares models on the same data*. It does not tell you whether an image belongs to the data.
#
# ## 10. The digit model under both meters
#
# Now the payoff: the network's bits on held-out digits, by the flow and by the ELBO. For the ELBO take the continuous form: start, the rate at 24 noise levels spread evenly over $\lambda$ (with a random offset for each digit), and the last step.


# %%
def elbo_bits(images, draws=24, seed=0, denoiser=model):
    """Bits per pixel by the ELBO with infinitely many steps, (B,), and the rate of every draw in bits, (draws, B)."""
    z, noise = dequantise(images, 17, uniform(standard_normal(seed))), standard_normal(seed + 2)
    offset = torch.rand(len(z), generator=torch.Generator().manual_seed(seed + 3)).double()
    with torch.inference_mode():
        rates = [continuous_loss(denoiser, digit_schedule, z, (offset + i) / draws, noise) for i in range(draws)]
        last_step = reconstruction_loss(denoiser, digit_schedule, z, 1e-6, noise)
    rates = torch.stack(rates)
    total = prior_kl(digit_schedule, z) + rates.mean(0) + last_step
    return bits_per_dim(-total, 64, levels=17), rates / 64 / math.log(2)


bound, rates = elbo_bits(held_out)
bell_z = dequantise(held_out, 17, uniform(standard_normal(0))).flatten(1).double()
models = {
    "one histogram a pixel": histogram_bits,
    "a Gaussian": bits_per_dim(bell.log_prob(bell_z), 64, levels=17),
    "network, ELBO": bound,
    "network, ELBO, fewer": bound[::8],
    "network, exact, same": bits_a,
}
for name, values in models.items():
    a, b = bootstrap_interval(values)
    print(f"{name:22} {values.mean():.2f}   95 % interval {a:.2f} to {b:.2f}   ({len(values)} digits)")

# %%
few = held_out[::24]  # 15 digits, three times each: new dequantisation, new random vectors, new noise levels
flows = torch.stack([exact_bits(few, seed=seed).double() for seed in range(3)])
bounds = torch.stack([elbo_bits(few, draws=64, seed=seed)[0].double() for seed in range(3)])
gap = (bounds - flows).mean(0)
a, b = bootstrap_interval(gap)
errors = tuple(part.std(0) / 3**0.5 for part in (flows, bounds))
plots.scatter(
    {"a held-out digit": (flows.mean(0), bounds.mean(0)), "equal": ([1.0, 2.4], [1.0, 2.4])},
    title="Two meters agree roughly; on average the bound is 0.1 bit higher",
    alt=f"15 points around the diagonal, {(gap < 0).sum().item()} of them below it, bits per pixel by the ELBO against those of the flow, from {flows.mean(0).min():.1f} to {flows.mean(0).max():.1f}; "
    f"rank correlation {torch.corrcoef(torch.stack([flows.mean(0), bounds.mean(0)]).argsort(1).argsort(1).double())[0, 1]:.2f}.",
    caption=f"Mean of 3 runs with standard errors. ELBO less exact: {gap.mean():.3f} bits, 95 % interval {a:.3f} to {b:.3f}.",
    xlabel="exact, by the flow (bits per pixel)",
    ylabel="ELBO (bits per pixel)",
    errors={"a held-out digit": errors},
    joined=["equal"],
    height=380,
)

# %% tags=["nbval-check-output"]
for steps in (20, 40, 80, 160):
    print(f"{steps:3} Heun steps, the same 15 digits: {exact_bits(few, steps).mean():.3f} bits per pixel")

# %% [markdown]
# The two numbers come from different integrals with different noise, and agree roughly: on average the ELBO asks for 0.1 bit more. With an exact denoiser this gap would vanish; for a learned one the flow and the random sampler
# are two slightly different models. A third of the digits lie below the line, and that is no contradiction: the ELBO bounds the likelihood of the random sampler, not of the flow, and both numbers of a single digit are noisy.
#
# A warning about the solver: 20 Heun steps give a number 0.05 bits *better* than 40. A coarse solver flatters, and even our 40 are still 0.02 too good. Double the steps until the number stays.
#
# The network needs far fewer bits than histograms, which cannot see strokes. And the Gaussian with full
# covariance is *worse* than the histograms. It knows the correlations, but it must put a smooth hill over pixels that are almost always black. A model can know more and score lower: likelihood rewards the *shape* of the density at its finest scale.
#
# That scale is the last thing to look at. Where are the bits paid, and where does one model beat another? Compare the network with the Gaussian, on the same draws.


# %%
def bell_images(z, t, cond=None):
    """The Gaussian's denoiser for states shaped like images."""
    return bell_denoiser(z.flatten(1).double(), t).view_as(z).to(z.dtype)


edges = torch.linspace(0, 1, 25)
log_snr = digit_schedule.log_snr((edges[1:] + edges[:-1]).double() / 2)
bell_total, bell_rates = elbo_bits(held_out, denoiser=bell_images)
paid = {"the Gaussian": bell_rates.mean(1) / (high - low), "the network": rates.mean(1) / (high - low)}
example = dequantise(held_out[2:3], 17, uniform(standard_normal(0)))
shown = [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0]
noisy = [
    forward_step(example, digit_schedule, 0.0, digit_schedule.time_at(level), standard_normal(16)) for level in shown
]
display(
    plots.curves(
        log_snr,
        paid,
        title="Where the bits are paid: the models differ in the gap between the curves",
        alt="Bits per pixel for each unit of log SNR against log SNR. Both curves are near zero below -4 and together up to -1. Then the Gaussian lies above: "
        + ", ".join(
            f"at {log_snr[i]:.1f} it pays {paid['the Gaussian'][i]:.2f}, the network {paid['the network'][i]:.2f}"
            for i in (12, 8, 4, 0)
        )
        + ". Both end near the line of one half nat, 0.72 bits.",
        xlabel="log SNR",
        ylabel="bits per pixel and unit of log SNR",
        horizontal={"nothing predictable": 0.5 / math.log(2)},
        height=320,
    )
)
plots.image_grid(
    (torch.cat(noisy) / digit_schedule.alpha(digit_schedule.time_at(torch.tensor(shown))).view(-1, 1, 1, 1).float() + 1)
    / 2,
    [f"log SNR {level:g}" for level in shown],
    title="The same digit at these noise levels",
    alt="Seven versions of one digit. At log SNR -4 and -2 noise; at 0 a shape can be guessed; at 2 it can be read; from 4 on the noise is barely visible.",
    zoom=10,
    columns=7,
)

# %% tags=["nbval-check-output"]
gap = (bell_rates - rates).double().mean(1) / 24  # one share for each of 24 pieces of log SNR
print(f"area under the network's curve {rates.mean():.2f} bits, its whole bill {bound.mean():.2f}")
print(f"Gaussian less network: area {gap.sum():.2f} bits, whole bill {bell_total.mean() - bound.mean():.2f}")
print(
    "share of it "
    + ", ".join(f"above log SNR {level}: {gap[log_snr > level].sum() / gap.sum():.0%}" for level in (0, 2, 4, 6))
)

# %% [markdown]
# Read the first figure from the right. There the noise is finer than a grey level, only the noise of dequantisation is left to describe, and every model pays the same. The last step pays this back: the area under the network's curve is 5.3 bits, its bill 1.8. What tells the models apart
# is the *gap* between the curves. Gaussian less network makes 1.1 bits, 86 % of it above $\lambda = 2$, where you can read the digit, about 64 % above 4, where you hardly see the noise, and 27 % above 6; next to nothing lies below 0, where the shape is decided.
# That is the whole disagreement in one picture. **Likelihood is decided mostly by shades of grey at noise that you hardly see; looks are decided at low SNR, where few bits are paid.**
#
# ## Common mistakes
#
# > - **No dequantisation.** Bits fall without limit, the better the training the more. Recognise it: the number is below what lossless compressors reach, or negative.
# > - **The bin's width forgotten, or 8 for 7.** States in $[-1, 1]$ with 256 levels: add 7 bits. States in $[0, 1]$: add 8.
# > - **Mean for sum.** Terms of the ELBO are sums over the $D$ numbers of an image. A mean over pixels in one term and a sum in another looks plausible and is wrong by a factor $D$.
# > - **$N(0, I)$ taken for $p_1$.** Harmless for schedules that end in pure noise, wrong by a lot for those that stop early. VE and EDM need $N(0, \sigma_1^2 I)$ (score_sde_pytorch issue 64).
# > - **A coarse solver.** An ODE solved with too few steps gives no bound at all, and here it errs on the pleasant side.
# > - **A probe that knows the state.** The vector of Hutchinson's trick and the $u$ of dequantisation drawn with one seed from one stream: then $\mathbb E[v_i v_j]$ is no longer 0 where it matters, and the estimate is biased. Use two seeds.
# > - **The number of steps forgotten.** Estimating the sum from one random step needs the factor $n - 1$; without it the number is a loss, not an ELBO.
# > - **Bits of a weighted loss.** A simple loss of 0.03 is no likelihood. Only weight 1 gives a bound.
# > - **Likelihood as a detector of strangers.** An all-black image beats most real digits (section 1), so a high likelihood is no proof of belonging.
#
# ## In the papers
#
# > - DDPM (arXiv 2006.11239) reports at most 3.75 bits/dim on CIFAR-10, and finds that more than half of the bits describe imperceptible detail.
# > - iDDPM (arXiv 2102.09672) reaches 2.94 with learned variances, trained on the bound itself; its hybrid loss $L_\text{simple} + 0.001\,L_\text{vlb}$, in which the mean sees no gradient of the second term, lies between.
# > - Score SDE (arXiv 2011.13456) evaluates 2.99 by the flow; with maximum-likelihood weighting $g^2$ (arXiv 2101.09258) 2.83.
# > - VDM (arXiv 2107.00630) learns the schedule's ends for the bound and its inside for the variance, feeds Fourier features of the image for the finest scale, and reaches 2.65.
# > - P2 (arXiv 2204.00227) goes the other way, for looks. Analytic-DPM (arXiv 2201.06503) computes the best variance of a trained model.
#
# ## Going further
#
# > Real compression: the ELBO's bits can be turned into a working code (bits-back coding, VDM section 7). Variational dequantisation replaces the uniform $u$ by a learned law and saves bits. The last step can be a
# > *discrete* decoder (`reconstruction_loss(levels=17)`), as in DDPM and VDM, which makes dequantisation unnecessary for a model trained on bare levels. And with `log_likelihood` under a conditional denoiser you can ask how probable an HR image is given its LR image.
#
# ## Recap
#
# You can now
#
# 1. **compute** bits per dimension with an interval, and you have seen them fall to $-\infty$ without dequantisation (sections 2, 3);
# 2. **integrate** $\log p$ along the flow, and you know what $t_\text{min}$ and $N(0, I)$ cost (section 4);
# 3. **derive** the ELBO as a bill, $\tfrac12(\mathrm{SNR}_s - \mathrm{SNR}_t)|z_0 - \hat z_0|^2$ a step (section 5);
# 4. **choose** variances: $v^* = \tilde\beta + c^2 E$ (section 6);
# 5. **read** a schedule as a walk along $\lambda$, whose ends set the bound and whose inside sets only the noise, and let it learn (section 7);
# 6. **weight** the loss, and show that likelihood and looks can disagree (sections 8 to 10).
#
# Next: [exercises](../exercises/08_likelihood.ipynb).
#
# ## References
#
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239
# - Nichol, Dhariwal 2021, *Improved denoising diffusion probabilistic models*, arXiv 2102.09672
# - Song et al. 2021, *Score-based generative modeling through stochastic differential equations*, arXiv 2011.13456
# - Song, Durkan, Murray, Ermon 2021, *Maximum likelihood training of score-based diffusion models*, arXiv 2101.09258
# - Kingma, Salimans, Poole, Ho 2021, *Variational diffusion models*, arXiv 2107.00630
# - Bao, Li, Zhu, Zhang 2022, *Analytic-DPM*, arXiv 2201.06503
# - Choi et al. 2022, *Perception prioritized training of diffusion models*, arXiv 2204.00227
# - Theis, van den Oord, Bethge 2016, *A note on the evaluation of generative models*, arXiv 1511.01844
# - Moser et al. 2024, *Diffusion models, image super-resolution and everything: a survey*, arXiv 2401.00736
