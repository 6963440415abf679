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
# # Solutions 05: score-based models
#
# Eight exercises for [chapter 05](../notebooks/05_score_based_models.ipynb), from warm-up to research. Write your code where
# the cell says so, run the cell, then run `check`: it draws fresh inputs and answers in one line.
#
# Running time: about 5 s.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import GaussianMixture

# %% [markdown]
# ## Exercise 05.1: the score of a noisy mixture
#
# Warm-up (section 2). On a line, $z_0 \sim \sum_k w_k \mathcal N(m_k, v_k)$ and $z = \alpha z_0 + \sigma\epsilon$. `z` is `(B,)`; `weights`, `means` and
# `variances` are `(K,)` and belong to $z_0$; `alpha` and `sigma` are numbers. Return $\nabla_z \log p_t(z)$, shape `(B,)`.
#
# *Hint:* $z$ comes from a mixture, too, with the same weights. If $z_0$ is from part $k$, which mean and which variance has $z$?


# %%
def mixture_score(z, weights, means, variances, alpha, sigma):
    """The score of alpha z_0 + sigma eps for a mixture on a line: -> (B,)."""
    ### BEGIN SOLUTION
    total = alpha**2 * variances + sigma**2  # (K,)
    offsets = alpha * means - z[:, None]  # (B, K)
    log_joint = weights.log() - offsets**2 / (2 * total) - total.log() / 2
    return (log_joint.softmax(1) * offsets / total).sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.1", mixture_score)

# %% [markdown] tags=["solution"]
# Working with logarithms and `softmax` matters far out, where all densities underflow to zero and a quotient of them would be 0/0.

# %% [markdown]
# ## Exercise 05.2: Langevin dynamics
#
# Section 3. `score(z)` is a function, `z` is `(B, D)`, `step_size` is $a$, `noise(like)` draws $\mathcal N(0, I)$ shaped like its argument. Take `steps` steps
# $z \leftarrow z + \tfrac a2 s(z) + \sqrt a\,\epsilon$ and return where the walkers are, `(B, D)`. Take all random numbers from `noise`: the check knows which ones it gives.


# %%
def langevin(score, z, step_size, steps, noise):
    """`steps` steps of unadjusted Langevin dynamics: (B, D) -> (B, D)."""
    ### BEGIN SOLUTION
    for _ in range(steps):
        z = z + step_size / 2 * score(z) + math.sqrt(step_size) * noise(z)
    return z
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.2", langevin)

# %% [markdown]
# ## Exercise 05.3: the implicit loss of a linear score
#
# Section 4. The score model is $s(z) = Az + b$ with `matrix` $A$ `(D, D)` and `offset` $b$ `(D,)`; the rows of `z` `(B, D)` are states. Return
# $\mathrm{tr}(\nabla s) + \tfrac12\|s(z)\|^2$ for each sample, `(B,)`. No autograd is needed.


# %%
def implicit_of_linear(matrix, offset, z):
    """Hyvarinen's loss of s(z) = A z + b: -> (B,)."""
    ### BEGIN SOLUTION
    return torch.trace(matrix) + (z @ matrix.T + offset).square().sum(1) / 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.3", implicit_of_linear)

# %% [markdown] tags=["solution"]
# For data $\mathcal N(m, C)$ the mean of this is quadratic in $A$ and $b$. Setting its gradients to zero gives $b = -Am$ and $I + AC = 0$:
# $s(z) = -C^{-1}(z - m)$. So fitting a linear score *is* estimating a mean and a covariance.

# %% [markdown]
# ## Exercise 05.4: denoising score matching
#
# Section 7. `score(z)` is a function; `z_0` and `eps` are `(B, D)`; `sigma` is `(B,)`, one noise level for each sample. With $z = z_0 + \sigma\epsilon$ return the
# loss weighted by $\lambda = \sigma^2$, that is $\tfrac12\,\sigma^2\,\|s(z) + \epsilon/\sigma\|^2$, for each sample, `(B,)`.


# %%
def denoising(score, z_0, sigma, eps):
    """NCSN's loss: -> (B,)."""
    ### BEGIN SOLUTION
    sigma = sigma[:, None]
    return (sigma * score(z_0 + sigma * eps) + eps).square().sum(1) / 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.4", denoising)

# %% [markdown]
# ## Exercise 05.5: three things from a score
#
# Section 11. `score` and `z` have one shape, `alpha` and `sigma` are numbers, *not* necessarily with $\alpha^2 + \sigma^2 = 1$. Return the tuple
# $(z_0, \epsilon, v)$ that this score amounts to at the state `z`.


# %%
def from_score(score, z, alpha, sigma):
    """(z_0, eps, v), each shaped like z."""
    ### BEGIN SOLUTION
    z_0 = (z + sigma**2 * score) / alpha
    eps = -sigma * score
    return z_0, eps, alpha * eps - sigma * z_0
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.5", from_score)

# %% [markdown]
# ## Exercise 05.6: the noise ladder and its step sizes
#
# Sections 8 and 9. Return `(ladder, step_sizes)`, two float64 tensors `(count,)`: noise levels from `sigma_max` down to `sigma_min`, both included, with a
# constant ratio; and NCSN's step sizes $a_i = a_L\,\sigma_i^2/\sigma_{\min}^2$, where $a_L$ = `epsilon` is the step at the smallest level.


