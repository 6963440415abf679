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
# # Solutions 03: Before diffusion
#
# Eight functions: what regression returns, and one essential line of each family that came before diffusion. Write a few lines, run the cell, run the
# check below it: it draws fresh inputs and answers in one line. They belong to [chapter 03](../notebooks/03_before_diffusion.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# Letters as in the chapter: $x$ is the LR image, $y$ the HR image. Log-likelihoods are in nats.

# %%
import math

import torch
import torch.nn.functional as F

from tutorial_lib.exercises import check

# %% [markdown]
# ## Exercise 03.1: What an average costs (warm-up)
#
# You have a perfect sampler of $p(y \mid x)$. For each pixel the posterior has the variance `variance` (B,). You average `k` independent samples and compare with the true $y$, which is one more draw from
# the same posterior. Return the expected squared error of each pixel, (B,).


# %%
def error_of_average(variance, k):
    """E (truth - mean of k samples)^2, (B,)."""
    ### BEGIN SOLUTION
    return variance * (1 + 1 / k)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.1", error_of_average)

# %% [markdown] tags=["solution"]
# The truth strays from the posterior's mean by `variance`, the average by `variance / k`, independently. One sample costs twice what the mean costs: 3 dB of PSNR. Section 12 measures this curve on photos; it has the form $a + b/k$ whatever
# the sampler, and only for a perfect one is $a = b$.

# %% [markdown]
# ## Exercise 03.2: What L1 prefers
#
# For one pixel the posterior gives the `values` (N,) the probabilities `weights` (N,), which add up to 1. Return the value with the least expected absolute error, $\arg\min_c \sum_i w_i |v_i - c|$. (In the rare case of a tie, the smaller one.)


# %%
def l1_answer(values, weights):
    """The weighted median, a 0-d tensor."""
    ### BEGIN SOLUTION
    order = values.argsort()
    reached = weights[order].cumsum(0) >= 0.5
    return values[order][reached.nonzero()[0, 0]]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.2", l1_answer)

# %% [markdown]
# When it passes: five values with weights, and then the largest of them moved far away. Which of mean and median notices?

# %% tags=["solution", "nbval-check-output"]
weights = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1])
for largest in (1.0, 10.0):
    values = torch.tensor([-0.8, -0.7, 0.6, 0.7, largest])
    print(f"largest value {largest:4}: mean {(values * weights).sum():.2f}, median {l1_answer(values, weights):.2f}")

# %% [markdown]
# ## Exercise 03.3: The hinge game
#
# `real` and `fake` are the discriminator's logits for real and for generated images, (B,) each. Return the discriminator's loss and the generator's loss in the hinge form of section 6, two numbers, each a mean over the batch.


# %%
def hinge_losses(real, fake):
    """(discriminator_loss, generator_loss)."""
    ### BEGIN SOLUTION
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.3", hinge_losses)

# %% [markdown]
# ## Exercise 03.4: The best discriminator
#
# A batch holds a share `share` of real samples, with density $p$, and the rest are fakes, with density $q$. At some points you know $\log p$ and $\log q$, both (B,). Return the logit of the best discriminator, the
# logarithm of (chance of being real) / (chance of being a fake).


# %%
def best_logit(log_p, log_q, share):
    """The logit of the Bayes classifier, (B,)."""
    ### BEGIN SOLUTION
    return log_p - log_q + math.log(share / (1 - share))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.4", best_logit)

# %% [markdown] tags=["solution"]
# A trained discriminator is therefore an estimate of a density *ratio*, of two densities that nobody knows. Where neither real nor generated samples fall it has learnt nothing, and the generator cannot be told about a mode that it never visits.

