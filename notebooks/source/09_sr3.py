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
# # 09 SR3: super-resolution by iterative refinement
#
# In chapter 04 a chain of small denoising steps turned noise into faces that nobody had ordered. Show the same chain a small photo at every step, and it paints the large photo that belongs to it. That is all of
# SR3 (Saharia et al. 2021), and it changed the field: people asked to choose between its faces and real ones chose almost at random. In this chapter you rebuild it piece by piece, prove each piece on a pair of pixels, and then look at its answers as a critic would.
#
# ## What you will be able to do
#
# 1. **Sample** with SR3's Algorithm 2, and prove that it draws from $p(y \mid x)$.
# 2. **Translate** between the two meanings of $\alpha_t$, and recognise what mixing them looks like.
# 3. **Train** on continuous noise levels, and say what telling the level buys.
# 4. **Cut** 2000 steps to 20 without training again, by a search.
# 5. **Compare** with regression honestly: error, sharpness, calibration, consistency, hallucination, cost.
# 6. **Chain** models into a cascade, and say what conditioning augmentation gives and takes.
# 7. **Ask** people: run a forced-choice test and put an interval on its result.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (the chain, $\beta$ and $\tilde\beta$); [chapter 02](02_image_quality.ipynb) for the scores.
#
# **Reading time**: 75 minutes. Running time: about 35 s on two cores.
# **Survey section**: SR3 in the section on concrete realisations (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/09_sr3.ipynb), worked in [solutions](../solutions/09_sr3.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | SR3 paper, survey's SR3 section | survey's DDPM section | meaning |
# > |---|---|---|---|
# > | `lr`, `cond` | $x$ | $x$ | the LR image; `cond` is its bicubic enlargement in state units |
# > | $z_0$, $z_t$ | $y_0$, $y_t$ (survey $z_t$) | $z_t$ | the HR image and its noisy state |
# > | $\alpha_t^2 = \bar\alpha_t$ | $\gamma_t$ | $\gamma_t$ | share of the signal's power that is left |
# > | $\beta = 1 - \alpha_t^2/\alpha_s^2$ | $1 - \alpha_t$ | $\alpha_t$ | noise variance of one step |
# > | $1 - \beta$ | $\alpha_t$ | $1 - \alpha_t$ | what one step keeps |
# > | $\hat\epsilon$ | $f_\theta(x, y_t, \gamma_t)$ | $\varphi_\theta$ | the network's answer |
#
# Three meanings of one letter: ours is an amplitude, SR3's is what a step *keeps*, the survey's DDPM section means what a step *adds*. Section 4 mixes them on purpose.

# %%
import math

import torch
from torch import nn
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.calibration import rank_histogram
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr, sharpness, sliced_wasserstein
from tutorial_lib.networks.sr3 import BigGANBlock
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Bicubic
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, convergence_order, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import SPREADS, load_pretrained
from tutorial_lib.samplers import ddim, ddpm, last, trajectory
from tutorial_lib.schedules import from_betas, log_snr_times, respace, shifted_cosine, uniform_times
from tutorial_lib.sr3 import (
    PAPER_BETAS,
    augment,
    candidate_times,
    conditional_denoiser,
    conditional_law,
    noise_levels,
    search_times,
    with_condition,
)
from tutorial_lib.super_resolution import ETA, STEPS, face_super_resolve, sr3_times, super_resolve

double = torch.float64

# %% [markdown]
# ## 1. One photo, two kinds of answer
#
# A piece of a photo, 112×112 pixels, shrunk to 28×28. Three methods enlarge it again. The models learned from other photos.


# %%
def cut(name, top, left, size=112):
    """A square piece of a built-in photo and its LR version, rounded to 8 bits: (1, 3, size, size), (1, 3, size/4, size/4)."""
    hr = photo(name)[..., top : top + size, left : left + size]
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


hr, lr = cut("china", 40, 190)
answers = {name: super_resolve(lr, method=name) for name in ("bicubic", "regression", "sr3")}
plots.image_grid(
    [*answers.values(), hr],
    [*answers, "original"],
    title="Where it cannot know, regression paints a plain surface; SR3 commits itself",
    alt="Four pictures of a curved temple roof: bicubic, soft all over; regression, with clean edges but a plain surface where the tiles are; SR3, rougher, with grain and with spots along the edges; the original with fine rows of tiles.",
    zoom=2,
)


# %% [markdown]
# Bicubic interpolation is soft. Regression (chapter 03) has cleaner edges; but the rows of tiles are too fine for the LR image, so it paints the mean of all roofs that might be there, and that is a plain surface. SR3 *commits*: its surfaces have texture. Look twice, though. The texture is not the original's, and part of it
# is plain grain, with spots along the edges: our network is small and was trained for a short time. At the end of the chapter you will be able to say how much of it is earned and what it costs.
#
# ## 2. Two pixels
#
# To see what the answer should be, take the smallest pair there is. The HR "image" has two pixels, $y = (x + d, x - d)$. The LR image is their mean, $x$; what it cannot tell is the **edge** $d$. Let
# $x \sim N(0, 0.3^2)$, and let $d$ be near $+0.5$ (left pixel brighter) with probability 0.7 and near $-0.5$ otherwise. Everything is known here. In particular the denoiser that an infinitely large SR3 network would become: it sees the noisy pair *and* $x$; so it knows the pixels' mean, and only their difference has to be guessed.

# %% tags=["nbval-check-output"]
paper = from_betas(PAPER_BETAS)  # the ladder of 2000 noise levels
edges = GaussianMixture(
    torch.tensor([0.7, 0.3]), torch.tensor([[0.5], [-0.5]], dtype=double), 0.08**2 * torch.ones(2, 1, 1)
)


def exact(z, t, x, schedule=paper):
    """E[y | z_t, x]: half the difference of the pixels is a number with noise of size sigma / sqrt(2)."""
    d = edges.denoise((z[:, :1] - z[:, 1:]) / 2, schedule.alpha(t), schedule.sigma(t) / math.sqrt(2))
    return torch.cat([x + d, x - d], 1)


together, apart = torch.ones(2, 2, dtype=double), torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=double)
prior = GaussianMixture(
    edges.weights,
    torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=double),
    (0.09 * together + 0.08**2 * apart).expand(2, 2, 2),
)
see_mean, x = torch.tensor([[0.5, 0.5]], dtype=double), torch.tensor([[0.1]], dtype=double)
z = standard_normal(0)(torch.empty(5, 2, dtype=double))
oracle = denoiser_for(prior.posterior(see_mean, x, noise_std=0.0), paper)
for t in (0.05, 0.3, 0.9):
    assert_close(exact(z, t, x), oracle(z, t))
regression = prior.posterior(see_mean, x, 0.0).mean
print(f"given x = 0.1, regression answers ({regression[0]:.1f}, {regression[1]:.1f}), an edge of 0.2")

# %% [markdown]
# The best single answer under squared error is the mean, $\mathbb E[y \mid x] = (x + 0.2, x - 0.2)$: an edge of a strength that occurs in *no* image. That is what blur is.
#
# SR3's way out has one loop. Start with noise and walk up the levels; at each one ask the network for the noise, take a little of it away, and add less fresh noise:
#
# $$y_{t-1} = \frac{1}{\sqrt{\alpha_t}}\Big(y_t - \frac{1-\alpha_t}{\sqrt{1-\gamma_t}}\, f_\theta(x, y_t, \gamma_t)\Big) + \sqrt{1-\alpha_t}\;\epsilon_t , \qquad \alpha_t = \frac{\gamma_t}{\gamma_{t-1}} \qquad\text{(the paper's letters).}$$
#
# Nothing in it is new: this is chapter 04's DDPM with the larger of its two fixed variances, $\beta$. New is only that $f_\theta$ also sees $x$. No noise is added to $x$. (→ Exercise 09.3)


