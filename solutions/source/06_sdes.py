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
# # Solutions 06: Diffusion as a differential equation
#
# Eight functions, from one step of a random walk to a small research question. Write a few lines, run the cell, run the check
# below it: it draws fresh inputs and answers in one line. They belong to [chapter 06](../notebooks/06_sdes.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# States are tensors with the batch first. `noise(z)` gives standard normal numbers shaped like `z`. A `schedule` has `alpha(t)`, `sigma(t)`, `drift(t)`
# and `diffusion(t)`; a `denoiser(z, t)` returns $\mathbb E[z_0 \mid z_t = z]$.

# %%
import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, convergence_order, denoiser_for
from tutorial_lib.samplers import last, probability_flow, reverse_sde
from tutorial_lib.schedules import ve, vp_linear

# %% [markdown]
# ## Exercise 06.1: One step of an SDE (warm-up)
#
# Make one Euler–Maruyama step of $dz = f z\,dt + g\,dw$. `z` is (B, D); `f`, `g` and `dt` are numbers. `dt` may be negative: then you go back in time.
# Call `noise` once.


# %%
def sde_step(z, f, g, dt, noise):
    """The state (B, D) a time dt later, or earlier when dt < 0."""
    ### BEGIN SOLUTION
    return z + f * z * dt + g * abs(dt) ** 0.5 * noise(z)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.1", sde_step)

# %% [markdown] tags=["solution"]
# The drift knows a direction of time, the noise does not: a random walk looks the same in both.

# %% [markdown]
# ## Exercise 06.2: From a schedule to an SDE
#
# `alpha` and `sigma` are functions that map a float64 tensor `t` of shape (N,) to tensors of the same shape. Return the pair $(f, g)$, each (N,), of the SDE with these
# marginals. Use `torch.autograd.grad` on a copy of `t`; leave `t` itself alone.


# %%
def drift_and_diffusion(alpha, sigma, t):
    """(f, g) at the times t, each shaped like t."""
    ### BEGIN SOLUTION
    t = t.clone().requires_grad_()
    f = torch.autograd.grad(alpha(t).log().sum(), t)[0]
    growth = torch.autograd.grad((sigma(t) ** 2).sum(), t)[0]
    return f, (growth - 2 * f * sigma(t).detach() ** 2).sqrt()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.2", drift_and_diffusion)

# %% [markdown] tags=["solution"]
# Why `.sum()` before differentiating? `grad` wants one number. Since $\alpha(t_i)$ depends on $t_i$ alone, the gradient of the sum holds each slope in its place.

# %% [markdown]
# ## Exercise 06.3: The SDE inside a noise ladder
#
# `sigmas` (n + 1,) are rising noise levels of an NCSN ladder, at the times $0, 1/n, \dots, 1$. Return the diffusion $g$ that the chain has on each of the n intervals, (n,).


# %%
def ladder_diffusion(sigmas):
    """g on every interval of the ladder: (n + 1,) -> (n,)."""
    ### BEGIN SOLUTION
    return (torch.diff(sigmas**2) * (len(sigmas) - 1)).sqrt()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.3", ladder_diffusion)

# %% [markdown]
# When it passes, compare a geometric ladder with `ve().diffusion` at the middle of each interval: how many rungs until they agree to 1 %?

# %% tags=["solution", "nbval-check-output"]
for n in (10, 30, 100):
    knots = torch.linspace(0, 1, n + 1).double().clamp(min=1e-9)
    ladder = ladder_diffusion(ve().sigma(knots))
    gap = (ladder / ve().diffusion((knots[1:] + knots[:-1]) / 2) - 1).abs().max()
    print(f"{n:3} steps: largest relative difference {gap:.4f}")

# %% [markdown]
# ## Exercise 06.4: Backwards, with as much noise as you like
#
# You are at $z$ and go back by `dt` > 0. `score`, shaped like `z`, is $\nabla \log p_t(z)$ there; `f` and `g` are numbers. `strength` is $\lambda$: 0 is the probability-flow ODE, 1 the reverse SDE. Make one Euler–Maruyama step of the
# equation below. Mind that in it time falls: its $dt$ is minus your `dt`.
#
# $$dz = \Big[f z - \tfrac{1+\lambda^2}{2}\, g^2\, \text{score}\Big]\,dt + \lambda g\,d\bar w .$$


