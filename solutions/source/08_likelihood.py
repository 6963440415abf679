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
# # Solutions 08: Likelihood
#
# Eight functions, from a change of units to a schedule with nearly the least variance. Write a few lines, run the cell, run the check below it: it
# draws fresh inputs and answers in one line. They belong to [chapter 08](../notebooks/08_likelihood.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# States are tensors with the batch first; terms are in nats, one number for each sample, unless something else is said.

# %%
import math

import torch

from tutorial_lib.exercises import check
from tutorial_lib.likelihood import continuous_loss, dequantise, learned_schedule, uniform
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, denoiser_for
from tutorial_lib.schedules import vp_cosine
from tutorial_lib.score_matching import rademacher

# %% [markdown]
# ## Exercise 08.1: Bits per dimension (warm-up)
#
# `log_p` (B,) is the log-density, in nats, of dequantised images with `dim` numbers each, whose `levels` grey levels fill $[-1, 1]$ evenly. Return the bits per dimension, (B,).


# %%
def bits(log_p, dim, levels):
    """-log2 P / D, with P the probability of the image's levels."""
    ### BEGIN SOLUTION
    return -(log_p + dim * math.log(2 / levels)) / (dim * math.log(2))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.1", bits)

# %% [markdown] tags=["solution"]
# The units work out: a density has the unit one over length, for each dimension. Times the length $2/k$ it is a plain number.

# %% [markdown]
# ## Exercise 08.2: Dequantise
#
# `images` hold the values $i/(k-1)$ in [0, 1], `levels` is $k$, and `u`, shaped like `images`, is uniform in [0, 1). Return states in $[-1, 1)$: level $i$ spread evenly over its interval, the $i$-th of $k$ equal ones.
# (Round the level to a whole number: $i/(k-1)$ is not exact in floating point.)


# %%
def my_dequantise(images, levels, u):
    """States shaped like images."""
    ### BEGIN SOLUTION
    level = (images * (levels - 1)).round()
    return 2 * (level + u) / levels - 1
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.2", my_dequantise)

# %% [markdown]
# How would you get the image back? Write it down in your head before you look.