# %%
def my_sr3(f, x, gammas, y, noise):
    """Algorithm 2: gammas (n + 1,) rise from nearly 0 to 1; f(x, y, gamma) answers with the noise."""
    for gamma, cleaner in zip(gammas[:-1], gammas[1:], strict=True):
        kept = gamma / cleaner  # the paper's alpha_t
        y = (y - (1 - kept) / (1 - gamma).sqrt() * f(x, y, gamma)) / kept.sqrt()
        if cleaner < 1:
            y = y + (1 - kept).sqrt() * noise(y)
    return y


def f(x, y, gamma):
    """The exact network: from the exact denoiser to eps."""
    t = paper.time_at((gamma / (1 - gamma)).log())
    return (y - gamma.sqrt() * exact(y, t, x)) / (1 - gamma).sqrt()


count, times = 2000, uniform_times(100, t_min=1 / 2000)  # every 20th rung of the ladder, then 0
start = standard_normal(0)(torch.empty(count, 2, dtype=double))
drawn = my_sr3(f, x, paper.alpha(times) ** 2, start, standard_normal(1))
library = last(ddpm(with_condition(exact, x), paper, start, times, variance="beta", noise=standard_normal(1)))
assert_close(drawn, library, rtol=1e-5, atol=1e-6)

# %%
axis = torch.linspace(-1.3, 1.5, 141, dtype=double)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
right = (drawn[:, 0] > drawn[:, 1]).double().mean().item()
plots.density_2d(
    axis,
    axis,
    {"all pairs $p(y)$": prior.log_prob(grid).exp().reshape(141, 141)},
    points={"SR3, given x = 0.1": drawn[:300], "regression": regression[None]},
    title="SR3 answers with pairs that exist; regression answers between them",
    alt=f"Two elongated blobs parallel to the diagonal, one below it (left pixel brighter), one above. 300 SR3 samples lie in two clusters, one in each blob, on the line of pairs whose mean is 0.1; {right:.0%} of all samples in the "
    "lower right one. The regression's single point lies on the same line between the blobs, where the density is nearly zero.",
    xlabel="left pixel",
    ylabel="right pixel",
    width=520,
    height=440,
)

# %% [markdown]
# Two things are right without having been asked for. Every sample has exactly the mean $x$: with the exact denoiser, **consistency** with the LR image comes for free. And each edge comes up as often as it should:

# %% tags=["nbval-check-output"]
assert (drawn.mean(1) - x).abs().max() < 1e-6
error = math.sqrt(0.7 * 0.3 / count)
print(f"left pixel brighter: {right:.3f} of the samples, should be 0.700 +- {error:.3f}")

# %% [markdown]
# ## 3. Proof on a Gaussian pair
#
# Samples can hide a wrong variance. So let $y$ be Gaussian: two pixels of variance 1 with correlation 0.6. Then $p(y \mid x)$ is Gaussian, the exact network is linear, and `affine_law` tells the law of whatever a sampler puts out, without drawing anything.
#
# In one direction, $y_1 - y_2$ with posterior variance $v$, you can do it by hand. A step keeps the share $c_t$ of the state's deviation from its mean and adds $\beta$:
#
# $$V_s = c_t^2\, V_t + \beta_{t}, \qquad c_t = \frac{1}{\sqrt{1-\beta_t}}\Big(1 - \frac{\beta_t}{v\,\alpha_t^2 + \sigma_t^2}\Big), \qquad V_1 = 1 ,$$
#
# without $\beta$ in the last step. (Our letters again: amplitude $\alpha_t$, $\sigma_t^2 = 1-\alpha_t^2$, a step from $t$ to the cleaner $s$, $\beta_t = 1-\alpha_t^2/\alpha_s^2$.)

# %% tags=["nbval-check-output"]
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=double))
linear = with_condition(conditional_denoiser(pair, see_mean, 0.0, paper), x)
gain, offset, covariance = conditional_law(pair, see_mean, 0.0)
mean = (gain @ x.T)[:, 0] + offset


def law_of(n, variance="beta"):
    """Exact mean and covariance of what SR3 puts out after n steps."""
    times = uniform_times(n, t_min=1 / 2000)

    def run(noise):
        return last(ddpm(linear, paper, noise(torch.zeros(1, 2, dtype=double)), times, variance=variance, noise=noise))

    return affine_law(run, 2)


def by_hand(n, v=0.4):
    """The recursion for (y_1 - y_2) / sqrt(2), whose posterior variance is v = 0.4."""
    times, V = uniform_times(n, t_min=1 / 2000), 1.0
    for t, s in zip(times[:-1], times[1:], strict=True):
        beta = 1 - (paper.alpha(t) / paper.alpha(s)) ** 2
        c = (1 - beta / (v * paper.alpha(t) ** 2 + paper.sigma(t) ** 2)) / (1 - beta).sqrt()
        V = c**2 * V + (beta if s > 0 else 0)
    return V


across = torch.tensor([1.0, -1.0], dtype=double) / math.sqrt(2)
for n in (10, 40):
    out_mean, out = law_of(n)
    assert_close(across @ out @ across, by_hand(n))
    assert_close(out_mean, mean, rtol=1e-3, atol=1e-3)
    print(f"{n} steps: variance across {across @ out @ across:.4f}, should be {across @ covariance @ across:.4f}")

# %%
counts = (5, 10, 20, 40, 80, 160)
misses = {
    label: [gaussian_w2(*law_of(n, variance), mean, covariance) for n in counts]
    for label, variance in (("$\\beta$ (SR3)", "beta"), ("$\\tilde\\beta$ (public ports)", "posterior"))
}
orders = {
    label: convergence_order(dict(zip(counts, row, strict=True)).get, counts[-3:]) for label, row in misses.items()
}
plots.curves(
    counts,
    misses,
    title="SR3's law approaches p(y|x) at first order: twice the steps, half the error",
    alt="Wasserstein distance to the exact conditional law against the number of steps from 5 to 160, both axes logarithmic; two falling lines. "
    + "; ".join(
        f"{label.replace('$', '')}: {row[0]:.3f} with 5 steps, {row[2]:.3f} with 20, {row[-1]:.4f} with 160, order {orders[label]:.2f}"
        for label, row in misses.items()
    )
    + ".",
    xlabel="steps",
    ylabel="$W_2$ to $p(y\\mid x)$",
    logx=True,
    logy=True,
    height=340,
)

# %% [markdown]
# On this pair the paper's $\beta$ is the better of the two fixed variances, because what $x$ leaves open is wide. Public ports take $\tilde\beta$, with which few steps give samples that are too alike. Keep both in mind for the photos.
#
# **What one sample costs in error.** Regression returns the mean of this law; its expected squared error is the posterior's variance, $a$. A sample misses by $a$ plus its own scatter $b$, and the mean of $K$ samples by
#
# $$\mathbb E\,\Big\|\tfrac1K\sum_k y^{(k)} - y\Big\|^2 = a + \frac{b}{K}, \qquad a = b \text{ for a perfect sampler.}$$
#
# So a perfect sample is 3 dB worse in PSNR than the mean. Whoever judges SR3 by PSNR punishes it for doing its job (→ Exercise 09.6).

# %% tags=["nbval-check-output"]
noise = standard_normal(2)
truths = pair.posterior(see_mean, x, 0.0).sample(500, noise)
begin = noise(torch.empty(500 * 16, 2, dtype=double))
samples = last(ddpm(linear, paper, begin, uniform_times(80, t_min=1 / 2000), variance="beta", noise=noise)).view(
    500, 16, 2
)
a, b = covariance.trace().item(), law_of(80)[1].trace().item()
for K in (1, 2, 4, 16):
    errors = (samples[:, :K].mean(1) - truths).square().sum(1)
    standard_error = errors.std() / math.sqrt(500)
    assert abs(errors.mean() - (a + b / K)) < 4 * standard_error
    print(f"K = {K:2}: squared error {errors.mean():.3f} +- {standard_error:.3f}, a + b/K = {a + b / K:.3f}")