# %%
def backward_step(z, score, f, g, dt, strength, noise):
    """The state a time dt earlier."""
    ### BEGIN SOLUTION
    velocity = f * z - (1 + strength**2) / 2 * g**2 * score
    return z - velocity * dt + strength * g * dt**0.5 * noise(z)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.4", backward_step)

# %% [markdown] tags=["solution"]
# The whole family in one picture: Gaussian data of variance 0.25, 100 steps, and the variance that comes out for each strength. All are right up to the error of finite steps, and that error grows with
# the noise: $\lambda = 2$ shakes four times as hard as the forward process and pulls against it.

# %% tags=["solution", "nbval-check-output"]
vp = vp_linear()
for strength in (0.0, 0.5, 1.0, 2.0):
    z, noise = standard_normal(0)(torch.empty(20_000, 1, dtype=torch.float64)), standard_normal(1)
    times = torch.linspace(1, 0.001, 101).double()
    for t, s in zip(times[:-1], times[1:], strict=True):
        score = -z / (0.25 * vp.alpha(t) ** 2 + vp.sigma(t) ** 2)
        z = backward_step(z, score, vp.drift(t), vp.diffusion(t), t - s, strength, noise)
    print(f"strength {strength}: variance {z.var():.3f} +- {z.var() * (2 / 20_000) ** 0.5:.3f} (exact 0.250)")

# %% [markdown]
# ## Exercise 06.5: Heun
#
# Make one Heun step of the probability-flow ODE from time `t` to time `s` < `t`. `z` is (B, D); call the denoiser twice; the score is $(\alpha_t\,$`denoiser(z, t)`$\, - z)/\sigma_t^2$. `schedule.drift(t)` is $f$, `schedule.diffusion(t)` is $g$.


# %%
def heun_step(denoiser, schedule, z, t, s):
    """The state at time s, of the shape of z."""
    ### BEGIN SOLUTION

    def velocity(z, t):
        score = (schedule.alpha(t) * denoiser(z, t) - z) / schedule.sigma(t) ** 2
        return schedule.drift(t) * z - schedule.diffusion(t) ** 2 / 2 * score

    here = velocity(z, t)
    there = velocity(z + (s - t) * here, s)
    return z + (s - t) * (here + there) / 2
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.5", heun_step)

# %% [markdown]
# Then measure its order on a mixture of your choice, from $t = 0.6$ to $0.1$, with `convergence_order(error, [16, 32, 64])`. Use `solver="scipy"` as the referee.

# %% tags=["solution", "nbval-check-output"]
prior = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[-1.0], [0.7]]).double(), 0.05 * torch.ones(2, 1, 1))
denoiser, start = denoiser_for(prior, vp), torch.linspace(-2, 2, 21).double()[:, None]
referee = last(probability_flow(denoiser, vp, start, [0.6, 0.1], solver="scipy", rtol=1e-9, atol=1e-9))


def error(n):
    z, times = start, torch.linspace(0.6**0.5, 0.1**0.5, n + 1).double() ** 2  # not uniform
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = heun_step(denoiser, vp, z, t, s)
    return (z - referee).abs().mean().item()


print(f"order {convergence_order(error, [16, 32, 64]):.2f}")

# %% [markdown]
# ## Exercise 06.6: A corrector that minds its own sample
#
# Make one corrector step. `z`, `score` and `drawn` (the noise $n$, already drawn) are (B, C, H, W); `snr` is the number $r$.
#
# $$z + \epsilon\,\text{score} + \sqrt{2\epsilon}\;n, \qquad \epsilon = 2\,\big(r\,\lVert n\rVert / \lVert \text{score}\rVert\big)^2,$$
#
# with one $\epsilon$ for each sample. ($\epsilon$ is half of chapter 05's step $a$.)


# %%
def corrector_step(z, score, drawn, snr):
    """The corrected states (B, C, H, W)."""
    ### BEGIN SOLUTION
    lengths = [tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for tensor in (drawn, score)]
    size = 2 * (snr * lengths[0] / lengths[1]) ** 2
    return z + size * score + (2 * size).sqrt() * drawn
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.6", corrector_step)

# %% [markdown] tags=["solution"]
# The library's corrector also limits the step: near a mode the score vanishes and $\epsilon$ would explode. In 3072 dimensions that hardly ever happens, in one dimension all the time.

# %% [markdown]
# ## Exercise 06.7: A walk along the shell
#
# `a` and `b` are noise images (B, C, H, W), `w` is a number from 0 to 1. Return the spherical interpolation, with the angle of each pair measured over channels, rows and columns.