# %% [markdown]
# ## Exercise 03.5: The bound of a VAE
#
# The decoder says $y \sim N(\text{mean}, \sigma^2 I)$ with `mean` (B, D) and one number `sigma`; the encoder says $u \sim N(\mu, \operatorname{diag} e^{\text{log var}})$ with `mu` and `log_var` (B, L), and `mean` was decoded from one draw of it. The prior of $u$ is
# $N(0, I)$. Return the evidence lower bound of each image for this draw, (B,) nats, with the KL divergence in closed form.


# %%
def elbo(y, mean, sigma, mu, log_var):
    """log p(y | u) - KL(q(u | y) || N(0, I)), (B,)."""
    ### BEGIN SOLUTION
    fit = -0.5 * ((y - mean) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var)
    return fit.sum(1) - kl.sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.5", elbo)

# %% [markdown]
# ## Exercise 03.6: Who may be seen
#
# Pixels are drawn in raster order: rows from the top, each from left to right. Return the mask (size, size) of a convolution kernel (size odd), 1 where the kernel may look and 0 elsewhere. In the `first` layer
# the middle is the pixel that has to be predicted; in later layers the middle holds only what earlier layers made of its past. (torch's convolution does not flip the kernel: entry [0, 0] looks up and to the left.)


# %%
def causal_mask(size, first):
    """(size, size), ones and zeros."""
    ### BEGIN SOLUTION
    mask = torch.zeros(size, size)
    mask[: size // 2] = 1
    mask[size // 2, : size // 2 + (not first)] = 1
    return mask
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.6", causal_mask)

# %% [markdown]
# ## Exercise 03.7: A flow of one layer
#
# The simplest conditional flow: $y = \text{shift}(x) + e^{\text{log scale}(x)}\, z$ with $z \sim N(0, I)$. Given `y`, `shift` and `log_scale`, all (B, D), return the exact negative log-likelihood, (B,) nats.


# %%
def affine_nll(y, shift, log_scale):
    """-log p(y | x), (B,)."""
    ### BEGIN SOLUTION
    z = (y - shift) * (-log_scale).exp()
    return (0.5 * z**2 + log_scale + 0.5 * math.log(2 * math.pi)).sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.7", affine_nll)

# %% [markdown] tags=["solution"]
# Give `log_scale` the same constant everywhere, and what is left is the squared error: **regression with L2 is a flow of one layer whose scale nobody trains.** With a Laplace law for $z$ it would be L1 (Lugmayr et al., arXiv:2111.03649, make this their starting point).

# %% [markdown]
# ## Exercise 03.8: How wrong are the shares? (research-like)
#
# A sampler was run for B different LR images, K times each; `chosen` (B, K) holds 1 where a sample fell into the first mode, else 0. The exact posterior gives that mode the share `share` (B,). Estimate the mean over the LR images of the squared difference
# between the *sampler's own* share (which you could only see with endless samples) and the exact one. A perfect sampler must get 0 on average, although its K draws scatter. Return one number; it may be negative.


# %%
def share_error(chosen, share):
    """An unbiased estimate of the mean over b of (sampler's share - share)^2."""
    ### BEGIN SOLUTION
    found, k = chosen.mean(1), chosen.shape[1]
    chance = found * (1 - found) / (k - 1)  # unbiased estimate of the variance of `found`
    return ((found - share) ** 2 - chance).mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("03.8", share_error)

# %% [markdown]
# Try it on a sampler that is perfect, and on one that always picks the likelier mode. What does the naive mean square say?

# %% tags=["solution", "nbval-check-output"]
generator = torch.Generator().manual_seed(0)
share = torch.rand(2000, generator=generator)
for name, own in {"perfect": share, "always the likelier": (share > 0.5).float()}.items():
    chosen = (torch.rand(2000, 8, generator=generator) < own[:, None]).float()
    naive = ((chosen.mean(1) - share) ** 2).mean()
    print(f"{name:20} naive {naive:.4f}   unbiased {share_error(chosen, share):7.4f}")
print(f"exact for the second {torch.minimum(share, 1 - share).square().mean():.4f}")