# %% [markdown]
# ## 4. The two meanings of one letter
#
# In SR3's formula $\alpha_t$ is what a step keeps. Carry the formula into a code base (or a section of the survey) where $\alpha_t$ is the noise variance of the step, and it still runs. Four versions of the loop, 100 steps, on the two pixels:

# %% tags=["nbval-check-output"]
rungs = paper.alpha(times) ** 2


def loop(mean, spread):
    """100 steps on the exact pair; mean(y, eps, kept, gamma) and spread(kept) are one version of the formula."""
    y, noise = start, standard_normal(1)
    for gamma, cleaner in zip(rungs[:-1], rungs[1:], strict=True):
        kept = gamma / cleaner
        y = mean(y, f(x, y, gamma), kept, gamma) + (spread(kept) * noise(y) if cleaner < 1 else 0)
    return y


def in_sr3_letters(y, eps, alpha, gamma):
    return (y - (1 - alpha) / (1 - gamma).sqrt() * eps) / alpha.sqrt()


def in_ddpm_letters(y, eps, alpha, gamma):  # the survey's DDPM section: alpha is the variance that a step adds
    return (y - alpha / (1 - gamma).sqrt() * eps) / (1 - alpha).sqrt()


versions = {
    "SR3's letters": (in_sr3_letters, lambda kept: (1 - kept).sqrt()),
    "the survey's DDPM letters": (
        lambda y, eps, kept, gamma: in_ddpm_letters(y, eps, 1 - kept, gamma),
        lambda kept: (1 - kept).sqrt(),
    ),
    "SR3's mean, DDPM's noise": (in_sr3_letters, lambda kept: kept.sqrt()),
    "SR3's mean, fed the variance": (
        lambda y, eps, kept, gamma: in_sr3_letters(y, eps, 1 - kept, gamma),
        lambda kept: (1 - kept).sqrt(),
    ),
}
ends = {name: loop(*version) for name, version in versions.items()}
assert_close(ends["SR3's letters"], ends["the survey's DDPM letters"])
for name, y in ends.items():
    edge = ((y[:, 0] - y[:, 1]) / 2).abs().median()
    print(f"{name:30} mean of the pixels {y.mean():7.2g}, edge {edge:7.2g}, largest value {y.abs().max():7.2g}")

# %% [markdown]
# The two right versions agree to the last digit. A wrong mean blows up within a few steps, which is at least honest. A wrong noise term ($\sqrt{\alpha_t}$, nearly 1, in place of $\sqrt{1-\alpha_t}$) stays finite: the pixels' mean is even right, but the typical edge is twice as strong as the right 0.5, the largest value is several times too large, and there is no error message.
#
# <details><summary><b>Question.</b> Which single check would catch every mixture before a picture is drawn?</summary>
#
# Compare one step with a second derivation, on random tensors: the mean of the posterior $q(z_s \mid z_t, \hat z_0)$ of chapter 04 has no room for the letter. That is what `assert_close` with the library's `ddpm` did in section 2.
# </details>

# %% [markdown]
# ## 5. Learned: tell the network how noisy it is
#
# Now let a network learn $f$ from pairs. SR3's recipe, in four plain steps:
#
# 1. Take a pair $(x, y)$ and fresh noise $\epsilon$.
# 2. Draw a noise level $\gamma$: pick an interval of the ladder, then a level *between* its two rungs (→ Exercise 09.1).
# 3. Show the network $x$ (clean!), the noisy $\sqrt\gamma\,y + \sqrt{1-\gamma}\,\epsilon$, and the number $\gamma$ (→ Exercise 09.2).
# 4. Punish the distance of its answer from $\epsilon$:
#
# $$\mathbb E_{(x,y)}\,\mathbb E_{\epsilon,\gamma}\,\big\| f_\theta\big(x,\ \sqrt{\gamma}\,y + \sqrt{1-\gamma}\,\epsilon,\ \gamma\big) - \epsilon \big\|_p^p, \qquad \gamma \sim \frac1T\sum_{t=1}^{T} U(\gamma_{t-1}, \gamma_t), \quad p \in \{1, 2\}.$$
#
# DDPM tells its network the *index* $t$ of a step instead. What does the difference buy? We train the same small network three times: told the level, told the index, told nothing. (And a fourth time with $p = 1$, for section 6.)

# %%
ladder = torch.cat([torch.ones(1, dtype=double), paper.alpha(torch.arange(1, 2001) / 2000) ** 2])


def batch(told, generator, size=512):
    """Pairs, noise levels, and the number that the network is told."""
    noise = standard_normal(generator)
    if told == "level":
        gamma = noise_levels(ladder, size, generator)
        number = gamma.logit() / 8
    else:
        rung = torch.randint(1, 2001, (size,), generator=generator)
        gamma = ladder[rung]
        number = rung / 1000 - 1 if told == "index" else 0 * gamma
    x, d = 0.3 * noise(torch.empty(size, 1)), edges.sample(size, noise).float()
    y = torch.cat([x + d, x - d], 1)
    return y, x, noise(y), gamma.float()[:, None], number.float()[:, None]


def train(told, p=2, steps=1600):
    torch.manual_seed(0)  # initial weights
    network = nn.Sequential(
        nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
    )
    optimizer, generator = torch.optim.Adam(network.parameters(), 5e-3), torch.Generator().manual_seed(0)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        y, x, eps, gamma, number = batch(told, generator)
        z = gamma.sqrt() * y + (1 - gamma).sqrt() * eps
        loss = (network(torch.cat([z, x, number], 1)) - eps).abs().pow(p).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    return network.requires_grad_(False)


networks = {told: train(told) for told in ("level", "index", "nothing")}
networks["level, L1"] = train("level", p=1)

# %% [markdown]
# The first two sample well from the ladder that they know; the third never does. Then we hand them another one: 20 new levels, evenly spaced in log-SNR. The network that was told indices is told, as DDPM code would do it, "step $i$ of 20".


# %%
def tiny(name, schedule):
    """A trained network as a denoiser(z, t, x) on a schedule."""

    def denoiser(z, t, x):
        t = torch.as_tensor(t, dtype=double)
        number = {"l": schedule.log_snr(t) / 8, "i": 2 * t - 1, "n": 0 * t}[name[0]]
        eps = networks[name](torch.cat([z.float(), x.expand(len(z), 1).float(), number.float().expand(len(z), 1)], 1))
        return (z - schedule.sigma(t) * eps) / schedule.alpha(t)

    return denoiser


def edge_of(denoiser, schedule, times, x=x, seed=1):
    """Half the difference of the pixels in 2000 samples, sorted."""
    out = last(ddpm(with_condition(denoiser, x), schedule, start, times, variance="beta", noise=standard_normal(seed)))
    return ((out[:, 0] - out[:, 1]) / 2).sort().values


many = edges.sample(200_000).flatten()
should = torch.quantile(many, (torch.arange(count, dtype=double) + 0.5) / count)
other = from_betas(respace(paper, log_snr_times(paper, 20, t_min=1 / 2000)))  # 20 rungs of its own
ladders = {
    "100 rungs of its own ladder": (paper, times),
    "a new ladder of 20": (other, torch.linspace(1, 0, 21, dtype=double)),
}
found = {}
for name in ("exact", "level", "index", "nothing"):
    for label, (schedule, steps) in ladders.items():
        denoiser = (
            tiny(name, schedule) if name in networks else lambda z, t, x, schedule=schedule: exact(z, t, x, schedule)
        )
        found[name, label] = edge_of(denoiser, schedule, steps)
        miss, brighter = (found[name, label] - should).abs().mean(), (found[name, label] > 0).double().mean()
        who = "exact network" if name == "exact" else f"told {name}"
        print(f"{who:14} on {label:28} W1 {miss:.3f}, left brighter {brighter:.2f}")

