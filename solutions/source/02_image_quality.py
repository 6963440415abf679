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
# # Solutions 02: image quality
#
# Eight exercises for [chapter 02](../notebooks/02_image_quality.ipynb), from warm-up to research. Write your code where
# the cell says so, run the cell, then run `check`: it draws fresh inputs and answers in one line.
#
# Running time: about 5 s.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.images import rgb_to_y, to_uint8
from tutorial_lib.oracles import gaussian_w2

# %% [markdown]
# ## Exercise 02.1: PSNR
#
# Warm-up (section 2). `sr` and `hr` are `(B, C, H, W)` in $[0, 1]$, any C. Return the PSNR of each image over all its pixels
# and channels, in dB, shape `(B,)`, with peak 1.


# %%
def psnr_of_each(sr, hr):
    """PSNR in dB: (B, C, H, W), (B, C, H, W) -> (B,)."""
    ### BEGIN SOLUTION
    return -10 * torch.log10((sr - hr).square().mean((1, 2, 3)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.1", psnr_of_each)

# %% [markdown]
# ## Exercise 02.2: the papers' protocol
#
# Section 2. `sr` is a network's output `(B, 3, H, W)`: floats that may leave $[0, 1]$. `hr` is an 8-bit original divided by 255.
# Return the PSNR `(B,)` as papers report it: clip and round `sr` to 8 bits, take BT.601 studio-range luma of both, cut
# `scale` pixels from every side, compute the PSNR with peak 1 (range 255 for values divided by 255). `to_uint8` and `rgb_to_y` are imported; work in float64.


# %%
def protocol_psnr(sr, hr, scale):
    """PSNR on Y of 8-bit images, `scale` pixels cut from every side: -> (B,)."""
    ### BEGIN SOLUTION
    difference = rgb_to_y(to_uint8(sr).double() / 255) - rgb_to_y(hr.double())
    inside = slice(scale, -scale)
    return -10 * torch.log10(difference[..., inside, inside].square().mean((1, 2, 3)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.2", protocol_psnr)

# %% [markdown] tags=["solution"]
# Order matters: rounding belongs to the RGB file, so it comes first, and the luma is not rounded again.

# %% [markdown]
# ## Exercise 02.3: the three terms of SSIM
#
# Section 3. `a` and `b` are windows `(B, N)`: N pixel values each, in $[0, 1]$, all with the same weight $1/N$. Return
# luminance, contrast and structure, shape `(B, 3)`, with $C_1 = 0.01^2$, $C_2 = 0.03^2$, $C_3 = C_2/2$ and moments that divide by $N$.


# %%
def ssim_of_windows(a, b):
    """Luminance, contrast, structure: (B, N), (B, N) -> (B, 3)."""
    ### BEGIN SOLUTION
    mean_a, mean_b = a.mean(1), b.mean(1)
    std_a, std_b = a.std(1, correction=0), b.std(1, correction=0)
    cov = (a * b).mean(1) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    contrast = (2 * std_a * std_b + 0.03**2) / (std_a**2 + std_b**2 + 0.03**2)
    structure = (cov + 0.03**2 / 2) / (std_a * std_b + 0.03**2 / 2)
    return torch.stack([luminance, contrast, structure], 1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.3", ssim_of_windows)

# %% [markdown]
# ## Exercise 02.4: one layer of LPIPS
#
# Section 5. `a` and `b` are the features of two batches in one layer, `(B, C, H, W)`; `weight` is `(C,)`. Return the layer's
# distance `(B,)`: unit length over the channels at each position, squared difference times weight, sum over channels,
# mean over positions.


# %%
def layer_distance(a, b, weight):
    """LPIPS of one layer: (B, C, H, W), (B, C, H, W), (C,) -> (B,)."""
    ### BEGIN SOLUTION
    a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-10)
    b = b / (b.square().sum(1, keepdim=True).sqrt() + 1e-10)
    return (weight[None, :, None, None] * (a - b) ** 2).sum(1).mean((1, 2))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.4", layer_distance)

# %% [markdown]
# ## Exercise 02.5: Wilson's interval
#
# Section 8. In `trials` forced choices `successes` went to your method. Return the 95 % interval `(low, high)` after Wilson,
# $z = 1.96$, as two numbers.


# %%
def preference_interval(successes, trials):
    """Wilson's 95 % interval for a proportion."""
    ### BEGIN SOLUTION
    z, p = 1.96, successes / trials
    centre = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return (centre - half) / (1 + z**2 / trials), (centre + half) / (1 + z**2 / trials)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.5", preference_interval)

# %% [markdown]
# ## Exercise 02.6: a point on the plane
#
# Section 9. The prior is $y \sim \mathcal N(0, 1)$, the measurement $x = y + $ Gaussian noise, and `variance` is the posterior's variance
# $V$, the same for all $x$. The blend is $\hat y_a = m + a(\hat y - m)$, with $m$ the posterior mean, $\hat y$ a posterior sample, and
# $a$ = `blend`. Return $(\mathbb E(\hat y_a - y)^2,\; W_2)$, with $W_2$ between the law of $\hat y_a$ over all $x$ and the prior.
#
# *Hint:* the law of total variance gives the variance of $m$; $W_2$ of two centred Gaussians on a line is
# $|\sigma_1 - \sigma_2|$.


# %%
def plane_point(variance, blend):
    """(MSE, W2) of the blend, two numbers."""
    ### BEGIN SOLUTION
    spread = math.sqrt((1 - variance) + blend**2 * variance)
    return (1 + blend**2) * variance, 1 - spread
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.6", plane_point)

# %% [markdown]
# ## Exercise 02.7: is B better than A?
#
# Section 11. `a` and `b` hold the PSNR of two methods on the same images, `(n,)`. Return the mean gain of b over a and its
# standard error, two numbers or 0-d tensors. Divide sums of squares by $n - 1$.


# %%
def paired_gain(a, b):
    """(mean of b - a, its standard error)."""
    ### BEGIN SOLUTION
    gain = b - a
    return gain.mean(), gain.std() / math.sqrt(len(gain))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.7", paired_gain)

# %% [markdown]
# ## Exercise 02.8: the cheapest realistic estimator
#
# Research-like (section 9; Freirich et al., arXiv:2107.02555). A posterior sample is realistic and costs twice the MMSE. On a
# line the transported mean was cheaper. Design its counterpart for Gaussian images, where sorting is not available.
#
# The prior is $\mathcal N(0, C)$, the posterior mean $m$ has the law $\mathcal N(0, M)$, both `(D, D)`, float64, $M$ invertible. Return the
# matrix $T$ `(D, D)` such that $Tm$ has the law of the prior and $\mathbb E\lVert Tm - m\rVert^2$ is the smallest among all such
# matrices. The MSE of $Tm$ is that cost plus the MMSE, because $y - m$ is uncorrelated with $m$.
#
# Before you write code: what must $T M T^\top$ be? Which of the many solutions costs least? Try $D = 2$ on paper with diagonal
# $M$ and $C$; then remember that a turned picture is a changed picture. Powers of a symmetric matrix come from `torch.linalg.eigh`.
#
# <details><summary>Hint 1</summary>
#
# The solutions differ by a rotation. The cheapest one does not rotate at all: $T$ is symmetric with positive eigenvalues.
# </details>
#
# <details><summary>Hint 2</summary>
#
# So $TMT = C$. Multiply by $M^{1/2}$ from both sides: what is the left side the square of?
# </details>


# %%
def transport_map(mean_covariance, covariance):
    """T with T M T^T = C at the least cost: (D, D), (D, D) -> (D, D)."""

    ### BEGIN SOLUTION
    def power(matrix, exponent):
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values**exponent) @ vectors.T

    half, inverse = power(mean_covariance, 0.5), power(mean_covariance, -0.5)
    return inverse @ power(half @ covariance @ half, 0.5) @ inverse
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("02.8", transport_map)

# %% [markdown] tags=["solution"]
# From $TMT = C$ follows $(M^{1/2} T M^{1/2})^2 = M^{1/2} C M^{1/2}$, so $T = M^{-1/2} (M^{1/2} C M^{1/2})^{1/2} M^{-1/2}$: the optimal
# transport map between two Gaussians, symmetric because it is the gradient of a convex function.
#
# What does it buy? For a stationary texture of 32 pixels seen through noise of growing strength, compare the MSE of a posterior sample
# (always twice the MMSE) with that of the transported mean.

# %% tags=["solution"]
distance = (torch.arange(32)[:, None] - torch.arange(32)).abs().double()
texture = 0.9**distance  # a covariance that falls off with distance
strengths = torch.linspace(0.05, 3, 30).double()
ratios = []
for strength in strengths:
    seen = (
        texture @ torch.linalg.inv(texture + strength**2 * torch.eye(32)) @ texture
    )  # covariance of the posterior mean
    mmse = (texture - seen).trace()
    moved = transport_map(seen, texture) - torch.eye(32)
    cost = (moved @ seen @ moved.T).trace()
    torch.testing.assert_close(
        cost.sqrt().item(), gaussian_w2(torch.zeros(32), seen, torch.zeros(32), texture), rtol=1e-5, atol=1e-6
    )
    ratios.append(((mmse + cost) / mmse).item())

plots.curves(
    strengths,
    {"posterior sample": [2.0] * 30, "transported mean": ratios},
    title="Realism can cost far less than a posterior sample pays",
    alt="Cost in units of the MMSE against the standard deviation of the noise. The posterior sample is constant at 2. The transported"
    " mean starts at 1 for small noise and rises slowly to 1.35 at noise 3.",
    xlabel="standard deviation of the noise",
    ylabel="MSE / MMSE",
    ylim=(0.9, 2.1),
)
