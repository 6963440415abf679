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
# # Solutions 04: Denoising diffusion probabilistic models
#
# Eight functions, from a warm-up to a small research question. Each cell asks for a few lines; run it, then run the check below it. The check draws
# fresh inputs and answers in one line. They belong to [chapter 04](../notebooks/04_ddpm.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# A table `betas` is (T,), and `betas[0]` belongs to step $k = 1$, the one next to the data. $\bar\alpha_k$ is the product of the first $k$ factors $1 - \beta$.
# `noise` is a source: `noise(like)` draws $N(0, 1)$ numbers shaped like `like`. States are in state units, tables in float64.

# %%
import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for
from tutorial_lib.samplers import ddpm, last
from tutorial_lib.schedules import from_betas, vp_cosine

# %% [markdown]
# ## Exercise 04.1: The jump (warm-up)
#
# Return the state, shaped like `z_0`, after `k` steps ($1 \le k \le T$) of the chain with the table `betas`, started at `z_0`, with `eps` (shaped like `z_0`) as its noise.


# %%
def jump(z_0, betas, k, eps):
    """z_k for z_0 of any shape; betas (T,), k an int."""
    ### BEGIN SOLUTION
    kept = (1 - betas[:k]).prod()
    return kept.sqrt() * z_0 + (1 - kept).sqrt() * eps
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.1", jump)

# %% [markdown]
# ## Exercise 04.2: The posterior, on any schedule
#
# Complete the square yourself: return mean (shaped like `z_t`) and variance (a number, not its root) of $z_s$ given $z_t$ and $z_0$. The four numbers describe a step from $t$ back to $s$
# of a schedule that need *not* satisfy $\alpha^2 + \sigma^2 = 1$.
#
# *Hint*: $z_t = a z_s + \sqrt\beta\,\varepsilon$. Find $a$ and $\beta$ first.


# %%
def posterior(z_t, z_0, alpha_t, sigma_t, alpha_s, sigma_s):
    """(mean, variance) of z_s given z_t and z_0."""
    ### BEGIN SOLUTION
    a = alpha_t / alpha_s
    beta = sigma_t**2 - a**2 * sigma_s**2
    precision = a**2 / beta + 1 / sigma_s**2
    return (a * z_t / beta + alpha_s * z_0 / sigma_s**2) / precision, 1 / precision
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.2", posterior)

# %% [markdown] tags=["solution"]
# This is the form before move 2: certainties add, and the mean weighs each witness by its certainty. It breaks at $\sigma_s = 0$, where one witness is infinitely sure; the
# chapter's form, with everything multiplied out, does not.

# %% [markdown]
# ## Exercise 04.3: The weights that were dropped
#
# `kept` (T,) holds $\bar\alpha_1 > \dots > \bar\alpha_T$ of a variance-preserving chain. For its steps $k = 2, \dots, T$ (from $t = k$ to $s = k - 1$) return the factor of $\|\varepsilon - \hat\varepsilon\|^2$ in the
# KL term of the bound, shape (T - 1,), when the reverse step has the variance $\tilde\beta$.