# %%
d_axis = torch.linspace(-1, 1, 201, dtype=double)
true_density = edges.log_prob(d_axis[:, None]).exp()
label = "a new ladder of 20"
plots.strip(
    [
        plots.histogram(
            {"samples": found[name, label]},
            exact={"exact": (d_axis, true_density)},
            title=f"told {what}",
            alt=f"Histogram of the edge d from a network told {what}, on a new ladder of 20 levels, and the exact density with peaks at 0.5 and -0.5.",
            xlabel="edge d",
            width=310,
            height=270,
        )
        for name, what in (("level", "the level"), ("index", "the index"), ("nothing", "nothing"))
    ],
    title="On a ladder that none of them was trained on, only the network that is told the level still knows where it is",
    alt="Three histograms of the sampled edge with the exact density, two narrow peaks. Told the level: two peaks in the right places, slightly wide. Told the index: a broad mass between and around the peaks. Told nothing: one broad hump that leans to the right.",
    columns=3,
)

# %% [markdown]
# The level is a fact about the state; the index is a page number of one edition of the book. An index could be translated by looking up the rung with the nearest level, which amounts to telling the level. And "nothing" fails here because two pixels do not show how noisy they are; a photo with thousands of pixels shows it quite well, so
# there the loss is smaller. (Which number carries the level is a matter of scale: $\gamma$ in the paper, $\sqrt\gamma$ in ports, the log-SNR here. At inference it must be *the same* one.)

# %% [markdown]
# ## 6. L1 or L2?
#
# The paper trains with $p = 1$ and $p = 2$, and reports slightly better pictures for $p = 1$. But the derivation of the sampler needs $\mathbb E[\epsilon \mid z_t, x]$, and the absolute error is minimised by the *median* (→ Exercise 09.4). On our pair the median is known as well: find the point with half of the posterior's mass below it.


# %%
def median_edge(d_t, alpha, sigma, law):
    """The median of d given its noisy value d_t (B, 1), by bisection on the distribution function of its posterior."""
    means, variances = law.means[:, 0], law.covariances[:, 0, 0]
    total = alpha**2 * variances + sigma**2
    weights = (law.weights.log() - ((d_t - alpha * means) ** 2 / total + total.log()) / 2).softmax(1)
    centres = means + alpha * variances / total * (d_t - alpha * means)
    low, high = torch.full_like(d_t, -2.0), torch.full_like(d_t, 2.0)
    for _ in range(24):
        middle = (low + high) / 2
        below = (weights * torch.special.ndtr((middle - centres) / (variances * sigma**2 / total).sqrt())).sum(
            1, keepdim=True
        )
        low, high = torch.where(below < 0.5, middle, low), torch.where(below < 0.5, high, middle)
    return (low + high) / 2


# %%
def share_after(share, p, n=50):
    """How often the left pixel is brighter in samples drawn with the exact answer to |.|^p, when it should be `share`."""
    law = GaussianMixture(torch.tensor([share, 1 - share]), edges.means, edges.covariances)

    def denoiser(z, t):  # the edge alone diffuses, as sqrt(2) d, so that its noise has the sampler's size
        d_t, alpha, sigma = z / math.sqrt(2), paper.alpha(t), paper.sigma(t) / math.sqrt(2)
        return math.sqrt(2) * (law.denoise(d_t, alpha, sigma) if p == 2 else median_edge(d_t, alpha, sigma, law))

    begin = standard_normal(3)(torch.empty(1500, 1, dtype=double))
    grid = uniform_times(n, t_min=1 / 2000)
    out = last(ddpm(denoiser, paper, begin, grid, variance="beta", noise=standard_normal(4)))
    return (out > 0).double().mean().item()


true_shares = [0.5, 0.6, 0.7, 0.8, 0.9]
came = {p: [share_after(share, p) for share in true_shares] for p in (2, 1)}
learned = {
    name: (edge_of(tiny(name, paper), paper, times) > 0).double().mean().item() for name in ("level", "level, L1")
}
plots.scatter(
    {
        "as it should be": ([0.5, 0.9], [0.5, 0.9]),
        "p = 2, exact": (true_shares, came[2]),
        "p = 1, exact": (true_shares, came[1]),
        "p = 1, trained": ([0.7], [learned["level, L1"]]),
        "p = 2, trained": ([0.7], [learned["level"]]),
    },
    joined=("as it should be", "p = 2, exact", "p = 1, exact"),
    title="Trained with the absolute error, the likelier answer wins too often",
    alt="Share of samples with the likelier edge against its true probability, 0.5 to 0.9. Squared error: "
    + ", ".join(f"{v:.2f}" for v in came[2])
    + ", close to the diagonal. Absolute error: "
    + ", ".join(f"{v:.2f}" for v in came[1])
    + f", above it. Trained networks at 0.7: {learned['level']:.2f} for the squared and {learned['level, L1']:.2f} for the absolute error.",
    xlabel="true probability of the likelier edge",
    ylabel="share of the samples",
    height=440,
)

# %% [markdown]
# The absolute error makes the likelier edge win more often than it should, and a network trained so does what the exact median predicts. It is a mild form of **mode dropping**: what is rare becomes rarer. Pictures can gain by it, since common structure is drawn with more decision; calibration loses. The authors
# saw something of the kind in their own model: given the same input it "consistently generates nearly the same image output". (Our pair shows that $p = 1$ pushes in that direction, not that it is the cause there.) The package trains with $p = 2$.
#
# ## 7. From 2000 steps to 20
#
# A network that is told the level accepts *any* ladder, so the ladder can be chosen after training: try a few families, score each, keep the best. SR3 allows itself at most 100 steps and scores with FID on held-out images ("PSNR did not correlate well with image quality"). On the toy we can score exactly. `candidate_times` offers the families, `search_times` sorts them.

# %%
candidates = candidate_times(paper, 20)


def score(times, seed=1):
    return (edge_of(tiny("level", paper), paper, times, seed=seed) - should).abs().mean().item()


ranking = search_times(score, candidates)
for value, name in (*ranking[:3], ranking[-1]):
    print(f"{name:30} W1 {value:.3f}; with fresh noise {score(candidates[name], seed=8):.3f}")

# %%
best = ranking[0][1]
budgets = (5, 10, 20, 50, 100)
by_grid = {"even in t": [score(uniform_times(n, t_min=1 / 2000)) for n in budgets]}
by_grid[best] = [score(candidate_times(paper, n)[best]) for n in budgets]
all_rungs = score(uniform_times(2000, t_min=1 / 2000))
plots.curves(
    budgets,
    by_grid,
    horizontal={"all 2000 rungs": all_rungs},
    title="On the toy, 50 well-placed steps do what all 2000 do",
    alt="Distance W1 of the sampled edges to the exact law against the number of steps, 5 to 100, logarithmic axes. "
    + "; ".join(f"{name}: " + ", ".join(f"{v:.3f}" for v in row) for name, row in by_grid.items())
    + f". All 2000 rungs: {all_rungs:.3f}.",
    xlabel="steps",
    ylabel="$W_1$ to the exact law",
    logx=True,
    logy=True,
    height=330,
)