# %% tags=["solution", "nbval-check-output"]
images = torch.randint(17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
z = dequantise(images, 17, uniform(standard_normal(0)))
back = ((z + 1) / 2 * 17).floor().clamp(0, 16) / 16
print("the level comes back from any state of its bin:", torch.equal(back, images))

# %% [markdown]
# ## Exercise 08.3: The price of a step
#
# From $z_t$ the model guesses `guess` for `z_0`, both (B, ...). Its step from $t$ to $s$ has the posterior's variance $\tilde\beta$. Return what the step costs in the ELBO, (B,), given the two signal-to-noise
# ratios (numbers, `snr_s` > `snr_t`).


# %%
def step_price(z_0, guess, snr_t, snr_s):
    """KL(q(z_s | z_t, z_0) || p(z_s | z_t)) in nats, (B,)."""
    ### BEGIN SOLUTION
    return (snr_s - snr_t) / 2 * (z_0 - guess).flatten(1).square().sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.3", step_price)

# %% [markdown]
# ## Exercise 08.4: The best variance
#
# The posterior's mean holds $z_0$ with the coefficient `c`, its variance is `beta_tilde` (two numbers). `z_0` and `guess` (B, ...) are a large batch of data and of guesses. Return the one variance, a number, with which the step costs least on average.


# %%
def best_variance(beta_tilde, c, z_0, guess):
    """The variance that minimises the mean price of the step."""
    ### BEGIN SOLUTION
    return beta_tilde + c**2 * (z_0 - guess).square().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.4", best_variance)

# %% [markdown] tags=["solution"]
# A Gaussian fitted by maximum likelihood has the mean squared distance from its mean for its variance. That distance has two independent parts: the posterior's own spread, and the wrong guess.

# %% [markdown]
# ## Exercise 08.5: Hutchinson's divergence
#
# `function` maps a batch `z` (B, ...) to a tensor of the same shape, each sample on its own. Estimate its divergence (B,), the trace of each sample's Jacobian, as the mean of `probes` values $v^\top J v$. Draw each $v$ with `noise(z)`: random
# signs, shaped like `z`. `torch.autograd.grad(output, z, v)` gives $v^\top J$; work on `z.detach().clone().requires_grad_()`.


# %%
def divergence(function, z, probes, noise):
    """An unbiased estimate of the divergence, (B,)."""
    ### BEGIN SOLUTION
    total = 0
    for _ in range(probes):
        v, x = noise(z), z.detach().clone().requires_grad_()
        product = torch.autograd.grad(function(x), x, v)[0]
        total = total + (product * v).flatten(1).sum(1)
    return total / probes
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.5", divergence)

# %% [markdown]
# When it passes: for which kind of function is a single vector of signs exact, and not just right on average? Make a guess, then test it on a denoiser of a Gaussian with diagonal covariance.

# %% tags=["solution", "nbval-check-output"]
for name, covariance in {"diagonal": torch.diag(torch.tensor([0.1, 0.5, 2.0])), "full": torch.eye(3) + 0.5}.items():
    prior = Gaussian(torch.zeros(3).double(), covariance.double())
    denoiser = denoiser_for(prior, vp_cosine())
    z = prior.sample(2000, standard_normal(1))
    found = divergence(lambda z, d=denoiser: d(z, 0.3), z, 1, rademacher(standard_normal(2)))
    print(f"{name:8} covariance: mean {found.mean():.3f}, scatter between vectors {found.std():.3f}")

# %% [markdown] tags=["solution"]
# $v^\top J v = \sum_i J_{ii} v_i^2 + \sum_{i \ne j} J_{ij} v_i v_j$, and $v_i^2 = 1$ for signs. With a diagonal Jacobian nothing is left to chance. With normal $v$ the first sum would scatter, too.

# %% [markdown]
# ## Exercise 08.6: Carry log p along
#
# `times` (n + 1,) rise. Follow $dz/dt$ = `velocity(z, t)` by Euler's method, from `z` (B, D) at `times[0]` to `times[-1]`, and return $\log p$ of the *starting* states, (B,). `divergence(z, t)` is that of the velocity, (B,);
# `log_prior(z)` the log-density at `times[-1]`. In each step take velocity and divergence at its beginning.


# %%
def carried_log_p(velocity, divergence, z, times, log_prior):
    """log p at times[0] of the states z, (B,)."""
    ### BEGIN SOLUTION
    total = 0
    for t, s in zip(times[:-1], times[1:], strict=True):
        total = total + (s - t) * divergence(z, t)
        z = z + (s - t) * velocity(z, t)
    return log_prior(z) + total
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.6", carried_log_p)

# %% [markdown]
# ## Exercise 08.7: Which weight is it?
#
# A loss draws $t$ uniformly and takes $\tfrac12|\epsilon - \hat\epsilon|^2 / (k + \mathrm{SNR})^\gamma$. Written as $\tfrac12\int w(\lambda)\,|\epsilon - \hat\epsilon|^2\,d\lambda$, what is $w$ at the noise levels of the times `t` (N,)? `log_snr(t)` is the schedule,
# a falling, differentiable function of a tensor. $\gamma = 0$ is the simple loss.


# %%
def weight_of(log_snr, t, gamma, k):
    """w(lambda) at lambda = log_snr(t), (N,)."""
    ### BEGIN SOLUTION
    t = t.clone().requires_grad_()
    level = log_snr(t)
    slope = torch.autograd.grad(level.sum(), t)[0]
    return 1 / (-slope) / (k + level.detach().exp()) ** gamma
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.7", weight_of)

# %% [markdown]
# ## Exercise 08.8: The best walk (research-like)
#
# `log_snr` (N,) rises in small steps, and `rate` (N,) is the expected cost in nats for each unit of log SNR there. Choose the values of $\lambda$ at the times $0, 1/n, 2/n, \dots, 1$ (n + 1 of them, falling from the largest to the smallest
# `log_snr`) so that the expected loss is the same at all times: each of the $n$ pieces carries the same share of the bill. (The least variance needs the same root mean square at all times; the same mean comes close to it, section 7.) Linear interpolation is accurate enough.


# %%
def best_walk(log_snr, rate, n):
    """n + 1 falling values of log SNR with equal shares of the bill between neighbours."""
    ### BEGIN SOLUTION
    x, y = log_snr.flip(0), rate.flip(0)
    paid = torch.cat([y.new_zeros(1), ((y[1:] + y[:-1]) / 2 * (x[:-1] - x[1:])).cumsum(0)])
    wanted = torch.linspace(0, 1, n + 1, dtype=paid.dtype) * paid[-1]
    right = torch.searchsorted(paid, wanted).clamp(1, len(paid) - 1)
    share = (wanted - paid[right - 1]) / (paid[right] - paid[right - 1])
    return x[right - 1] + share * (x[right] - x[right - 1])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("08.8", best_walk)

# %% [markdown]
# Does it help? Measure the rate of a mixture, walk along your values (straight lines between them), and compare the scatter of the loss at random times with that of a straight schedule.
# For a schedule through your values `walk`, which run from 8 to -8, hand the logarithms of the falls to `learned_schedule((walk[:-1] - walk[1:]).log(), 8.0, -8.0)`.

# %% tags=["solution", "nbval-check-output"]
pair = GaussianMixture(
    torch.tensor([0.35, 0.65]), torch.tensor([[-0.8], [0.7]]).double(), torch.tensor([[[0.02]], [[0.08]]]).double()
)


def through(walk):
    """The variance-preserving schedule that joins these values of log SNR, from 8 to -8, by straight lines."""
    return learned_schedule((walk[:-1] - walk[1:]).log(), 8.0, -8.0)


def losses(schedule, count=20_000):
    t = (torch.arange(count).double() + 0.5) / count
    args = (denoiser_for(pair, schedule), schedule, pair.sample(count, standard_normal(3)), t, standard_normal(4))
    return t, continuous_loss(*args)


straight = through(torch.tensor([8.0, -8.0]).double())
t, first = losses(straight)
measured = first.view(100, 200).mean(1) / 16  # nats per unit of log SNR
levels = straight.log_snr(t.view(100, 200).mean(1))
walk = best_walk(levels.flip(0), measured.flip(0).clamp(min=1e-4), 12)
walk = torch.cat([torch.tensor([8.0]), walk[1:-1], torch.tensor([-8.0])]).double()
_, second = losses(through(walk))
for name, loss in {"straight": first, "best walk": second}.items():
    by_time = loss.view(20, 1000).mean(1)
    print(
        f"{name:10} mean {loss.mean():.2f}, scatter of one draw {loss.std():.2f}, of the mean over time {by_time.std():.2f}"
    )

# %% [markdown] tags=["solution"]
# The expected loss at each time is now much closer to the same (last column), and the mean agrees with the bill of section 7, 3.15 nats, within its error. What remains of the scatter comes mostly from $z_0$ and $\epsilon$ at a given time; no schedule removes it.
# Equal root mean squares instead of equal means would lower it by about one per cent more.