# %%
def bound_weights(kept):
    """(T,) -> (T - 1,), for steps 2 to T."""
    ### BEGIN SOLUTION
    snr = kept / (1 - kept)
    return 0.5 * (snr[:-1] / snr[1:] - 1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.3", bound_weights)

# %% [markdown] tags=["solution"]
# The paper prints the same number as $\frac{\beta_t^2}{2\sigma_t^2(1 - \beta_t)(1 - \bar\alpha_t)}$, where its $\sigma_t^2$ is the variance of the reverse step. Put $\tilde\beta$ there and
# simplify: the signal-to-noise form says in one line that only the *ratio* of the SNRs at the two ends matters.

# %% [markdown]
# ## Exercise 04.4: The loss
#
# Return $L_{\text{simple}}$ for the batch `z_0` (B, C, H, W), a number: the mean, over everything, of the squared error of `network(z, t)`, which predicts the noise. `t` (B,) holds one time for each sample, `schedule` has
# `.alpha(t)` and `.sigma(t)`, both (B,). Draw with `noise(z_0)`, exactly once (a `torch.randn` of your own cannot be compared).


# %%
def simple_loss(network, z_0, schedule, t, noise):
    """E |eps - network(alpha_t z_0 + sigma_t eps, t)|^2 over the batch."""
    ### BEGIN SOLUTION
    eps = noise(z_0)
    alpha, sigma = schedule.alpha(t).view(-1, 1, 1, 1), schedule.sigma(t).view(-1, 1, 1, 1)
    z = alpha * z_0 + sigma * eps
    return (network(z, t) - eps).square().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.4", simple_loss)

# %% [markdown]
# ## Exercise 04.5: The sampler
#
# DDPM's algorithm 2. Start from `z` at step $k = T$ and return the sample. `eps_model(z, k)` predicts the noise in the state after $k$ steps ($k$ an int from $T$ to 1). Each step but the last draws afresh, with `noise(z)`. Use the variance $\beta$ (not $\tilde\beta$):
#
# $$z_{k-1} = \frac{1}{\sqrt{1 - \beta_k}}\Big(z_k - \frac{\beta_k}{\sqrt{1 - \bar\alpha_k}}\,\hat\varepsilon\Big) + \sqrt{\beta_k}\;\varepsilon, \qquad \text{without noise at } k = 1.$$


# %%
def sample(eps_model, betas, z, noise):
    """The sample, shaped like z."""
    ### BEGIN SOLUTION
    kept = (1 - betas).cumprod(0)
    for k in range(len(betas), 0, -1):
        beta = betas[k - 1]
        z = (z - beta / (1 - kept[k - 1]).sqrt() * eps_model(z, k)) / (1 - beta).sqrt()
        if k > 1:
            z = z + beta.sqrt() * noise(z)
    return z
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.5", sample)

# %% [markdown]
# When the check passes, compare with the library: an eps-model made from the exact denoiser of $N(0, \tfrac14)$ must give `ddpm(..., variance="beta")` the same numbers.

# %% tags=["solution", "nbval-check-output"]
betas = torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)
chain = from_betas(betas)
exact = denoiser_for(Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double()), chain)
times = torch.arange(100, -1, -1, dtype=torch.float64) / 100


def exact_eps(z, k):
    return (z - chain.alpha(k / 100) * exact(z, k / 100)) / chain.sigma(k / 100)


start = standard_normal(0)(torch.zeros(5, 1, dtype=torch.float64))
ours = sample(exact_eps, betas, start, standard_normal(1))
library = last(ddpm(exact, chain, start, times, variance="beta", noise=standard_normal(1)))
torch.testing.assert_close(ours, library)
print("equal to the library, hundred steps:", torch.allclose(ours, library))

# %% [markdown]
# ## Exercise 04.6: Skipping steps
#
# A chain with the table `betas` (T,) shall visit only some steps: `visited` (n,), increasing step numbers between 1 and T (step numbers, so `visited - 1` are indices). The short chain starts from the clean data too. Return its betas, a tensor (n,), noisiest last.


# %%
def respaced(betas, visited):
    """(T,), (n,) -> (n,)"""
    ### BEGIN SOLUTION
    kept = (1 - betas).cumprod(0)[visited - 1]
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    return 1 - kept / before
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.6", respaced)

# %% [markdown]
# ## Exercise 04.7: The right variance, read off the loss
#
# Section 6 needed $\operatorname{Var}[z_0 \mid z_t]$, which nobody knows for faces. But a well-trained network knows something: its loss. Let `loss` be the mean squared error *per number* of its $\hat\varepsilon$ at
# time $t$. If the network is perfect, $\hat\varepsilon = \mathbb E[\varepsilon \mid z_t]$, and the loss is a variance in disguise. Return the average of $\operatorname{Var}[z_s \mid z_t]$, a number, for the step from $t$ to $s$ of any schedule.


# %%
def right_variance(loss, alpha_t, sigma_t, alpha_s, sigma_s):
    """Mean variance of one number of z_s given z_t."""
    ### BEGIN SOLUTION
    beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    unknown = (sigma_t / alpha_t) ** 2 * loss  # Var[z_0 | z_t], for z_0 = (z_t - sigma_t eps) / alpha_t
    return beta * sigma_s**2 / sigma_t**2 + (alpha_s * beta / sigma_t**2) ** 2 * unknown
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.7", right_variance)

# %% [markdown] tags=["solution"]
# Given $z_t$, the only thing unknown about $z_0 = (z_t - \sigma_t\varepsilon)/\alpha_t$ is $\varepsilon$, so $\operatorname{Var}[z_0 \mid z_t] = (\sigma_t/\alpha_t)^2\operatorname{Var}[\varepsilon \mid z_t]$, and the mean of the last variance is the loss of the perfect network. This is the idea of Analytic-DPM
# (arXiv 2201.06503): no extra output, no extra training. A network that is *not* perfect has a larger loss, so the variance comes out too large.
#
# For data $N(0, \tfrac14)$ the best loss is $\alpha_t^2/4 \,/\, (\alpha_t^2/4 + \sigma_t^2)$. Does it give the truth?