# %% [markdown]
# Each score was taken with one seed, so the least of many is a little too good to be true; hence the second number, from fresh noise. The winner spends its steps at low noise, where this pair's narrow peaks take shape: 20 of them are as good as 50 even ones, and 50 as good as all 2000 rungs.
# What is left then is the network's error and the chance of 2000 draws: compare the exact network's row in section 5.
#
# Nothing was trained again. That is what the told level buys in practice.
#
# <details><summary><b>Question.</b> What would happen if the search were scored by PSNR?</summary>
#
# PSNR prefers the mean to any sample (section 3). A search by PSNR would find the grid whose samples are closest to the mean: too narrow, too smooth, and perhaps with few, long steps.
# </details>
#
# ## 8. The network
#
# SR3's network is the U-Net of DDPM with the residual blocks of BigGAN, and it sees the enlarged LR image stacked onto the noisy one, channel by channel. (More elaborate conditioning gave the authors similar pictures.) One detail is worth a derivation: wherever a skip is added, the sum is divided by $\sqrt 2$.
# If skip and branch have variance 1 and are independent,
#
# $$\operatorname{Var}\Big(\frac{s + h}{\sqrt 2}\Big) = \frac{1 + 1}{2} = 1 ,$$
#
# and a signal neither grows nor dies on its way. Without the division each block would add 1 to the variance, and after eight of them the standard deviation would be 3:

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
blocks = [BigGANBlock(32, 32, 8) for _ in range(8)]
told = torch.zeros(1, 8)
signal = raw = standard_normal(0)(torch.empty(1, 32, 24, 24))
with torch.inference_mode():
    for block in blocks:
        signal, raw = block(signal, told), math.sqrt(2) * block(raw, told)
assert 0.7 < signal.std() < 1.4
print(f"after 8 blocks: standard deviation {signal.std():.2f}; without the division {raw.std():.1f}")

# %%
SPREAD = SPREADS["photo-sr3-x4"]
network, schedule = load_pretrained("photo-sr3-x4"), shifted_cosine(SPREAD)
painter = NetworkDenoiser(network, "eps", schedule)


def enlarge(lr, steps=STEPS["sr3"], eta=ETA["sr3"], seed=0):
    """SR3 on photos: (B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w), not cut to [0, 1]; image i uses seed + i."""
    cond = 2 * resize(lr, 4) - 1
    noise = standard_normal([torch.Generator().manual_seed(seed + i) for i in range(len(lr))])
    grid = sr3_times(steps)  # even times on this schedule
    with torch.inference_mode():
        z = last(ddim(with_condition(painter, cond), schedule, noise(cond), grid, eta=eta, noise=noise))
    return (z + 1) / 2


assert_close(enlarge(lr).clamp(0, 1), answers["sr3"])
parameters = sum(p.numel() for p in network.parameters())
print(f"our network for photos: {parameters / 1e6:.1f} million parameters; SR3's for the same scale: 625 million")

# %% [markdown]
# Hundreds of times smaller, ours has to make up for it with knowledge that is written down instead of learned. Most of the noisy photo is explained by its LR version, so the network works on the difference, scaled to size 1 at every level by a guess from how busy the LR image is there, and starts from the answer that would be exact for a residual without structure. The schedule is shifted
# in the same spirit: what has to be drawn is a residual of size about 0.1 (in state units), and at noise levels far above that there is nothing to decide. Watch it work:

# %%
cond = 2 * resize(lr, 4) - 1
noise = standard_normal(0)
with torch.inference_mode():
    walk = ddim(with_condition(painter, cond), schedule, noise(cond), sr3_times(20), eta=ETA["sr3"], noise=noise)
    way = trajectory(walk)
stops = (0, 5, 10, 15, 19)
plots.image_grid(
    torch.cat([(way[i].z + 1) / 2 for i in stops] + [(way[i + 1].z_0 + 1) / 2 for i in stops]).clamp(0, 1),
    [f"state {i}" for i in stops] + [f"guess at call {i + 1}" for i in stops],
    title="From noise to a photo in 20 calls: states (top) and what the network believes (bottom)",
    alt="Top row: five states from pure coloured noise to the photo piece one call before the end. Bottom row: the network's guess of the clean image at the same moments, first smooth, then with more and more texture and grain.",
    columns=5,
)

# %% [markdown]
# The first guess is smooth, like the regression's answer, and it must be: shown pure noise and $x$, the best answer is $\mathbb E[y \mid x]$. Every later guess is the mean of what is still possible once some details have been decided. At the end only one possibility is left. So SR3 contains a regression, and spends its other calls on committing itself.
#
# ## 9. Faces: is it as sure as it is right?
#
# Faces from 8×8 to 32×32: a factor at which most of a face must be invented. One sample proves nothing here; the question is whether the *set* of answers is right. If truth and $K$ samples come from the same law $p(y \mid x)$, the truth is just one of $K + 1$ equals, and every rank among them is equally likely (→ Exercise 09.7).

# %%
people, K = 24, 7
known = faces(people, seed=77).images
small = to_uint8(resize(known, 1 / 4)).float() / 255
seeds = [1000 * k + i for k in range(K) for i in range(people)]
drawn_faces = face_super_resolve(small.repeat(K, 1, 1, 1), seed=seeds).view(K, people, 3, 32, 32)
meant = face_super_resolve(small, method="regression")
plots.image_grid(
    torch.cat([resize(small, 4).clamp(0, 1)[:8], meant[:8], drawn_faces[0, :8], drawn_faces[1, :8], known[:8]]),
    [name if i == 0 else "" for name in ("bicubic", "regression", "SR3", "SR3 again", "original") for i in range(8)],
    title="Eight faces from 8x8 pixels: regression blurs what it cannot know, SR3 decides, and decides differently each time",
    alt="Five rows of eight drawn faces: bicubic enlargements, blurred beyond recognition; regression, soft eyes and mouths and mottled walls; two rows of SR3 samples, sharper, with clean walls, differing in eyes, brows and mouths; the originals.",
    zoom=3,
    columns=8,
)

# %%
ranks = rank_histogram(known, drawn_faces, torch.Generator().manual_seed(0))
below = (drawn_faces < known).sum(0)
varied = torch.cat([drawn_faces, known[None]]).std(0)  # over all eight: none of them is treated differently
busy = varied > varied.flatten().quantile(0.9)
share = {
    "all pixels": ranks.counts / ranks.counts.sum(),
    "the tenth that varies most": torch.bincount(below[busy], minlength=K + 1) / busy.sum(),
}
plots.curves(
    list(range(K + 1)),
    {**share, "if calibrated (all pixels)": torch.full((K + 1,), 1 / (K + 1))},
    bands={"if calibrated (all pixels)": (ranks.low / known.numel(), ranks.high / known.numel())},
    title="Rank of the truth among seven samples: nearly flat on all pixels, a bowl where it matters",
    alt="Shares of the ranks 0 to 7. "
    + " ".join(f"{name}: " + ", ".join(f"{v:.3f}" for v in row.tolist()) + "." for name, row in share.items())
    + f" Calibrated: {1 / (K + 1):.3f} each.",
    xlabel="samples below the truth",
    ylabel="share of the pixels",
    ylim=(0, None),
    height=330,
)

# %%
b = drawn_faces.var(0).mean().item()
a = (drawn_faces.mean(0) - known).square().mean().item() - b / K
regressed = (meant - known).square().mean().item()
print(
    f"squared error: one sample {(drawn_faces[0] - known).square().mean():.4f}, regression {regressed:.4f}, a + b/K with a = {a:.4f}, b = {b:.4f}, b/a = {b / a:.2f}"
)
print(
    f"rank histogram: {ranks.verdict()}, spread {ranks.spread:.2f} +- {ranks.spread_std:.2f}, tilt {ranks.tilt:+.3f} +- {ranks.tilt_std:.3f}"
)

