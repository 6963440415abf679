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
# # Solutions 09: SR3
#
# Eight functions: what SR3 trains on, how it samples, and how its answers are judged. Write a few lines, run the cell, run the check below it: it draws
# fresh inputs and answers in one line. They belong to [chapter 09](../notebooks/09_sr3.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# Arrays are float64 tensors with the batch first. The letters are the paper's: $\gamma$ is the share of the signal's power that is left (our $\alpha_t^2$), $x$ the LR image, $y$ the HR image or its noisy state. `noise(like)`
# gives standard normal numbers shaped like its argument.

# %%
import math
from functools import partial

import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law
from tutorial_lib.samplers import ddpm, last
from tutorial_lib.schedules import from_betas, uniform_times
from tutorial_lib.sr3 import PAPER_BETAS, conditional_denoiser, with_condition
from tutorial_lib.widgets import wilson_interval

double = torch.float64

# %% [markdown]
# ## Exercise 09.1: A level between two rungs (warm-up)
#
# `gammas` (N + 1,) falls from `gammas[0]` = 1. `t` (B,) holds whole numbers from 1 to N, `share` (B,) numbers between 0 and 1. Return the noise levels (B,): share 0 is rung $t$, share 1 its cleaner neighbour,
# and in between $\gamma$ moves evenly.


# %%
def levels_between(gammas, t, share):
    """gamma (B,) between gammas[t] and gammas[t - 1]."""
    ### BEGIN SOLUTION
    return gammas[t] + share * (gammas[t - 1] - gammas[t])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.1", levels_between)

# %% [markdown]
# Where do these levels fall? Draw 100,000 of them from the ladder of 2000 betas that rise evenly from $10^{-6}$ to $10^{-2}$, and find the share in each quarter of the log-SNR's range.

# %% tags=["solution", "nbval-check-output"]
ladder = torch.cat([torch.ones(1, dtype=double), (1 - PAPER_BETAS).cumprod(0)])
generator = torch.Generator().manual_seed(0)
t = torch.randint(1, 2001, (100_000,), generator=generator)
drawn = levels_between(ladder, t, torch.rand(100_000, generator=generator, dtype=double))
log_snr = (drawn / (1 - drawn)).log()
ends = torch.linspace(-10, 14, 5)
for low, high in zip(ends[:-1], ends[1:], strict=True):
    print(
        f"log-SNR from {low:3.0f} to {high:3.0f}: {((log_snr >= low) & (log_snr < high)).double().mean():.1%} of the levels"
    )

# %% [markdown] tags=["solution"]
# Most levels are noisy ones, and the last quarter, where grain is removed, gets next to nothing. The ladder decides what the network practises, exactly as a weight on the loss would (chapter 08).

# %% [markdown]
# ## Exercise 09.2: The paper's network as a denoiser
#
# `f(x, y, gamma)` is a network in the paper's manner: it is told $\gamma$ (B,) and answers with $\epsilon$. `x` and `z` are (B, D), and `alpha` (B,) holds the amplitude of the signal in `z`, so $z = \alpha y + \sqrt{1 - \alpha^2}\,\epsilon$. Return the estimate
# of the clean image (B, D).


# %%
def as_denoiser(f, x, z, alpha):
    """The z_0 (B, D) that the network's eps amounts to."""
    ### BEGIN SOLUTION
    eps = f(x, z, alpha**2)
    alpha = alpha[:, None]
    return (z - (1 - alpha**2).sqrt() * eps) / alpha
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.2", as_denoiser)

# %% [markdown]
# By how much does an error of 0.01 in $\epsilon$ change the clean image at $\gamma$ = 0.99, 0.5, 0.01 and at the top rung of the ladder, $4.4\cdot 10^{-5}$?

# %% tags=["solution", "nbval-check-output"]
for gamma in (0.99, 0.5, 0.01, 4.4e-5):
    print(f"gamma = {gamma:<8g} error of the clean image {0.01 * math.sqrt((1 - gamma) / gamma):.4f}")

# %% [markdown] tags=["solution"]
# At the top an error that no loss would notice is worth more than the whole range of an image. A sampler with many steps takes little of the clean image from each of them. A sampler with few steps takes a lot, so it needs a better network there, or has to clip.

# %% [markdown]
# ## Exercise 09.3: One step of SR3, of any length
#
# The state `y` (B, D) is at level `gamma_t`, `eps` (B, D) is the network's answer there, and the step goes to `gamma_s` > `gamma_t` (numbers). Return the new state, in the paper's manner: the mean of Algorithm 2 and noise of the variance of the forward step, from one call
# of `noise(y)`; nothing is added when `gamma_s` is 1.


# %%
def sr3_step(y, eps, gamma_t, gamma_s, noise):
    """The state (B, D) at the level gamma_s."""
    ### BEGIN SOLUTION
    alpha = gamma_t / gamma_s  # what this step keeps
    y = (y - (1 - alpha) / math.sqrt(1 - gamma_t) * eps) / math.sqrt(alpha)
    return y if gamma_s == 1 else y + math.sqrt(1 - alpha) * noise(y)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.3", sr3_step)