# %%
def slerp(a, b, w):
    """From a (w = 0) to b (w = 1): (B, C, H, W)."""
    ### BEGIN SOLUTION
    product = (a * b).sum((1, 2, 3), keepdim=True)
    lengths = (a.square().sum((1, 2, 3), keepdim=True) * b.square().sum((1, 2, 3), keepdim=True)).sqrt()
    omega = (product / lengths).arccos()
    return (((1 - w) * omega).sin() * a + (w * omega).sin() * b) / omega.sin()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.7", slerp)

# %% [markdown]
# Why does nobody notice linear interpolation in two dimensions? Plot the length of the midpoint of two random noise vectors, divided by the length of a noise vector, against the number of dimensions.

# %% tags=["solution"]
dimensions = [1, 2, 4, 8, 16, 64, 256, 1024, 3072]
ratios = []
for size in dimensions:
    pair = standard_normal(0)(torch.empty(2, 400, size))
    ratios.append(pair.mean(0).norm(dim=1) / pair[0].norm(dim=1).mean())
plots.curves(
    dimensions,
    {"midpoint of two noise vectors": [r.mean() for r in ratios]},
    bands={"midpoint of two noise vectors": [r.std() for r in ratios]},
    title="In many dimensions the midpoint is always too short, by the same factor",
    alt="Length of the midpoint relative to a noise vector against the number of dimensions from 1 to 3072. The mean stays near 0.7; the shaded spread, as wide as the "
    "mean in one dimension, shrinks to almost nothing at 3072.",
    xlabel="dimensions",
    ylabel="length of the midpoint, relative",
    horizontal={"$1/\\sqrt{2}$": 0.5**0.5},
    logx=True,
)

# %% [markdown] tags=["solution"]
# The average ratio is about $1/\sqrt2$ everywhere. In few dimensions lengths vary so much that a shorter vector is nothing special; in many, no noise vector has ever been that short.

# %% [markdown]
# ## Exercise 06.8: Where is the break-even? (research-like)
#
# Section 7: for Gaussian data of variance $v_0$ a wrong score at time $\tau$ hurts the reverse SDE $2\rho_\tau$ times as much as the ODE, where $\rho_\tau$ is the correlation of $z_0$ and $z_\tau$ and $v_\tau = \alpha_\tau^2 v_0 + \sigma_\tau^2$. Find the time $\tau$ at which
# both are hurt equally. Return a float, right to 0.001. ($\rho_\tau$ falls from 1 to nearly 0, so bisection works.)


# %%
def break_even(schedule, variance):
    """The time at which 2 rho = 1."""
    ### BEGIN SOLUTION
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        alpha, sigma = schedule.alpha(middle), schedule.sigma(middle)
        rho = alpha * (variance / (alpha**2 * variance + sigma**2)).sqrt()
        low, high = (middle, high) if rho > 0.5 else (low, middle)
    return low
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("06.8", break_even)

# %% [markdown]
# Test the claim with the samplers. Shift the score by a constant in a small window around your $\tau$, run both on a Gaussian with the noise set to zero (that gives the average), and compare where they end.

# %% tags=["solution", "nbval-check-output"]
tau = break_even(vp, 0.25)
exact = denoiser_for(Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double()), vp)


def misled(z, t, cond=None):
    inside = abs(float(t) - tau) < 0.02
    return exact(z, t) + inside * vp.sigma(t) ** 2 / vp.alpha(t)  # the score + 1


times = torch.cat([torch.linspace(tau + 0.03, 0.001, 600), torch.zeros(1)]).double()
origin = torch.zeros(1, 1, dtype=torch.float64)
ode = last(probability_flow(misled, vp, origin, times)).item()
sde = last(reverse_sde(misled, vp, origin, times, torch.zeros_like)).item()
print(f"break-even at t = {tau:.3f}: the ODE ends at {ode:.4f}, the SDE on average at {sde:.4f}; ratio {sde / ode:.2f}")

# %% [markdown] tags=["solution"]
# Questions to go on with. A network's score is usually worst where the loss weighs it least: where is that, before or after $\tau$? The family of exercise 06.4 interpolates between both: which $\lambda$ is best when the
# score is wrong at all times alike, and should $\lambda$ depend on $t$? (Karras et al., arXiv:2206.00364, add noise only in a middle range of noise levels, found by search.)