# %% [markdown]
# Read the ranks first. Over all pixels the histogram is nearly flat, with a small bump in the middle, and the verdict is "calibrated". But most pixels are walls and cheeks, where nearly everything is known. Now take the tenth of the pixels where the eight images differ most: eyes, mouths, hair lines. There it is a bowl: the truth is the
# highest or the lowest of eight too often, so the samples are *too alike*. The squared errors, which such pixels dominate, say the same: $b < a$. So a verdict over all pixels hides the fault: it averages easy pixels with the tenth that matters. (The sampler draws $\tilde\beta$'s noise, η = 1, in only 20 steps; in section 3 that
# combination narrowed the samples too.) Here we asked 24 faces; `benchmarks/calibration.py` asks 500.
#
# One sample is farther from the truth than the regression, and yet the mean of many samples ($a$) beats our regression. A perfect regression could not be beaten; ours is short of it, as its mottled walls show.
#
# <details><summary><b>Question.</b> What rank histogram has the regression, used as a sampler?</summary>
#
# All its "samples" are equal, so the truth lies below or above all of them: ranks 0 and K only. A perfect mean, and the worst possible sense of its own doubt.
# </details>
#
# ## 10. Photos
#
# ### How many calls?

# %%
places = (("astronaut", 90, 180), ("flower", 150, 250), ("china", 60, 200))
pieces = [cut(*place, size=80) for place in places]
hrs, lrs = (torch.cat(part) for part in zip(*pieces, strict=True))
baseline = super_resolve(lrs, method="regression")
budgets = (3, 5, 10, 20, 40)
swept = {n: enlarge(lrs, steps=n).clamp(0, 1) for n in budgets}
texture = [sliced_wasserstein(swept[n], hrs, projections=64).mean().item() for n in budgets]
exactness = [psnr(swept[n], hrs, crop=4).mean().item() for n in budgets]
flat = sliced_wasserstein(baseline, hrs, projections=64).mean().item(), psnr(baseline, hrs, crop=4).mean().item()
plots.strip(
    [
        plots.curves(
            budgets,
            {"SR3": values},
            horizontal={"regression": line},
            title=title,
            alt=f"{title.replace('$', '')} of SR3 with 3, 5, 10, 20 and 40 calls, and of regression.",
            xlabel="network calls",
            width=460,
            height=300,
        )
        for title, values, line in (
            ("distance of textures (sliced $W_1$)", texture, flat[0]),
            ("PSNR (dB)", exactness, flat[1]),
        )
    ],
    title="More calls: richer texture, lower PSNR",
    alt="Two panels against the number of network calls. Distance of textures to the original: "
    + ", ".join(f"{v:.4f} with {n}" for n, v in zip(budgets, texture, strict=True))
    + f"; regression {flat[0]:.4f}. PSNR: "
    + ", ".join(f"{v:.2f} dB with {n}" for n, v in zip(budgets, exactness, strict=True))
    + f"; regression {flat[1]:.2f} dB.",
)

# %% [markdown]
# Three calls give SR3's best PSNR and poorest texture, and are worse than the regression in both. Every further call lets the samples spread, and both curves fall: the textures come nearer to those of photos, and PSNR pays for it, as chapter 02 said it must along the perception–distortion plane. Up to 40 calls neither curve flattens.
# The honest test is the left line: with our 20 calls SR3 is still just above the regression, with 40 just below, on three small pieces. `benchmarks/quality.py` asks it on three test sets. A network that leaves grain pays for it in both panels.
#
# ### Play
#
# Steps and noise against one photo. `noise` is $\eta$: 0 is DDIM, 1 draws the whole of DDPM's $\tilde\beta$ noise at every step. Look for grain, hatching and blur, at 3 steps and at 30.

# %%
scenes = {name: cut(name, top, left, size=72) for name, top, left in places}


def draw_photo(steps=20, noise=ETA["sr3"], seed=0, piece="flower"):
    """SR3 with so many steps and so much noise, between the bicubic enlargement and the original."""
    hr, lr = scenes[piece]
    sr = enlarge(lr, steps, noise, seed).clamp(0, 1)
    away, sharp = sliced_wasserstein(sr, hr, projections=32).item(), (sharpness(sr) / sharpness(hr)).item()
    words = f"textures {away:.4f}, sharpness {sharp:.2f}, {psnr(sr, hr, crop=4).item():.1f} dB"
    return plots.image_grid(
        [resize(lr, 4).clamp(0, 1), sr, hr],
        ["bicubic", "SR3", "original"],
        title=f"{steps} steps, noise {noise:g}: {words}",
        alt=f"Three pictures: bicubic enlargement, SR3 with {steps} steps and noise {noise:g}, the original. {words}.",
        zoom=2,
    )


widgets.explorer(draw_photo, steps=(2, 40, 1, 10), noise=(0.0, 1.0, 0.1, 1.0), seed=(0, 9, 1), piece=list(scenes))

# %%
widgets.frames(
    draw_photo,
    [{"steps": 3, "noise": 1.0}, {"steps": 20, "noise": 0.0}, {"steps": 20, "noise": 0.7}, {"steps": 20, "noise": 1.0}],
    title="Few steps blur; more steps without noise leave blotches; noise softens them",
    alt="Four strips, each with the bicubic enlargement, SR3 and the original of a flower. Three steps with noise 1: soft, little detail. 20 steps without noise: strong mottled patterns; with noise 0.7 and 1: progressively softer and less mottled.",
    columns=2,
)

# %% [markdown]
# Fresh noise is a second chance: what one step painted wrongly, later steps may overpaint. Here more noise means fewer blotches and higher PSNR. But look at the texture score: it prefers the blotches of noise 0, since it compares statistics and does not ask whether texture is in the right place. `benchmarks/sr3.py` compares
# such noises on two grids, and counts grain on flat areas too; we chose noise 1 because its grain there is the least.
#
# ### Consistency
#
# On the exact pair SR3 never contradicted its LR image. A learned network does, a little. Shrink the answer again and compare; and repair it with the least change that makes it exact, $y + A^{+}(x - A y)$ (chapter 01).

# %%
operator = Bicubic(4)
raw = swept[20]
repaired = (raw + operator.pinv(lrs - operator(raw))).clamp(0, 1)
print(f"{'':22} LR-PSNR   PSNR   textures")
for name, sr in {
    "bicubic": resize(lrs, 4).clamp(0, 1),
    "regression": baseline,
    "SR3": raw,
    "SR3, repaired": repaired,
}.items():
    scores = (
        lr_consistency(sr, lrs, 4).mean(),
        psnr(sr, hrs, crop=4).mean(),
        sliced_wasserstein(sr, hrs, projections=64).mean(),
    )
    print(f"{name:22} {scores[0]:5.1f} dB {scores[1]:5.2f} dB  {scores[2]:.4f}")

# %% [markdown]
# Regression and SR3 explain the LR image better than bicubic interpolation does, although nobody asked them to; the projection makes it exact (up to clipping to [0, 1]), and costs nothing else. So the repair is safe. It is not a repair of content: every image that shrinks to the same $x$ passes this test.
#
# ### Hallucination
#
# Consistency is not truth. Everything in the null space of $A$ may be invented, and a sample does not say which of its details are known. Only several samples do.

# %%
hr_one, lr_one = pieces[0]
several = enlarge(lr_one.repeat(6, 1, 1, 1), seed=50).clamp(0, 1)
scatter = several.std(0).mean(0, keepdim=True)
off = (several.mean(0) - hr_one[0]).abs().mean(0, keepdim=True)
plots.image_grid(
    [*several[:3], hr_one[0], 4 * scatter.expand(3, -1, -1), 4 * off.expand(3, -1, -1)],
    ["sample 1", "sample 2", "sample 3", "original", "where samples differ", "where their mean errs"],
    title="One LR image, three answers, and two maps that do not agree",
    alt="Three SR3 samples of a smiling face: the same person each time, with different grain and spots along edges, and without clear teeth or lashes; and the original, which has both. A dim map of the standard deviation over six samples, and a map of the error of their mean, bright at the eyes and the mouth; both multiplied by four.",
    zoom=3,
    columns=3,
)