# %% [markdown]
# Why "of any length"? Use your step on a Gaussian pair whose law is known: $y$ has two pixels with variance 1 and correlation 0.6, and $x$ is their mean. `conditional_denoiser` knows $\mathbb E[y \mid y_t, x]$. Walk in 10 steps, even in $t$ from 1 to the last rung 1/2000, then 0, and compare the exact variance
# of $y_1$ given $x$ with what comes out. Then take the betas from the long ladder instead of $\gamma_t/\gamma_s$.

# %% tags=["solution", "nbval-check-output"]
schedule = from_betas(PAPER_BETAS)
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=double))
see_mean, x = torch.tensor([[0.5, 0.5]], dtype=double), torch.tensor([[0.3]], dtype=double)
exact = with_condition(conditional_denoiser(pair, see_mean, 0.0, schedule), x)


def walk(noise, times, kept):
    """My steps along these times; kept(t, s) says what share of the signal's power a step keeps."""
    y = noise(torch.zeros(1, 2, dtype=double))
    for t, s in zip(times[:-1], times[1:], strict=True):
        gamma_t = float(schedule.alpha(t) ** 2)
        eps = (y - math.sqrt(gamma_t) * exact(y, t)) / math.sqrt(1 - gamma_t)
        y = sr3_step(y, eps, gamma_t, 1.0 if s == 0 else gamma_t / kept(t, s), noise)
    return y


def by_library(noise, times):
    start = noise(torch.zeros(1, 2, dtype=double))
    return last(ddpm(exact, schedule, start, times, variance="beta", noise=noise))


def right(t, s):
    return float((schedule.alpha(t) / schedule.alpha(s)) ** 2)


def from_the_table(t, s):
    return 1 - float(PAPER_BETAS[round(float(t) * 2000) - 1])


print("variance of the first pixel given x: exact 0.200")
for n in (10, 20, 40):
    times = uniform_times(n, t_min=1 / 2000)
    kinds = (partial(walk, times=times, kept=right), partial(by_library, times=times))
    found = [affine_law(run, 2)[1][0, 0] for run in (*kinds, partial(walk, times=times, kept=from_the_table))]
    print(f"{n:3} steps: mine {found[0]:.3f}, library {found[1]:.3f}, with single betas of the table {found[2]:.3f}")

# %% [markdown] tags=["solution"]
# With the right $\alpha$ ten steps leave too much spread (noise of the forward step would be right for data of variance 1, and what $x$ leaves open has less), and the excess halves when the steps are doubled. With the table's betas every step believes that it is far shorter than it is, and hardly moves. The last one jumps
# to the denoiser's answer: $x$ fixes the sum of the two pixels, but half their difference is still that of the noise (variance 0.5), which a denoiser told "almost clean" believes.

# %% [markdown]
# ## Exercise 09.4: What the absolute error learns
#
# SR3's loss is $\|f - \epsilon\|_p^p$ with $p$ = 1 or 2. Given everything that a network is shown, let its target have the values `values` (K,) with probabilities `weights` (K,) that add to 1. Return the answer (a number among the values) with the smallest expected *absolute* error.


# %%
def best_for_l1(values, weights):
    """The value that minimises sum_k weights[k] |values[k] - answer|."""
    ### BEGIN SOLUTION
    order = values.argsort()
    below = weights[order].cumsum(0)
    return values[order][torch.searchsorted(below, torch.tensor(0.5, dtype=below.dtype))]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.4", best_for_l1)

# %% [markdown]
# A coin shows +1 with probability $w$ and $-1$ otherwise. Plot the best answer for the squared and for the absolute error against $w$.

# %% tags=["solution"]
shares = torch.linspace(0.01, 0.99, 99, dtype=double)
coin = torch.tensor([-1.0, 1.0], dtype=double)
plots.curves(
    shares,
    {
        "squared error: mean": 2 * shares - 1,
        "absolute error: median": torch.stack([best_for_l1(coin, torch.stack([1 - w, w])) for w in shares]),
    },
    title="The mean tells how sure it is; the median only tells which side is likelier",
    alt="Two curves against the probability w from 0 to 1. The mean is a straight line from -1 to 1. The median is -1 up to w = 0.5 and +1 above.",
    xlabel="probability of +1",
    ylabel="best answer",
    height=320,
)

# %% [markdown] tags=["solution"]
# A sampler follows such answers step by step. With means, a state that is 30 % likely to end at $-1$ does so 30 % of the time. With medians it is pushed towards the likelier side too early and too hard: the chapter measures what that does to the shares.

# %% [markdown]
# ## Exercise 09.5: Conditioning augmentation
#
# `cond` and `hr` are (B, C, H, W) in state units, `gamma` (B,) says how much of the condition's power to keep. Return the pair (condition for the network, image to be diffused), with noise from one call of `noise`, where it belongs.