# %% tags=["solution", "nbval-check-output"]
cosine = vp_cosine()
t, s = 0.6, 0.3
alpha_t, sigma_t, alpha_s, sigma_s = cosine.alpha(t), cosine.sigma(t), cosine.alpha(s), cosine.sigma(s)
best = alpha_t**2 / 4 / (alpha_t**2 / 4 + sigma_t**2)
spread_s, spread_t = alpha_s**2 / 4 + sigma_s**2, alpha_t**2 / 4 + sigma_t**2
truth = spread_s - (alpha_t / alpha_s * spread_s) ** 2 / spread_t  # conditioning the Gaussian pair (z_s, z_t)
print(f"from the loss {right_variance(best, alpha_t, sigma_t, alpha_s, sigma_s):.6f}, exact {truth:.6f}")

# %% [markdown]
# ## Exercise 04.8: The law of a whole chain (research-like)
#
# The data are numbers from $N(m, v)$, the denoiser is exact, $\hat z_0 = m + g\,(z_t - \alpha_t m)$ with $g = \alpha_t v/(\alpha_t^2 v + \sigma_t^2)$, and the sampler is that of 04.5 (variance $\beta$), started from $N(0, 1)$. Then every state is Gaussian. Follow its mean and
# its variance through the chain and return both (numbers) for the sample.
#
# *Hint*: with $\tilde\mu$ from section 3 a step reads $z_{k-1} = A z_k + B\hat z_0 + \sqrt{\beta_k}\,\varepsilon$. Insert $\hat z_0$.


# %%
def law_of_chain(mean, variance, betas):
    """(mean, variance) of the sample."""
    ### BEGIN SOLUTION
    kept = torch.cat([torch.ones(1, dtype=betas.dtype), (1 - betas).cumprod(0)])
    m, v = 0.0, 1.0
    for k in range(len(betas), 0, -1):
        alpha_t, gone_t, alpha_s, gone_s = kept[k].sqrt(), 1 - kept[k], kept[k - 1].sqrt(), 1 - kept[k - 1]
        gain = alpha_t * variance / (alpha_t**2 * variance + gone_t)
        keep, use = alpha_t / alpha_s * gone_s / gone_t, alpha_s * betas[k - 1] / gone_t
        m = keep * m + use * (mean + gain * (m - alpha_t * mean))
        v = (keep + use * gain) ** 2 * v + (betas[k - 1] if k > 1 else 0)
    return m, v
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("04.8", law_of_chain)

# %% [markdown]
# Now use it. With $T = 100$ steps and betas that rise linearly from $10^{-4}$, how large must the largest be? Too small, and you are in the trap; too large, and the steps become coarse. Draw error against largest beta for $N(0.5, \tfrac14)$.

# %% tags=["solution"]
largest = torch.linspace(0.01, 0.2, 39, dtype=torch.float64)
laws = [law_of_chain(0.5, 0.25, torch.linspace(1e-4, top.item(), 100, dtype=torch.float64)) for top in largest]
plots.curves(
    largest,
    {
        "|mean - 0.5|": [abs(m - 0.5) for m, _ in laws],
        "|variance - 0.25|": [abs(v - 0.25) for _, v in laws],
    },
    title="T = 100: a larger last beta cures the mean; the variance keeps the error of coarse steps",
    alt="Absolute errors of mean and variance against the largest beta from 0.01 to 0.2, logarithmic. The error of the mean falls steadily from above 0.1 "
    "to below 0.001 at 0.1 and 0.000003 at 0.2. The error of the variance is least, 0.005, near 0.05 and grows slowly to 0.009.",
    xlabel="largest beta",
    ylabel="error",
    logy=True,
    height=340,
)

# %% tags=["solution", "nbval-check-output"]
table = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)
trap = from_betas(table)
data = Gaussian(torch.tensor([0.5]).double(), torch.tensor([[0.25]]).double())


def run(noise):
    z = noise(torch.zeros(1, 1, dtype=torch.float64))
    return last(ddpm(denoiser_for(data, trap), trap, z, times, variance="beta", noise=noise))


probed = [part.item() for part in affine_law(run, 1)]
ours = [float(part) for part in law_of_chain(0.5, 0.25, table)]
print(f"recursion: mean {ours[0]:.6f}, variance {ours[1]:.6f}")
print(f"probe:     mean {probed[0]:.6f}, variance {probed[1]:.6f}")

# %% [markdown] tags=["solution"]
# The recursion and the probe, which knows nothing of it, agree. Questions to go on with: where does the error of the variance come from when the chain ends in noise? (Compare with the table in section 6.) Does the best largest beta change for $v = 1$, or for
# $v = 70$, the brightness direction of the album?