# %%
inside = ((several.amin(0) <= hr_one[0]) & (hr_one[0] <= several.amax(0))).double().mean()
print(
    f"the true value lies within the range of six samples at {inside:.0%} of the pixels; for a calibrated sampler at {5 / 7:.0%}"
)
print(f"correlation of the two maps: {torch.corrcoef(torch.stack([scatter.flatten(), off.flatten()]))[0, 1]:.2f}")

# %% [markdown]
# The LR face has 20×20 pixels: light, pose and colours are facts, most of the rest has to be invented. Our small network invents modestly: grain, spots along edges, another rim of an eye. Teeth and lashes it does not dare to draw in any sample. Look at the two maps. The samples hesitate a little everywhere, but the errors sit at the eyes and the mouth. Counted over all pixels the ranges look nearly calibrated, although at the teeth and eyes all samples are wrong together. The map of disagreement
# warns only of what the model is *unsure* about; what it gets wrong firmly shows up in the error alone, and outside a textbook nobody has that map. A larger network that has seen many more faces draws teeth and lashes convincingly, and there is just as little evidence for them in $x$. Hence three rules: never show a single sample where someone might take it for
# evidence; show where samples differ; and remember that agreement among samples is no evidence either.
#
# <details><summary><b>Question.</b> What would happen if an expert, shown sample 2, "recognised" the person?</summary>
#
# Whatever evidence of identity there is lies in the 20×20 pixels already. The details that sample 2 adds come from the network's training photos and are evidence of nobody.
# </details>
#
# ## 11. Cascades, and why they spoil their own input
#
# Two steps of ×2 instead of one of ×4: each model solves an easier task, half of the calls run on a small image, and stages can be trained apart. The catch: stage two was trained on true LR images and gets the answer of stage one. Whatever that invents, stage two believes.
#
# **Conditioning augmentation** (CDM, Ho et al. 2021; SR3+) therefore trains stage two on *spoilt* LR images, tells it how spoilt, and spoils the answer of stage one in the same way:
#
# $$\tilde x = \sqrt{\gamma}\,\hat x + \sqrt{1-\gamma}\;n .$$
#
# What does it buy? Look at one frequency of the image. Let the truth there be $x \sim N(0, P)$ (in this section $x$ is the truth that stage one was to find, not the given LR image), and let stage one add an error of variance $e^2$, independent of $x$ (a simplification). A perfect stage two, told $\gamma$, draws from $p(x \mid \tilde x)$ of a world without stage one's error. Work it out with
# the **trust** $\kappa$ (→ Exercise 09.5 for the code):
#
# $$\kappa = \frac{\gamma P}{\gamma P + 1 - \gamma}, \qquad \underbrace{\operatorname{Var}(\text{output}) - P = \kappa^2 e^2}_{\text{law}}, \qquad \underbrace{\mathbb E(\text{output} - x)^2 = 2P(1-\kappa) + \kappa^2 e^2}_{\text{truth}} .$$
#
# With $\gamma = 1$ stage two repeats every error. The more it is spoilt, the less of stage one's error survives, and the less of its information. We check both formulas with the sampler itself.

# %% tags=["nbval-check-output"]
one = Gaussian(torch.zeros(1, dtype=double), torch.eye(1, dtype=double))
identity, e = torch.eye(1, dtype=double), 0.5


def two_stages(noise, gamma):
    """(output, truth): the truth, stage one's error, augmentation, and stage two's 80 steps, all from one noise source."""
    truth = noise(torch.zeros(1, 1, dtype=double))
    shown = augment(truth + e * noise(truth), gamma, noise) / math.sqrt(gamma)
    stage_two = conditional_denoiser(one, identity, math.sqrt((1 - gamma) / gamma), paper)
    grid = uniform_times(80, t_min=1 / 2000)
    out = last(ddpm(with_condition(stage_two, shown), paper, noise(truth), grid, variance="beta", noise=noise))
    return torch.cat([out, out - truth], 1)


for gamma in (0.99, 0.8, 0.5):
    _, found_law = affine_law(lambda noise, gamma=gamma: two_stages(noise, gamma), 2)
    kappa = gamma  # P = 1
    assert_close(
        found_law.diagonal(),
        torch.tensor([1 + kappa**2 * e**2, 2 * (1 - kappa) + kappa**2 * e**2], dtype=double),
        rtol=0.03,
        atol=0,
    )
    print(
        f"gamma = {gamma:.2f}: variance {found_law[0, 0]:.3f} (a perfect cascade: 1), squared distance from the truth {found_law[1, 1]:.3f}"
    )

# %%
frequency = torch.arange(1, 33, dtype=double)
power = 4 / frequency**2  # photos have far more power in coarse structure
trust = {g: g * power / (g * power + 1 - g) for g in (0.9999, 0.99, 0.9)}
plots.curves(
    frequency,
    {f"$\\gamma$ = {g}": kappa for g, kappa in trust.items()},
    title="Spoilt a little, stage two still trusts coarse structure, and makes its own fine detail",
    alt="Trust kappa against spatial frequency from 1 to 32 for photos whose power falls with the square of the frequency. "
    + " ".join(
        f"Gamma {g}: {kappa[0]:.2f} at frequency 1, {kappa[7]:.2f} at 8, {kappa[-1]:.2f} at 32."
        for g, kappa in trust.items()
    ),
    xlabel="spatial frequency",
    ylabel="trust $\\kappa$ in stage one",
    ylim=(0, 1.05),
    height=320,
)

# %% [markdown]
# In an image the trust differs from frequency to frequency, because $P$ does. A little noise drowns only what is weak in the condition, its fine detail, and that is where stage one is most likely to be wrong, and where stage two can invent for itself. That is the whole trick, and its price: fine detail that stage one had right is thrown away as well.
#
# <details><summary><b>Question.</b> What would happen if stage two were trained with spoilt conditions but not told how spoilt they are?</summary>
#
# It would have to trust all of them alike: a true LR image too little, a bad one too much. Told $\gamma$, one network serves every level, and the best one can be searched after training, like a ladder.
# </details>
#
# Our cascade uses one network for both stages, a small model at ×2, and spoils its own answer with noise of size 0.02 (in state units) in between:

# %%
chained = super_resolve(lrs, method="sr3-cascade")
print(f"{'':12} LR-PSNR   PSNR   textures  sharpness")
for name, sr in {"regression": baseline, "SR3": raw, "cascade": chained, "original": hrs}.items():
    scores = (
        lr_consistency(sr, lrs, 4).mean(),
        psnr(sr, hrs, crop=4).mean(),
        sliced_wasserstein(sr, hrs, projections=64).mean(),
    )
    print(
        f"{name:12} {scores[0]:5.1f} dB {scores[1]:5.2f} dB  {scores[2]:.4f}  {(sharpness(sr) / sharpness(hrs)).mean():.2f}"
    )
plots.image_grid(
    torch.cat([baseline, raw, chained, hrs]),
    [name if i == 0 else "" for name in ("regression", "SR3", "cascade", "original") for i in range(3)],
    title="One stage of x4 and two of x2",
    alt="Four rows of three pieces: a face, a flower and a temple roof, by regression, by SR3, by the cascade of two stages, and the originals. Regression is smooth; SR3 and the cascade are grainy and mottled, the cascade more blurred; the originals have fine detail.",
    zoom=2,
    columns=3,
)

# %% [markdown]
# Compare the columns. LR-PSNR: the cascade saw the LR image only through its first stage, and contradictions add up. Textures and sharpness: in principle stage two draws the finest detail at its own scale; ours, trained a third as long, is the worst of the three in both. And regression has the steepest edges: `sharpness`
# looks only at the steepest places and leaves grain out, so it does not reward SR3's grain. Nor is it cheaper: its first ten calls run on a quarter of the pixels, but its network works on a finer grid than SR3's, and in all it needs more multiplications (`benchmarks/quality.py --costs`). That a cascade *can* be trained in parts is what made 1024×1024 faces possible in the paper (64 to 256 to 1024 with two SR3 models).
#
# ## 12. Ask people
#
# SR3's main evidence was a **two-alternative forced choice**: a person sees the original and the model's answer for three seconds and must say which is the photo (task 2) or which is the better version of the LR image shown between them (task 1). The **fool rate** is the share of answers for the model; 50 % means that nobody can tell.
# Take the test: the first image of each pair is the model's, and sides are shuffled. At the end you get your fool rates with intervals.