# %%
def ladder_and_steps(count, sigma_max, sigma_min, epsilon):
    """NCSN's noise levels and Langevin step sizes."""
    ### BEGIN SOLUTION
    ladder = torch.linspace(math.log(sigma_max), math.log(sigma_min), count, dtype=torch.float64).exp()
    return ladder, epsilon * ladder**2 / sigma_min**2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.6", ladder_and_steps)

# %% [markdown]
# ## Exercise 05.7: annealed Langevin dynamics
#
# Section 9. `score(z, sigma)` is the score of $z_0 + \sigma\epsilon$; `z` `(B, D)` is the start; `ladder` is a list of decreasing noise levels. At each level take `steps`
# Langevin steps (as in 05.2, the noise drawn by `noise(z)`) with $a = $ `step_size` $\cdot\,\sigma^2$. Finish with Tweedie: return the denoised state at the last level, `(B, D)`.


# %%
def annealed(score, z, ladder, step_size, steps, noise):
    """NCSN's sampler with a final denoising: (B, D) -> (B, D)."""
    ### BEGIN SOLUTION
    for sigma in ladder:
        a = step_size * sigma**2
        for _ in range(steps):
            z = z + a / 2 * score(z, sigma) + math.sqrt(a) * noise(z)
    return z + ladder[-1] ** 2 * score(z, ladder[-1])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.7", annealed)

# %% [markdown]
# Your sampler and your score (05.1) together, if both are done: 2,000 walkers on a line.

# %%
weights, means, variances = torch.tensor([[0.3, 0.7], [-2.0, 2.0], [0.2, 0.4]], dtype=torch.float64)


def on_a_line(z, sigma):
    return mixture_score(z[:, 0], weights, means, variances, 1.0, sigma)[:, None]


levels = torch.logspace(1, -1, 15, dtype=torch.float64).tolist()
try:
    first = 10 * standard_normal(1)(torch.empty(2000, 1, dtype=torch.float64))
    walkers = annealed(on_a_line, first, levels, 0.2, 20, standard_normal(0))
except NotImplementedError:
    walkers = torch.zeros(1)
x = torch.linspace(-5, 5, 201, dtype=torch.float64)
law = GaussianMixture(weights, means[:, None], variances[:, None, None])
plots.histogram(
    {"your walkers": walkers},
    exact={"the data's density": (x, law.log_prob(x[:, None]).exp())},
    title="Your sampler, your score",
    alt="A histogram of walkers over the density of a mixture with peaks at -2 and 2. When exercises 05.1 and 05.7 are"
    " solved, the histogram has both peaks with the right heights, a little wider than the density.",
    xlabel="z",
)

# %% [markdown]
# ## Exercise 05.8: how exact is the whole run?
#
# Research-like (section 9). The data are $\mathcal N(0, v)$ with `v` a number, and the sampler is that of 05.7 with the exact score, started at
# $z = \sigma_1\epsilon$. Return the *exact* variance of what it returns, one number, for given `ladder` (a list of numbers), `step_size` and `steps`.
#
# *Hint:* everything is linear. At level $\sigma$ the score is $-z/u$ with $u = v + \sigma^2$. What does a step do to the variance? What does the last denoising do?


# %%
def output_variance(v, ladder, step_size, steps):
    """Variance of annealed Langevin's samples on N(0, v)."""
    ### BEGIN SOLUTION
    variance = ladder[0] ** 2
    for sigma in ladder:
        a, u = step_size * sigma**2, v + sigma**2
        for _ in range(steps):
            variance = (1 - a / (2 * u)) ** 2 * variance + a
    return (v / (v + ladder[-1] ** 2)) ** 2 * variance
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("05.8", output_variance)

# %% [markdown] tags=["solution"]
# Use it as an instrument. You may spend 120 calls. How many levels, and which step size?

# %% tags=["solution"]
counts = (3, 4, 6, 10, 15, 30, 60)


def excess(step_size):
    ladders = [torch.logspace(1, -1, n, dtype=torch.float64).tolist() for n in counts]
    return [output_variance(0.5, ladder, step_size, 120 // len(ladder)) / 0.5 for ladder in ladders]


plots.curves(
    counts,
    {f"step_size = {c}": excess(c) for c in (0.3, 0.6, 1.0)},
    title="120 calls: ten levels or more, and bold steps",
    alt="Ratio of the samples' variance to the data's over the number of levels, for three step sizes. All fall steeply from more than 2 at 3"
    " levels and are nearly flat from 10 levels on: at 1.34 for step size 0.3, 1.15 for 0.6 and 1.09 for 1.",
    xlabel="number of levels (120 calls in all)",
    ylabel="variance of the samples / variance of the data",
    horizontal={"right": 1.0},
)

# %% [markdown] tags=["solution"]
# From about ten levels on their number hardly matters. Larger steps help here, although each leaves a larger bias of its own: what hurts is the
# lag at the small levels, and a large step shortens it. With a learned score, which is only right near its own noise level, there is a limit to boldness.