# %%
def augmented_pair(cond, hr, gamma, noise):
    """(condition, image), both (B, C, H, W)."""
    ### BEGIN SOLUTION
    gamma = gamma.view(-1, 1, 1, 1)
    return gamma.sqrt() * cond + (1 - gamma).sqrt() * noise(cond), hr
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.5", augmented_pair)

# %% [markdown]
# ## Exercise 09.6: What averaging removes
#
# `samples` (B, K, D) are K samples for each of B images and `truth` (B, D) the originals. The mean of K independent samples has the squared error $a + b/K$. Return unbiased estimates of both numbers, averaged over images and pixels.


# %%
def split_error(samples, truth):
    """(a, b)."""
    ### BEGIN SOLUTION
    b = samples.var(1).mean()
    error = (samples.mean(1) - truth).square().mean()
    return error - b / samples.shape[1], b
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.6", split_error)

# %% [markdown]
# What are $a$ and $b$ for a perfect sampler? And for one that always returns the mean? Try 2,000 images with the posterior $N(\mu, 0.25)$.

# %% tags=["solution", "nbval-check-output"]
noise = standard_normal(0)
centre = noise(torch.empty(2000, 1, 1, dtype=double))
truth = centre[:, 0] + 0.5 * noise(centre[:, 0])
for name, scatter in (("perfect", 0.5), ("too narrow", 0.2), ("always the mean", 0.0), ("too wide", 0.8)):
    samples = centre + scatter * noise(torch.empty(2000, 8, 1, dtype=double))
    a, b = split_error(samples, truth)
    print(f"{name:16} a = {a:.3f}, b = {b:.3f}, b/a = {b / a:.2f}")

# %% [markdown] tags=["solution"]
# For a perfect sampler $a = b$, both the posterior's variance: one sample has twice the squared error of the mean, 3 dB less. A ratio below 1 means samples that are too alike, above 1 too different. This needs no model of the posterior, only truths and samples.

# %% [markdown]
# ## Exercise 09.7: The rank of the truth
#
# `truth` (B, D) and `samples` (B, K, D). Return for every pixel how many of the K samples lie below the truth: whole numbers (B, D) from 0 to K.


# %%
def rank_of_truth(truth, samples):
    """Ranks (B, D), from 0 to K."""
    ### BEGIN SOLUTION
    return (samples < truth[:, None]).sum(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.7", rank_of_truth)

# %% [markdown]
# If truth and samples come from one law, all K + 1 ranks are equally likely. Draw the histogram of ranks for the four samplers of exercise 09.6 (with K = 8) and learn to read it.

# %% tags=["solution"]
shown = {}
for name, scatter in (("perfect", 0.5), ("too narrow", 0.2), ("too wide", 0.8)):
    samples = centre + scatter * noise(torch.empty(2000, 8, 1, dtype=double))
    shown[name] = torch.bincount(rank_of_truth(truth, samples).flatten(), minlength=9) / 2000
plots.bars(
    [str(rank) for rank in range(9)],
    shown,
    title="Flat: as it should be. A bowl: samples too alike. A hill: too different",
    alt="Shares of the ranks 0 to 8 for three samplers. Perfect: all near 0.11. Too narrow: high at ranks 0 and 8, low between. Too wide: low at both ends, high in the middle.",
    ylabel="share of the images",
    height=320,
)

# %% [markdown] tags=["solution"]
# A sampler that always returns the mean has all ranks at 0 or 8. A slope would mean that the samples are too dark or too bright.

# %% [markdown]
# ## Exercise 09.8: How many answers a verdict needs (research-like)
#
# In a forced-choice test a share `rate` < 0.5 of the answers takes the model's image for the original. Return the smallest number of answers $n$ (a whole number) with which the textbook interval $\text{rate} \pm 1.96\sqrt{\text{rate}(1-\text{rate})/n}$ no longer reaches 0.5.


# %%
def answers_needed(rate):
    """The smallest n."""
    ### BEGIN SOLUTION
    return math.ceil(1.96**2 * rate * (1 - rate) / (0.5 - rate) ** 2)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("09.8", answers_needed)

# %% [markdown]
# How many answers for fool rates of 34 %, 40 % and 47 %? SR3's test had 50 subjects with 50 images each: which of the three could it tell from 50 %? Compare with Wilson's interval. What have you assumed about the 2,500 answers?

# %% tags=["solution", "nbval-check-output"]
for rate in (0.34, 0.40, 0.47):
    low, high = wilson_interval(round(2500 * rate), 2500)
    print(f"fool rate {rate:.0%}: {answers_needed(rate):5} answers needed; 2,500 answers give {low:.3f} to {high:.3f}")

# %% [markdown] tags=["solution"]
# All three, if the 2,500 answers were independent. They are not: the same person answers 50 times, and the same 100 images come up again and again. With people who differ, the 50 subjects count for more than the 2,500 answers, so the honest interval is wider: resample whole subjects, as `bootstrap_interval` would with
# one number per subject. Design your own test with that in mind: more people rather than more clicks.