# %%
contest = [
    cut(name, top, left, size=64)
    for name in ("chelsea", "china", "astronaut", "flower")
    for top, left in ((60, 100), (130, 220), (190, 60))
]
contest_hr, contest_lr = (torch.cat(part) for part in zip(*contest, strict=True))
entries = {
    "regression": super_resolve(contest_lr, method="regression"),
    "SR3": enlarge(contest_lr, seed=20).clamp(0, 1),
}
pairs = {
    f"{name}, piece {i + 1}": (sr[i : i + 1], contest_hr[i : i + 1])
    for name, sr in entries.items()
    for i in range(0, 12, 3)
}
widgets.preference(pairs, repeats=1, zoom=4)

# %% [markdown]
# Without you, two robots sit the test on all twelve pieces. One has no taste but for crisp edges: it picks the sharper image. The other asks which explains the LR image better. They are caricatures of the paper's two tasks, and they show how much a fool rate depends on the question.

# %%
coin = torch.rand(12, generator=torch.Generator().manual_seed(0)) < 0.5


def sharper(sr):
    """Which of the model's images the first robot takes for the original."""
    return sharpness(sr) > sharpness(contest_hr)


def more_consistent(sr):
    """The second robot sees no difference in the LR image beyond 40 dB; then it tosses a coin."""
    return torch.where(lr_consistency(sr, contest_lr, 4) < 40, False, coin)


for question in (sharper, more_consistent):
    for name, sr in entries.items():
        trials = widgets.Trials([name], repeats=12)
        for fooled in question(sr).tolist():
            trials.answer(int(fooled))
        share, low, high = trials.preferred(name)
        print(f"{question.__name__:16} {name:11} fool rate {share:4.0%} (95 % interval {low:.0%} to {high:.0%})")

# %% [markdown]
# The first robot is fooled once by regression and three times by SR3; the intervals overlap widely, so it has shown no difference. The second found every answer of both consistent beyond 40 dB, so it only tossed its coin: the same heads for both. Twelve answers leave most questions open. To tell a fool rate of 47 % from 50 % takes over a thousand (→ Exercise 09.8); the paper used 50 people with 50 images each.
#
# ## 13. The original's numbers beside ours
#
# | | SR3 (arXiv:2104.07636) | here | what follows |
# |---|---|---|---|
# | photos ×4 | 64×64 to 256×256, ImageNet | any size, 400 photos of BSDS500 | ours has seen a tiny part of what photos can show |
# | network | 625 million parameters, attention | under 2 million, no attention, works in tiles | no objects, only textures and edges |
# | training | 1 million steps, batch 256 | thousands of steps, batch 16 | ours starts from what can be known without learning (section 8) |
# | loss | $p$ = 1 or 2 on $\epsilon$, weight 1 | $p$ = 2, weighted towards noisy levels | a short training must be spent where structure is decided |
# | ladder | $T = 2000$; at most 100 steps, searched with FID | continuous levels; 20 steps | the told level makes both possible |
# | variance | $\beta$ | all of $\tilde\beta$ (η = 1) | in few steps, less noise to clear away, but narrower samples (section 3) |
# | PSNR against regression, ×4 | 26.4 against 27.9 dB | section 10 | both lose PSNR, as $a + b$ must |
# | faces | 16×16 to 128×128: fool rate close to 50 %, GANs at most 34 % | 8×8 to 32×32 drawings | yours to measure (section 12) |
# | photos, forced choice | close to 40 % | yours to measure | a small model will be found out |
# | consistency, faces | MSE $2.68\cdot10^{-5}$, regression $2.71\cdot10^{-5}$ | photos, section 10 | for pixels in [0, 1] theirs is 45.7 dB |
#
# Three remarks on reading such tables. PSNR of ImageNet and of our pieces cannot be compared: other images, other colour channel, other border. A fool rate belongs to its question, its viewing time and its people. And the authors' own verdict stands: they found evidence of dropped modes and skin without moles or piercings, and say that SR3
# should not be used for real tasks until such biases are understood. Nor should ours.
#
# > **Common mistakes**
# >
# > - Mixing the meanings of $\alpha_t$ (section 4).
# > - Training on $\sqrt\gamma$ and sampling with $\gamma$, or the reverse.
# > - Adding noise to the LR image: the noise of the diffusion belongs to the HR state alone. (Augmentation is another noise, with its own level, told to the network.)
# > - Another upsampling for the condition than in training.
# > - Betas of the long ladder in a short chain (chapter 04).
# > - Noise at the last step; a single $t$ for a whole batch.
# > - Judging samples by PSNR alone, or by one lucky sample.
# > - A search or a fool rate quoted without its interval.
#
# > **In the papers**
# >
# > - SR3 (arXiv:2104.07636): training on levels between rungs after WaveGrad (arXiv:2009.00713); 16×16 to 128×128 faces with PSNR 23.04 and SSIM 0.65, its regression twin 23.96 and 0.69; on ImageNet ×4 FID 5.2 against 15.2 of regression. Two-stage class-conditional 256×256 images reach FID 11.3; without blurring the LR image in training 13.1; with $p = 2$ 11.8.
# > - CDM (arXiv:2106.15282): cascades with conditioning augmentation, FID 4.88 on ImageNet 256×256.
# > - SR3+ (arXiv:2302.07864): SR3 for photos of unknown degradation, with noise on the condition in training and at test time.
# > - A widely used public port feeds $\sqrt\gamma$, and adds $\tilde\beta$'s noise instead of $\beta$'s (its README says so).
#
# > **Going further**
# >
# > - Condition on more than the enlargement: features, a first guess, words (chapter 10). Diffuse the residual or wavelets instead of the photo (chapter 11).
# > - One pixel pair and a median: is there a loss that keeps the shares *and* the sharpness?
#
# Eight [exercises](../exercises/09_sr3.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Sample:** one loop; on a Gaussian pair its law equals the hand recursion and approaches $p(y \mid x)$ at first order.
# 2. **Translate:** keep, add, amplitude. A wrong mean explodes, a wrong noise does not, so compare with a second derivation.
# 3. **Train:** levels between the rungs, told to the network; an index belongs to one ladder only. The absolute error favours what is common.
# 4. **Cut:** any ladder may be chosen afterwards; a search costs samples, not training.
# 5. **Compare:** one sample costs twice the mean's squared error; ranks say whether samples vary enough; consistency can be repaired, truth cannot.
# 6. **Chain:** augmentation trades information for a right law, frequency by frequency.
# 7. **Ask:** a fool rate has a question and an interval.
#
# Next: conditions other than a small photo, and how hard to listen to them.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Saharia, Ho, Chan, Salimans, Fleet, Norouzi, *Image Super-Resolution via Iterative Refinement*, arXiv:2104.07636.
# - Chen et al., *WaveGrad: Estimating Gradients for Waveform Generation*, arXiv:2009.00713.
# - Ho, Saharia, Chan, Fleet, Norouzi, Salimans, *Cascaded Diffusion Models for High Fidelity Image Generation*, arXiv:2106.15282.
# - Sahak, Watson, Saharia, Fleet, *Denoising Diffusion Probabilistic Models for Robust Image Super-Resolution in the Wild* (SR3+), arXiv:2302.07864.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv:2006.11239.
# - Brock, Donahue, Simonyan, *Large Scale GAN Training for High Fidelity Natural Image Synthesis* (BigGAN), arXiv:1809.11096.
