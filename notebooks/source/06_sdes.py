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
# # 06 Diffusion as a differential equation
#
# DDPM takes a thousand steps, NCSN climbs down a ladder of ten. Let the steps become infinitely small and both turn into the
# same kind of object: an equation for how a cloud of points drifts and spreads. It can be run backwards, with noise or
# without, and the version without noise maps every image to a noise image and back.
#
# ## What you will be able to do
#
# 1. **Simulate** a stochastic differential equation in five lines, and check its mean and variance.
# 2. **Show** that DDPM and NCSN are discretisations of the VP and the VE SDE, and measure how fast the difference vanishes.
# 3. **Derive** drift and diffusion from a schedule, and catch a wrong factor of two.
# 4. **Reverse** the process, by the reverse SDE and by the probability-flow ODE, and show by numbers that both reach the same law.
# 5. **Choose** between them: what each forgives, what it costs, what a corrector repairs.
# 6. **Invert** a face into noise, bring it back, and walk from one face to another.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (forward chain, schedules) and [chapter 05](05_score_based_models.ipynb) (the score, Langevin steps).
# You need no stochastic calculus; one derivative and the normal distribution are enough.
#
# **Reading time**: 75 minutes. Running time: about 30 s on two cores.
# **Survey section**: III-C, stochastic differential equations (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/06_sdes.ipynb), worked in [solutions](../solutions/06_sdes.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_t$, $t \in [0, 1]$ | `z`, `t` | state at time $t$: 0 is data, 1 is noise; $z_t = \alpha_t z_0 + \sigma_t \epsilon$ with $\epsilon \sim N(0, I)$ |
# > | $\alpha_t$, $\sigma_t$ | `schedule.alpha`, `.sigma` | how much data and how much noise a state holds |
# > | $p_t$ | `prior.log_prob(z, alpha, sigma)` | density of $z_t$ |
# > | $f(t)\,z$, $g(t)$ | `schedule.drift`, `.diffusion` | drift and diffusion of the SDE $dz = f z\,dt + g\,dw$ |
# > | $w$, $\bar w$ | | a random walk with infinitely small steps, forwards and backwards in time |
# > | $s_t(z) = \nabla_z \log p_t(z)$ | `score` | the score; at $z = z_t$ it is $(\alpha_t\,\mathbb E[z_0 \mid z_t] - z_t)/\sigma_t^2$ |
# > | $T$ | `T` | number of steps of a discrete chain |
# >
# > The survey writes the variance of one DDPM step as $\alpha_t$ (we: $\beta$) and the product of what is kept as $\gamma_t$ (we:
# > $\bar\alpha_t = \alpha_t^2$). Its VP-SDE therefore reads $f = -\tfrac12\alpha(t) z$, $g = \sqrt{\alpha(t)}$, where ours has $\beta(t)$.

# %%
import math

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.domains import Pixel
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import psnr, sliced_wasserstein
from tutorial_lib.networks.regression import condition
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, convergence_order, denoiser_for, moment_residual
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import invert, last, predictor_corrector, probability_flow, reverse_sde, trajectory
from tutorial_lib.schedules import (
    Schedule,
    flow,
    from_betas,
    log_snr_times,
    sub_vp,
    uniform_times,
    ve,
    vp_cosine,
    vp_linear,
)
from tutorial_lib.steps import forward_step

# %% [markdown]
# ## 1. Noise becomes a face, and nobody rolls a die
#
# The plane below has a smile: two eyes, a nose, a mouth, seventeen Gaussian blobs in all. Take 400 points of pure noise. Then
# follow an *ordinary* differential equation from $t = 1$ to $t = 0$. No random number is drawn on the way.
# (`log_snr_times` gives the times: they crowd towards 0, evenly spaced in $\log(\alpha_t^2/\sigma_t^2)$.)

# %%
turn = torch.linspace(-0.85, 0.85, 13).double() * math.pi / 2
mouth = torch.stack([1.4 * turn.sin(), -1.1 * turn.cos() + 0.1], 1)
rest = torch.tensor([[-0.75, 0.95], [0.75, 0.95], [0.0, 0.35], [0.0, 0.1]]).double()
sizes = torch.tensor([0.12] * 13 + [0.2, 0.2, 0.1, 0.1]).double()
weights = torch.tensor([1.0] * 13 + [3.5, 3.5, 0.8, 0.8])
smile = GaussianMixture(weights, torch.cat([mouth, rest]), sizes[:, None, None] ** 2 * torch.eye(2).double())

vp = vp_linear()
noise = standard_normal(0)
points = noise(torch.empty(400, 2, dtype=torch.float64))
times = log_snr_times(vp, 40)
clouds = {"ODE": trajectory(probability_flow(denoiser_for(smile, vp), vp, points, times))}

# %%
ticks = torch.linspace(-2.6, 2.6, 60).double()
plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
lattice = torch.stack(torch.meshgrid(ticks[4::8], ticks[4::8], indexing="xy"), -1).reshape(-1, 2)


def draw_cloud(t, method="ODE", arrows=False):
    """The particles at the grid time nearest to t over the exact density there; arrows show the score times sigma."""
    state = min(clouds[method], key=lambda state: abs(float(state.t) - t))
    alpha, sigma = vp.alpha(max(state.t, 1e-3)), vp.sigma(max(state.t, 1e-3))
    density = smile.log_prob(plane, alpha, sigma).exp().reshape(60, 60)
    field = 0.45 * torch.tanh(sigma * smile.score(lattice, alpha, sigma))
    return plots.density_2d(
        ticks,
        ticks,
        {"": density},
        title=f"{method}, t = {float(state.t):.2f}",
        alt=f"At time {float(state.t):.2f} of the {method} 400 points lie where the exact density of the noised smile is high.",
        points={"_": state.z},
        arrows=(lattice, field) if arrows else None,
        width=330,
        height=350,
    )


widgets.frames(
    draw_cloud,
    [{"t": t} for t in (1.0, 0.18, 0.08, 0.0)],
    title="From noise to a smile along an ordinary differential equation",
    alt="Four squares from left to right: a round cloud of 400 points; a slightly flattened cloud; a blurred face; a sharp smiling "
    "face with two eyes, nose and mouth. Grey shading, the exact density, lies under the points each time.",
    columns=4,
)

# %% [markdown]
# The grey shading is not drawn from the points. It is the exact density $p_t$ of the noised smile, and at every
# time the points crowd where it is dark. By the end of this chapter you will have derived the equation
# that moves them, you will know why it gets the *same* grey as a process that shakes every point at every step, and you will have done
# the same to faces.
#
# ## 2. What is a stochastic differential equation?
#
# Somebody walks on a line. Between time 0 and time 1 she takes $n$ steps, each to the left or to the right by a coin toss. How long
# should a step be if we want a sensible limit for $n \to \infty$? A step lasts $\Delta t = 1/n$. Three guesses: length $\Delta t$,
# $\sqrt{\Delta t}$ and $\sqrt[4]{\Delta t}$.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
print("steps     length dt   sqrt(dt)   dt^(1/4)     variance of the position at time 1, 4000 walkers")
for n in (4, 64, 1024):
    coins = torch.randint(0, 2, (4000, n), generator=generator) * 2.0 - 1
    spread = [(coins.sum(1) * (1 / n) ** power).var().item() for power in (1, 0.5, 0.25)]
    print(f"{n:5}     {spread[0]:9.4f}   {spread[1]:8.3f}   {spread[2]:8.2f}")

# %% [markdown]
# With steps of length $\Delta t$ the coin tosses cancel and she stays where she was. With $\sqrt[4]{\Delta t}$ she ends up anywhere. Only
# $\sqrt{\Delta t}$ gives the same spread however finely you chop time, because *variances* of independent steps add:
# $n$ steps of variance $\Delta t = 1/n$ make 1. The limit is called a Wiener process or Brownian motion $w$. Over a
# short time $dt$ it changes by a normal random number (a sum of very many tosses) of standard deviation $\sqrt{dt}$.
#
# A **stochastic differential equation** adds such a walk to an ordinary one:
#
# $$dz = \underbrace{f(t)\, z\,dt}_{\text{drift: where it would go anyway}} + \underbrace{g(t)\,dw}_{\text{diffusion: how hard it is shaken}}.$$
#
# The notation looks grander than it is. It means the limit of a loop, and the loop is called **Euler–Maruyama** (→ Exercise 06.1):


# %%
def euler_maruyama(drift, diffusion, z, times, noise):
    """All states of dz = drift(z, t) dt + diffusion(t) dw along `times`, which may rise or fall: (len(times), ...)."""
    path = [z]
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = z + drift(z, t) * (s - t) + diffusion(t) * (s - t).abs().sqrt() * noise(z)
        path.append(z)
    return torch.stack(path)


# %% [markdown]
# Try it on $dz = -2z\,dt + dw$, started at $z = 2$: a spring that pulls back and a hand that shakes. Mean and variance
# follow from the loop. One step multiplies the mean by $1 - 2\,dt$ and adds nothing on average; it multiplies the variance by
# $(1 - 2\,dt)^2 \approx 1 - 4\,dt$ and adds $dt$. So $m' = -2m$, $v' = -4v + 1$, with solutions
# $m = 2e^{-2t}$ and $v = \tfrac14(1 - e^{-4t})$.

# %% tags=["nbval-check-output"]
clock = torch.linspace(0, 1, 201).double()
spring = euler_maruyama(
    lambda z, t: -2 * z, lambda t: torch.tensor(1.0), torch.full((4000, 1), 2.0).double(), clock, standard_normal(0)
)[..., 0]
mean, variance = 2 * (-2 * clock).exp(), (1 - (-4 * clock).exp()) / 4
for i in (50, 100, 200):
    m, v = spring[i].mean(), spring[i].var()
    m_error, v_error = (v / 4000).sqrt(), v * (2 / 3999) ** 0.5  # standard errors
    assert abs(m - mean[i]) < 4 * m_error + 0.01 and abs(v - variance[i]) < 4 * v_error + 0.01  # 0.01: finite steps
    print(
        f"t = {clock[i]:.2f}: mean {m:.3f} +- {m_error:.3f} (exact {mean[i]:.3f}),"
        f" variance {v:.4f} +- {v_error:.4f} (exact {variance[i]:.4f})"
    )

# %%
heights = torch.linspace(-1.5, 2.6, 160).double()
law = torch.distributions.Normal(mean[1:], variance[1:].sqrt()).log_prob(heights[:, None]).exp()
plots.evolution(
    clock[1:],
    heights,
    {"$dz = -2z\\,dt + dw$, from $z = 2$": law},
    title="Single paths are ragged and all different; their law is smooth",
    alt="Six jagged paths start at 2 and fall towards 0 within one unit of time. A grey band, the exact density, starts narrow at 2, "
    "falls with the paths and widens to a standard deviation of about one half.",
    paths={"$dz = -2z\\,dt + dw$, from $z = 2$": (clock, spring[:, :6].T)},
    width=700,
)

# %% [markdown]
# Keep the two descriptions apart. A **path** is one ragged line and has no derivative anywhere. The **law** $p_t$ is the grey
# shading: a smooth function of $t$ and $z$. Everything that follows rests on one observation: very different paths can have the same law.
#
# <details><summary><b>Question.</b> In the loop, somebody writes <code>diffusion(t) * dt * noise(z)</code>. What will the picture look like with 200 steps, and with 2000?</summary>
#
# The noise of a step is too small by $\sqrt{dt}$, so the variance is too small by $dt$: a two-hundredth of what it should be, and a two-thousandth. The paths look
# smooth and all alike. A sampler whose diversity depends on the number of steps has this bug.
# </details>
#
# ## 3. DDPM and NCSN are two of these loops
#
# A DDPM step is $z_i = \sqrt{1 - \beta_i}\, z_{i-1} + \sqrt{\beta_i}\,\epsilon$. With $T$ steps in one unit of time, write $\beta_i = \beta(t)\,dt$
# with $dt = 1/T$, and expand the root for small $dt$:
#
# $$z_i = \big(1 - \tfrac12\beta(t)\,dt + O(dt^2)\big)\, z_{i-1} + \sqrt{\beta(t)}\,\sqrt{dt}\;\epsilon .$$
#
# Compare with the loop: $f = -\tfrac12\beta(t)$ and $g = \sqrt{\beta(t)}$. This is the **variance-preserving (VP) SDE**. DDPM's famous table, 1000 values from
# 0.0001 to 0.02, is $\beta(t) = T\beta_i$ from 0.1 to 20: exactly `vp_linear`.
#
# NCSN knows noise levels $\sigma_1 < \dots < \sigma_T$ (chapter 05 counts them downwards; here they rise with time) and no steps between them. But if $z_i$ shall have level $\sigma_i$, then
# $z_i = z_{i-1} + \sqrt{\sigma_i^2 - \sigma_{i-1}^2}\;\epsilon$ does it, and
#
# $$\sqrt{\sigma_i^2 - \sigma_{i-1}^2} \approx \sqrt{\tfrac{d\sigma^2}{dt}}\,\sqrt{dt}, \qquad\text{so}\quad f = 0,\quad g = \sqrt{d\sigma^2/dt}.$$
#
# This is the **variance-exploding (VE) SDE** (→ Exercise 06.3). "Limit" is a claim about speed: how fast does the difference vanish? For DDPM, compare
# $\alpha$ of the chain with $\alpha(t)$ of the SDE. For NCSN, add up $g^2 dt$ step by step and compare with the ladder's $\sigma_i^2$.


# %%
def ddpm_gap(T):
    """Largest difference between alpha of a DDPM chain of T steps and of the VP SDE, over all its knots."""
    knots = torch.arange(1, T + 1).double() / T
    chain = from_betas(torch.linspace(0.1, 20, T).double() / T)
    return (chain.alpha(knots) - vp.alpha(knots)).abs().max().item()


def ncsn_gap(T):
    """Largest relative difference between the variance that Euler-Maruyama gathers on the VE SDE and the ladder's."""
    knots = torch.linspace(0, 1, T + 1).double().clamp(min=1e-9)  # just above 0, where sigma is sigma_min
    gathered = ve().sigma(knots[0]) ** 2 + (ve().diffusion(knots[:-1]) ** 2 / T).cumsum(0)
    return (gathered / ve().sigma(knots[1:]) ** 2 - 1).abs().max().item()


counts = [50, 100, 200, 400, 800, 1600, 3200]
plots.curves(
    counts,
    {"DDPM against VP": [ddpm_gap(T) for T in counts], "NCSN against VE": [ncsn_gap(T) for T in counts]},
    title="Ten times as many steps, a tenth of the difference",
    alt="Two straight falling lines on doubly logarithmic axes. From 50 to 3200 steps the difference falls from 0.02 to 0.0003 for DDPM "
    "and from 0.16 to 0.003 for NCSN, both with slope minus one.",
    xlabel="number of steps $T$",
    ylabel="largest difference",
    logx=True,
    logy=True,
    vertical={"DDPM's T": 1000},
    height=350,
)

# %% tags=["nbval-check-output"]
orders = {name: convergence_order(gap, counts[2:]) for name, gap in (("DDPM", ddpm_gap), ("NCSN", ncsn_gap))}
print({name: round(order, 2) for name, order in orders.items()})
assert all(abs(order - 1) < 0.05 for order in orders.values())
print(f"DDPM's own table ends at alpha = {from_betas(torch.linspace(1e-4, 0.02, 1000)).alpha(1.0):.5f},", end=" ")
print(f"the SDE at {vp.alpha(1.0):.5f}; largest gap on the way {ddpm_gap(1000):.4f}")
print(f"NCSN's gap with 1000 levels from 0.01 to 50: {ncsn_gap(1000):.4f}; with ten: {ncsn_gap(10):.2f}")

# %% [markdown]
# Order one: the difference is proportional to $1/T$. At $T = 1000$ it is a thousandth for DDPM and just under a hundredth for NCSN; a ladder of ten levels is still far from its limit. That is why a network trained with the table can
# be sampled with the SDE's formulas, and why you should not expect agreement to the last digit.
#
# ## 4. Drift and diffusion from the schedule
#
# Chapters 04 and 05 described a schedule by $\alpha_t$ and $\sigma_t$. An SDE is described by $f$ and $g$. These are the same information, so never type both.
# As with the spring, one step multiplies the state by $1 + f\,dt$, so the mean by the same and the variance by $(1 + f\,dt)^2 \approx 1 + 2f\,dt$, and
# then adds the variance $g^2 dt$. Hence the **moment equations** for mean $m$ and variance $v$:
#
# $$\frac{dm}{dt} = f\,m, \qquad \frac{dv}{dt} = 2 f\,v + g^2 .$$
#
# Start from one data point $z_0$. We want $m = \alpha_t z_0$ and $v = \sigma_t^2$ at all times. Put them in and solve:
#
# $$f = \frac{\alpha'}{\alpha} = \frac{d\log\alpha}{dt}, \qquad g^2 = \frac{d\sigma^2}{dt} - 2 f\,\sigma^2 .$$
#
# Read the second one aloud: the shaking must supply the growth of the variance, and on top of it what the drift squeezes away ($f$ is negative). Autograd does the rest. (→ Exercise 06.2)


# %%
def drift_and_diffusion(schedule, t):
    """f and g of a schedule, by differentiating alpha and sigma."""
    t = t.clone().requires_grad_()

    def slope(value):
        return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)

    f = slope(schedule.alpha(t).log())
    g_squared = slope(schedule.sigma(t) ** 2) - 2 * f * schedule.sigma(t).detach() ** 2
    return f, g_squared.sqrt()


t = torch.linspace(0.01, 0.95, 50).double()
beta = 0.1 + 19.9 * t
typed = {  # what the papers print
    "VP": (vp, -beta / 2, beta.sqrt()),
    "sub-VP": (sub_vp(), -beta / 2, (beta * (1 - vp.alpha(t) ** 4)).sqrt()),
    "VE": (ve(), 0 * t, ve().sigma(t) * (2 * math.log(50 / 0.01)) ** 0.5),
}
for name, (schedule, f, g) in typed.items():
    assert_close(drift_and_diffusion(schedule, t), (f, g))
    assert_close((schedule.drift(t), schedule.diffusion(t)), (f, g))
    print(f"{name}: autograd = typed formula = library")

# %% [markdown]
# Is that enough of a check? No: the typed formula may carry the same mistake. `moment_residual` goes the other way around. It
# *integrates* the moment equations from $f$ and $g$ and asks whether $\alpha$ and $\sigma$ come back.
#
# ### Break it: twice the derivative
#
# $d\sigma^2/dt = 2\sigma\sigma'$ has a factor of two that is easily lost, and as easily put in twice. The VP schedule of a widely used public library
# had its $\sigma'$ wrong by a factor of two until August 2026 (deepinv, pull request 1343). Put it in on purpose:


# %%
class Doubled(Schedule):
    """The same alpha and sigma, but the diffusion believes that sigma^2 grows twice as fast."""

    def diffusion(self, t):
        growth = super().diffusion(t) ** 2 + 2 * self.drift(t) * self.sigma(t) ** 2  # d sigma^2 / dt
        return (2 * growth - 2 * self.drift(t) * self.sigma(t) ** 2).sqrt()


wrong = Doubled(vp.alpha, vp.sigma)
every = {"vp_linear": vp, "vp_cosine": vp_cosine(), "sub_vp": sub_vp(), "ve": ve(), "flow": flow()}

# %% tags=["nbval-check-output"]
for name, schedule in every.items():
    print(f"{name:10} residual below 1e-5: {moment_residual(schedule) < 1e-5}")
print(f"doubled    residual {moment_residual(wrong):.2f}")
clock, origin = torch.linspace(1e-4, 0.2, 200).double(), torch.zeros(4000, 1).double()  # all points start at 0
for name, schedule in {"right": vp, "doubled": wrong}.items():
    cloud = euler_maruyama(lambda z, t: vp.drift(t) * z, schedule.diffusion, origin, clock, standard_normal(0))[-1]
    print(f"{name:8} spread at t = 0.2, simulated: {cloud.std():.2f}, where sigma is {vp.sigma(0.2):.2f}")

# %% [markdown]
# Forwards the cloud spreads too fast. What does the mistake do to samples? For that we need a law that we know, and the way back. The law first: two bumps on a line, whose
# distribution function and quantiles are exact at every $t$. The quantiles also give the exact **Wasserstein distance** $W_1$ of a set of samples: sort
# them, and average how far each lies from the quantile where it should be.

# %%
toy = GaussianMixture(
    torch.tensor([0.35, 0.65]), torch.tensor([[-1.2], [0.8]]).double(), torch.tensor([[[0.15**2]], [[0.3**2]]])
)
exact = denoiser_for(toy, vp)
line = torch.linspace(-6, 6, 20001).double()


def quantile(u, t, schedule=vp):
    """The state at time t below which a share u of the noised toy lies."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    spread = (alpha**2 * toy.covariances[:, 0, 0] + sigma**2).sqrt()
    share = torch.special.ndtr((line[:, None] - alpha * toy.means[:, 0]) / spread) @ toy.weights
    right = torch.searchsorted(share, u).clamp(1, len(line) - 1)
    left = right - 1
    return line[left] + (u - share[left]) / (share[right] - share[left]).clamp(min=1e-300) * (line[right] - line[left])


def w1(z, t=0.0):
    """Wasserstein-1 distance between samples and the exact law of the noised toy at time t."""
    z = z.flatten().sort().values
    return (z - quantile((torch.arange(len(z)).double() + 0.5) / len(z), t)).abs().mean().item()


def density(t, z):
    """p_t(z) for a row of times and a column of states: (len(z), len(t))."""
    return torch.stack([toy.log_prob(z[:, None], vp.alpha(at), vp.sigma(at)).exp() for at in t], 1)


# %% [markdown]
# ## 5. Backwards
#
# Think of $p_t$ as sand on a line, moved by wind of velocity $u(z, t)$. The sand at a place changes by what flows in minus what flows out:
#
# $$\frac{\partial p}{\partial t} = -\frac{\partial}{\partial z}\,(u\,p). \qquad\text{(continuity equation)}$$
#
# The drift is such a wind, $u = f z$. And the shaking? Shaken sand moves from where there is much to where there is little: the flow is
# $-\tfrac12 g^2\, \partial p/\partial z$ (Fick's law; with both terms the equation is called Fokker–Planck). Why $\tfrac12$? Shaken for a time $t$, a grain spreads
# like $N(0, g^2 t)$, and that density satisfies $\partial p/\partial t = \tfrac12 g^2\,\partial^2 p/\partial z^2$: differentiate and see. Now the one trick of this chapter. Since
# $\partial p/\partial z = p\;\partial \log p/\partial z = p\,s_t$, the flow of shaken sand is $-\tfrac12 g^2 s_t\;p$. It has the form velocity times density:
#
# > **As far as the law is concerned, shaking with $g$ is a wind of velocity $-\tfrac12 g^2 s_t(z)$, away from where it is crowded.**
#
# Replace all the shaking by that wind and no random number is left. The law does not notice. (For images, read $\partial/\partial z$ as gradient or divergence; nothing else changes.)
#
# $$\frac{dz}{dt} = f z - \tfrac12 g^2 s_t(z) \qquad\text{(probability-flow ODE)}$$
#
# To go back, follow the same velocity against the clock. If you like noise, put some back. Shaking with strength $\lambda g$ drives the law apart like a wind $-\tfrac12\lambda^2 g^2 s_t$,
# so pull every point towards the crowd by $+\tfrac12\lambda^2 g^2 s_t$ and the law does not notice that either. Written with $dt < 0$, a pull in reversed time has a minus sign:
#
# $$dz = \Big[f z - \tfrac{1+\lambda^2}{2}\, g^2 s_t(z)\Big]\,dt + \lambda g\,d\bar w, \qquad dt < 0.$$
#
# $\lambda = 0$ is the ODE. $\lambda = 1$ is the **reverse SDE** of Anderson (1982), $dz = [f z - g^2 s_t]\,dt + g\,d\bar w$, the exact film of the forward
# process played backwards. (→ Exercise 06.4)
#
# The argument was words; test the equation. On a grid, take $\partial p/\partial t$ and $-\partial(u p)/\partial z$ by finite differences of the exact density:

# %% tags=["nbval-check-output"]
z, step = torch.linspace(-3, 3, 1201).double(), 1e-4
for at in (0.1, 0.3, 0.6):
    change = (density([at + step], z) - density([at - step], z))[:, 0] / (2 * step)
    score = toy.score(z[:, None], vp.alpha(at), vp.sigma(at))[:, 0]
    current = (vp.drift(at) * z - vp.diffusion(at) ** 2 / 2 * score) * density([at], z)[:, 0]
    gap = (change + torch.gradient(current, spacing=(z,))[0])[1:-1].abs().max()
    print(
        f"t = {at}: dp/dt reaches {change.abs().max():.2f}; the two sides agree to 1e-3 of that: {gap < 1e-3 * change.abs().max()}"
    )

# %% [markdown]
# Both directions of the SDE are the loop of section 2, with `times` that rise or fall. Here is the reverse one, and the ODE with **Heun's method**: take an Euler
# step, look at the velocity where it lands, step again with the average of the two (→ Exercise 06.5). Both must equal the library's samplers, which
# we use from then on. At the last step, to $t = 0$, they return the denoised state: there is no score to divide by where $\sigma = 0$.


# %%
def score_at(denoiser, schedule, z, t):
    """Tweedie: the score from the denoiser."""
    return (schedule.alpha(t) * denoiser(z, t) - z) / schedule.sigma(t) ** 2


def my_reverse_sde(denoiser, schedule, z, times, noise):
    """Euler-Maruyama from noise to times[-2], then the denoised state."""
    f, g = schedule.drift, schedule.diffusion
    path = euler_maruyama(
        lambda z, t: f(t) * z - g(t) ** 2 * score_at(denoiser, schedule, z, t), g, z, times[:-1], noise
    )
    return denoiser(path[-1], times[-2])


def my_probability_flow(denoiser, schedule, z, times):
    """Heun's method from noise to times[-2], then the denoised state."""

    def velocity(z, t):
        return schedule.drift(t) * z - schedule.diffusion(t) ** 2 / 2 * score_at(denoiser, schedule, z, t)

    for t, s in zip(times[:-2], times[1:-1], strict=True):
        here = velocity(z, t)
        there = velocity(z + here * (s - t), s)
        z = z + (here + there) / 2 * (s - t)
    return denoiser(z, times[-2])


start = standard_normal(1)(torch.empty(50, 1, dtype=torch.float64))
grid = uniform_times(60)
assert_close(
    my_reverse_sde(exact, vp, start, grid, standard_normal(2)),
    last(reverse_sde(exact, vp, start, grid, standard_normal(2))),
)
assert_close(my_probability_flow(exact, vp, start, grid), last(probability_flow(exact, vp, start, grid)))
print("both agree with the library")

# %% [markdown]
# Now the picture that this section is about. Top left: the exact density. The other three are histograms of 20,000 simulated
# states at each time, with four of the paths. Read the forward panel from left to right, the two reverse panels from right to left.

# %%
many, grid = 20_000, uniform_times(100)
forward_clock = torch.linspace(1e-4, 1, 200).double()
begin = standard_normal(3)(torch.empty(many, 1, dtype=torch.float64))
runs = {
    "forward SDE": (
        forward_clock,
        euler_maruyama(
            lambda z, t: vp.drift(t) * z,
            vp.diffusion,
            toy.sample(many, standard_normal(4)),
            forward_clock,
            standard_normal(5),
        )[..., 0],
    ),
}
for name, states in {
    "reverse SDE": reverse_sde(exact, vp, begin, grid, standard_normal(6)),
    "probability-flow ODE": probability_flow(exact, vp, begin, grid),
}.items():
    states = trajectory(states)
    runs[name] = (grid, torch.stack([state.z[:, 0] for state in states]))

# %%
edges, shown = torch.linspace(-2.6, 2.6, 79).double(), torch.linspace(0.004, 1, 120).double()
centres = (edges[1:] + edges[:-1]) / 2
panels = {"exact density": density(shown, centres)}
for name, (clock, values) in runs.items():
    nearest = [(clock - at).abs().argmin() for at in shown]
    panels[name] = torch.stack([torch.histogram(values[i], edges, density=True).hist for i in nearest], 1)
plots.evolution(
    shown,
    centres,
    panels,
    title="Three processes with different paths and one law",
    alt="Four maps of density over time and state. In all four two dark bands at minus 1.2 and 0.8 at time 0 bend together, blur and merge into one grey "
    "band around zero at time 1. Paths of the forward and of the reverse SDE are jagged and cross each other; those of the ODE are smooth and never cross.",
    paths={name: (clock, values[:, :4].T) for name, (clock, values) in runs.items()},
    columns=2,
    height=270,
    width=900,
)

# %% [markdown]
# Paths of the ODE never cross: through every point $(t, z)$ goes exactly one. So in one dimension they keep their order, and the ODE maps the
# 30 % quantile of the noise to the 30 % quantile of the data. (That is why its panel shows streaks: accidental gaps in the noise are carried along.) The SDE mixes.
#
# A picture may flatter. The number: $W_1$ between the samples and the exact law, at four times, as the mean over ten batches of 2000 with its
# standard error. Even perfect samples do not have $W_1 = 0$, so the yardstick is the last row: fresh draws from the exact law.

# %% tags=["nbval-check-output"]
checkpoints = (0.75, 0.5, 0.25, 0.0)
print(f"1000 W1 at t =        {'':4}" + "".join(f"{at:<13}" for at in checkpoints))
fresh = toy.sample(many, standard_normal(8))
runs["fresh exact draws"] = (
    torch.tensor(checkpoints).double(),
    torch.stack(
        [forward_step(fresh, vp, 0.0, at, standard_normal(9))[:, 0] if at else fresh[:, 0] for at in checkpoints]
    ),
)
table = {}
for name, (clock, values) in runs.items():
    for at in checkpoints:
        i = (clock - at).abs().argmin()
        batches = torch.tensor([w1(part, clock[i] if at else 0.0) for part in values[i].view(10, 2000)])
        table[name, at] = 1000 * batches.mean(), 1000 * batches.std() / 10**0.5
    print(f"{name:26}" + "".join("{:4.0f} +- {:<5.0f}".format(*table[name, at]) for at in checkpoints))
for (_, at), (value, error) in table.items():
    yardstick, its_error = table["fresh exact draws", at]
    assert abs(value - yardstick) < 4 * (error**2 + its_error**2).sqrt()

# %% [markdown]
# All rows agree within two standard errors. And the doubled derivative? Sample with it, same start, same score, both ways, with our own
# functions (the library's ODE differentiates $\alpha$ and $\sigma$ itself and never asks for $g$, so it could not be misled).

# %%
broken = {
    "ODE, doubled": my_probability_flow(exact, wrong, begin, grid),
    "SDE, doubled": my_reverse_sde(exact, wrong, begin, grid, standard_normal(6)),
}
finer = w1(my_probability_flow(exact, wrong, begin, uniform_times(400)))
axis = torch.linspace(-2, 2, 400).double()
plots.histogram(
    {name: values[:, 0].clamp(-2, 2) for name, values in broken.items()},
    exact={"exact law": (axis, toy.log_prob(axis[:, None]).exp())},
    bins=80,
    title="A factor of two in one derivative: still two bumps, but not the right ones",
    alt="Two histograms over the exact two-bump density. "
    + " ".join(
        f"{name}: W1 {w1(values):.2f}, standard deviation {values.std():.2f}." for name, values in broken.items()
    )
    + " The ODE's bumps are about three times as tall as the exact ones and far too narrow; the SDE's are a little too narrow.",
    caption=f"Standard deviation exact: {toy.covariance.sqrt().item():.2f}. "
    + " ".join(f"{name}: {values.std():.2f}, W1 {w1(values):.2f}." for name, values in broken.items())
    + f" ODE with 400 steps instead of 100: W1 {finer:.2f}.",
    xlabel="$z_0$",
)

# %% [markdown]
# Nothing crashes, and without the black line the orange bumps would look fine. The SDE comes off lightly; section 7 shows why it forgives. On images, the authors of the repair report a uniform field in place of a picture.
# No number of steps cures it. **How to recognise it:** the error stays when the steps get finer, and `moment_residual` is 0.4.
#
# ### Explore
#
# Back to the smile. Scrub through time, under either process. The arrows are the score (times $\sigma_t$, and capped): at $t \approx 1$ they all point to the middle;
# late they point to the nearest blob.

# %%
clouds["SDE"] = trajectory(reverse_sde(denoiser_for(smile, vp), vp, points, log_snr_times(vp, 120), standard_normal(7)))
widgets.explorer(draw_cloud, t=(0.0, 1.0, 0.02, 0.3), method=["ODE", "SDE"], arrows=True)

# %%
widgets.frames(
    draw_cloud,
    [{"t": t, "method": method, "arrows": True} for method in ("ODE", "SDE") for t in (0.6, 0.25, 0.1, 0.0)],
    title="Same grey, other points: the ODE above, the SDE below",
    alt="Two rows of four squares at times 0.6, 0.25, 0.1 and 0. Arrows of the score first point to the centre, later to the nearest part of the face. In both rows "
    "the points gather into eyes, nose and mouth; single points end elsewhere in the lower row than in the upper one.",
    columns=4,
)

# %% [markdown]
# ## 6. A referee for the solver
#
# $W_1$ cannot see small errors, since they drown in sampling noise. The ODE offers something better: it has one right answer for every start. Two
# referees know it. scipy's adaptive solver (`solver="scipy"`) at a tolerance of $10^{-9}$, and, because the order of points is kept,
# the quantiles: $z_s = F_s^{-1}(F_t(z_t))$, where $F_t$ is the distribution function of $p_t$.

# %% tags=["nbval-check-output"]
shares = (torch.arange(100).double() + 0.5) / 100
top, low = 1.0, 0.01
z_top = quantile(shares, top)[:, None]
referee = last(probability_flow(exact, vp, z_top, [top, low], solver="scipy", rtol=1e-9, atol=1e-9))
print(f"scipy and the quantiles agree to 1e-5: {(referee[:, 0] - quantile(shares, low)).abs().max() < 1e-5}")


def velocity(z, t):
    """What the ODE says: f z - g^2 score / 2."""
    return vp.drift(t) * z - vp.diffusion(t) ** 2 / 2 * score_at(exact, vp, z, t)


def gap(solver, n):
    """Mean error of n steps from t = 1 to 0.01, on a grid that is not uniform; Euler is our loop without noise."""
    steps = log_snr_times(vp, n + 1, top, low)[:-1]
    if solver == "Heun":
        found = last(probability_flow(exact, vp, z_top, steps))
    else:
        found = euler_maruyama(velocity, lambda t: 0.0, z_top, steps, torch.zeros_like)[-1]
    return (found - referee).abs().mean().item()


counts = [8, 16, 32, 64, 128, 256]
gaps = {solver: {n: gap(solver, n) for n in counts} for solver in ("Euler", "Heun")}
for solver, expected in (("Euler", 1), ("Heun", 2)):
    order = convergence_order(gaps[solver].get, counts[3:])
    print(f"{solver}: order {order:.2f}")
    assert abs(order - expected) < 0.1

# %%
series = {
    "Euler (1 call a step)": (counts, list(gaps["Euler"].values())),
    "Heun (2 calls a step)": ([2 * n for n in counts], list(gaps["Heun"].values())),
}
adaptive = []
for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
    counted = count_calls(exact)
    out = last(probability_flow(counted, vp, z_top, [top, low], solver="scipy", rtol=tolerance, atol=tolerance))
    adaptive.append((counted.calls, (out - referee).abs().mean().item()))
series["scipy, adaptive"] = tuple(zip(*adaptive, strict=True))
plots.curves(
    [],
    series,
    title="Twice the calls: Euler halves its error, Heun quarters it",
    alt="Error against denoiser calls on doubly logarithmic axes. "
    + " ".join(
        f"{name}: from {ys[0]:.1e} at {xs[0]} calls to {ys[-1]:.1e} at {xs[-1]}." for name, (xs, ys) in series.items()
    )
    + " Heun falls twice as steeply as Euler and lies below it from about 16 calls on.",
    xlabel="denoiser calls",
    ylabel="mean error of the end point",
    logx=True,
    logy=True,
    height=360,
)

# %% [markdown]
# For Gaussian data there is even a formula. If $z_0 \sim N(0, v_0)$, then $z_t \sim N(0, v_t)$ with $v_t = \alpha_t^2 v_0 + \sigma_t^2$, the score is $-z/v_t$, and
#
# $$\frac{d \log z}{dt} = f + \frac{g^2}{2 v_t} = \frac{1}{2}\frac{d\log v_t}{dt}, \qquad\text{so}\qquad z_s = z_t\,\sqrt{v_s / v_t},$$
#
# where the middle step is the moment equation $v' = 2 f v + g^2$ once more. The ODE just rescales every point with the spread of the cloud.

# %% tags=["nbval-check-output"]
bell = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())


def bell_variance(t):
    return 0.25 * vp.alpha(t) ** 2 + vp.sigma(t) ** 2


found = last(probability_flow(denoiser_for(bell, vp), vp, z_top, log_snr_times(vp, 200, top, low)[:-1]))
assert_close(found, z_top * (bell_variance(low) / bell_variance(top)).sqrt(), rtol=1e-3, atol=1e-6)
print("z_s = z_t sqrt(v_s / v_t) holds")

# %% [markdown]
# <details><summary><b>Question.</b> Why is the reverse SDE not tested by its convergence order against a referee?</summary>
#
# Its end point is random: there is no single right answer for a start. One can compare laws, as in section 5, or paths that share one finely sampled random walk.
# In law, Euler–Maruyama has order one, like Euler.
# </details>
#
# ## 7. When the score is wrong
#
# With an exact score and many steps both processes are perfect, so the choice between them is about *errors*. A real score is wrong everywhere a little. Look at one disturbance at
# time $\tau$: how much of it is left at time 0? For the Gaussian the answer is short. The ODE multiplies a displacement at $\tau$ by $\sqrt{v_0/v_\tau}$ (section 6).
# The SDE does on average what a denoiser does, $\mathbb E[z_0 \mid z_\tau]$, so it multiplies the displacement by
#
# $$\frac{\alpha_\tau v_0}{v_\tau} = \rho_\tau\,\sqrt{\frac{v_0}{v_\tau}}, \qquad \rho_\tau = \alpha_\tau\sqrt{v_0/v_\tau} = \operatorname{corr}(z_0, z_\tau).$$
#
# The SDE remembers only as much of $z_\tau$ as $z_0$ and $z_\tau$ truly have in common; the rest is washed out by noise. That speaks for the SDE. But an
# error of the *score* enters the ODE with the factor $\tfrac12 g^2$ and the SDE with $g^2$, twice as much. So a wrong score at time $\tau$ hurts the SDE $2\rho_\tau$ times as
# much as the ODE: less where $\rho_\tau < \tfrac12$, early in sampling, and *more* late, near the data. (→ Exercise 06.8)


# %%
def misled(denoiser, early, late, bias):
    """A denoiser whose score is shifted by `bias` for early <= t <= late."""

    def shifted(z, t, cond=None):
        return denoiser(z, t) + (bias * vp.sigma(t) ** 2 / vp.alpha(t) if early <= t <= late else 0.0)

    return shifted


def average(denoiser, z, times):
    """SDE over ODE: where they end on average (for a linear denoiser, the SDE with all noise set to zero)."""
    sde = last(reverse_sde(denoiser, vp, z, times, torch.zeros_like))
    return (sde / last(probability_flow(denoiser, vp, z, times))).item()


bell_denoiser, one = denoiser_for(bell, vp), torch.ones(1, 1, dtype=torch.float64)
taus = [0.08, 0.16, 0.25, 0.4, 0.6]
displaced = [average(bell_denoiser, one, uniform_times(60, t_max=tau)) for tau in taus]
misscored = [
    average(misled(bell_denoiser, tau - 0.02, tau + 0.02, 1.0), 0 * one, uniform_times(60, t_max=tau + 0.02))
    for tau in taus
]
axis = torch.linspace(0.005, 1, 200).double()
memory, at_taus = (vp.alpha(at) * (0.25 / bell_variance(at)).sqrt() for at in (axis, torch.tensor(taus)))
assert_close(torch.tensor(displaced).double(), at_taus, rtol=0, atol=0.04)
assert_close(torch.tensor(misscored).double(), 2 * at_taus, rtol=0, atol=0.08)

# %%
plots.curves(
    axis,
    {
        "a displaced state: $\\rho_\\tau$": memory,
        "a wrong score: $2\\rho_\\tau$": 2 * memory,
        "displaced, measured": (taus, displaced),
        "wrong score, measured": (taus, misscored),
    },
    title="Early errors shrink more in the SDE; a late error of the score counts double",
    alt="Two falling curves against time. The memory rho starts at 1 at time 0, passes one half near 0.24 and is below 0.1 from 0.6 on. "
    "Twice rho, the effect of a wrong score, starts at 2 and crosses 1 near time 0.24. Measured points lie on both curves or just above.",
    xlabel="time τ of the error",
    ylabel="left at the end, SDE / ODE",
    horizontal={"SDE and ODE equally hurt": 1.0},
    height=360,
)

# %% [markdown]
# Does this hold beyond Gaussians? Give the two-bump toy a wrong start, then a score that is off by a constant early ($t > 0.5$) or late
# ($t < 0.1$), and measure $W_1$ of both, in four batches of 1500.

# %%
troubles = {
    "nothing wrong": (exact, 0.0),
    "start moved by 0.3": (exact, 0.3),
    "score off by 0.3, t > 0.5": (misled(exact, 0.5, 1.0, 0.3), 0.0),
    "score off by 3, t < 0.1": (misled(exact, 0.0, 0.1, 3.0), 0.0),
}
harm = {"ODE": [], "reverse SDE": []}
grid = uniform_times(100)
clean = standard_normal(12)(torch.empty(6000, 1, dtype=torch.float64))
for denoiser, moved in troubles.values():
    ends = {
        "ODE": last(probability_flow(denoiser, vp, clean + moved, grid)),
        "reverse SDE": last(reverse_sde(denoiser, vp, clean + moved, grid, standard_normal(13))),
    }
    for name, z in ends.items():
        harm[name].append(torch.tensor([w1(part) for part in z.view(4, 1500)]))

# %%
plots.bars(
    [name.replace(", ", ",\n") for name in troubles],
    {name: [v.mean() for v in values] for name, values in harm.items()},
    errors={name: [v.std() / 2 for v in values] for name, values in harm.items()},
    title="The SDE forgives early errors, and pays for late ones",
    alt="Bars of W1 for four cases. "
    + " ".join(
        f"{case}: ODE {harm['ODE'][i].mean():.2f}, reverse SDE {harm['reverse SDE'][i].mean():.2f}."
        for i, case in enumerate(troubles)
    ),
    ylabel="$W_1$ to the exact law",
)

# %% [markdown]
# So: the ODE is deterministic and smooth; it keeps what was wrong. The SDE needs more steps (next figure) and
# washes old errors out, as long as the score near the data is good.
#
# ## 8. Predictor and corrector
#
# There is another way to wash errors out. A **Langevin step** (chapter 05) at a fixed time $t$ moves points around *without changing* $p_t$, and pulls any other law towards $p_t$.
# Song et al. alternate: one step of the reverse SDE (predictor), then Langevin steps at the new time (corrector). The step size follows from a wanted ratio $r$ of signal to noise,
#
# $$z \leftarrow z + \epsilon\, s_t(z) + \sqrt{2\epsilon}\;n, \qquad \epsilon = 2\,\Big(r\,\frac{\lVert n\rVert}{\lVert s_t(z)\rVert}\Big)^2,$$
#
# with norms *of each sample* ($\epsilon$ is half of chapter 05's $a$). Public code averages the norms over the batch; then your sample depends on who else is in it. (The library also caps $\epsilon$, for places where the score vanishes. → Exercise 06.6)
#
# A norm of one number says little, so our samples are now "images" of 256 independent pixels, each with the law of the toy, and $r = 0.3$. First question: few steps, does the
# corrector help? (The ODE runs along for comparison.) Second: the start is wrong, can more steps or a corrector save it?


# %%
def pixels(z, t, cond=None):
    """The exact denoiser of 256 independent toys."""
    return exact(z.reshape(-1, 1), t).reshape(z.shape)


def measure(sampler, moved=0.0, t_max=1.0):
    """W1 of four times 20 images: mean and standard error."""
    source = standard_normal(0)
    z = vp.sigma(t_max) * source(torch.empty(80, 256, dtype=torch.float64)) + moved
    values = torch.tensor([w1(part) for part in last(sampler(z, source)).view(4, 20, 256)])
    return values.mean().item(), values.std().item() / 2


budget = [8, 12, 16, 24, 32, 48]
lines, bands = {}, {}
for name, corrections in (("predictor only", 0), ("one corrector step", 1), ("three corrector steps", 3)):
    counts = [n for n in budget if n // (1 + corrections) >= 4]
    results = [
        measure(
            lambda z, source, n=n, k=corrections: (
                predictor_corrector(pixels, vp, z, log_snr_times(vp, n // (1 + k)), k, 0.3, source)
                if k
                else reverse_sde(pixels, vp, z, log_snr_times(vp, n), source)
            )
        )
        for n in counts
    ]
    lines[name] = (counts, [mean for mean, _ in results])
    bands[name] = torch.tensor([error for _, error in results])
results = [measure(lambda z, source, n=n: probability_flow(pixels, vp, z, log_snr_times(vp, n // 2))) for n in budget]
lines["ODE, Heun"], bands["ODE, Heun"] = (budget, [m for m, _ in results]), torch.tensor([e for _, e in results])
fresh = torch.tensor([w1(toy.sample(20 * 256, standard_normal(20 + i))) for i in range(8)]).mean().item()

# %%
plots.curves(
    [],
    lines,
    bands=bands,
    title="Exact score, equal cost: correctors do not pay, and the ODE arrives first",
    alt="W1 against the number of denoiser calls from 8 to 48. "
    + " ".join(
        f"{name}: from {ys[0]:.3f} at {xs[0]} calls to {ys[-1]:.3f} at {xs[-1]}." for name, (xs, ys) in lines.items()
    )
    + f" Exact draws, a grey line at the bottom, have {fresh:.3f}.",
    xlabel="denoiser calls (about)",
    ylabel="$W_1$ to the exact law",
    horizontal={"exact draws": fresh},
    xlim=(5, 62),
    logy=True,
    height=350,
)

# %% tags=["nbval-check-output"]
late = 0.3
rescues = {
    "predictor, 20 steps": lambda z, source: reverse_sde(pixels, vp, z, uniform_times(20, late), source),
    "predictor, 80 steps": lambda z, source: reverse_sde(pixels, vp, z, uniform_times(80, late), source),
    "20 steps + 3 corrections each": lambda z, source: predictor_corrector(
        pixels, vp, z, uniform_times(20, late), 3, 0.3, source
    ),
}
print(f"started at t = {late} from noise that was moved by 0.4:")
for name, sampler in rescues.items():
    mean, error = measure(sampler, moved=0.4, t_max=late)
    print(f"{name:31} W1 = {mean:.3f} +- {error:.3f}")

# %% [markdown]
# The figure is sobering: the corrector is no free lunch. Here the predictor's error is discretisation, and finer steps cure that directly. The ODE, clumsy with four steps, is as good as exact draws long before the SDE.
# The table shows what a corrector is *for*: an error of the law that no number of predictor steps undoes. Eighty predictor steps are no better than twenty; twenty with corrections, at the price of eighty, remove most
# of the error. But a corrector pulls towards the law of the score *it* is given: it cannot repair the score itself. With networks, then, it must be measured; the box at the end says what Song et al. found.
#
# ## 9. VP, VE and sub-VP, used right
#
# | | $\alpha_t$ | $\sigma_t$ | start at $t = 1$ | trap |
# |---|---|---|---|---|
# | VP | $\exp(-\tfrac12\int\beta)$ | $\sqrt{1 - \alpha_t^2}$ | $N(0, 1)$ | a short chain keeps signal at $t = 1$ (chapter 04) |
# | sub-VP | as VP | $1 - \alpha_t^2$ | $N(0, 1)$ | $1 - \alpha_t^2$ is the *standard deviation*, not the variance |
# | VE | 1 | $\sigma_{\min}(\sigma_{\max}/\sigma_{\min})^t$ | $N(0, \sigma_{\max}^2)$ | starting from $N(0, 1)$; the edge at $t = 0$ |
#
# The edge: put $t = 0$ into the formula and you get $\sigma_{\min} = 0.01$, which is not quite data. Here, as in the appendix of Song et al., $t = 0$ means data: `ve` jumps from 0 to $\sigma_{\min}$ just above it, and the
# last step of a sampler goes from the last grid time to 0 by denoising.

# %% tags=["nbval-check-output"]
point = torch.zeros(20_000, 1).double()  # one data value, 0: the spread of z_t is sigma_t itself
clock = torch.linspace(1e-4, 0.25, 200).double()
sub = sub_vp()
spread = euler_maruyama(lambda z, t: sub.drift(t) * z, sub.diffusion, point, clock, standard_normal(0))[-1].std()
keep = sub.alpha(0.25).item() ** 2
print(
    f"sub-VP at t = 0.25: simulated spread {spread:.3f}; 1 - alpha^2 = {1 - keep:.3f}, its root = {(1 - keep) ** 0.5:.3f}"
)

explode = ve(sigma_max=50)
grid = log_snr_times(explode, 60)
for name, width in (("N(0, sigma_max^2)", 50.0), ("N(0, 1)", 1.0)):
    z = width * standard_normal(1)(torch.empty(4000, 1, dtype=torch.float64))
    out = last(probability_flow(denoiser_for(toy, explode), explode, z, grid))
    print(f"VE started from {name:18} W1 = {w1(out):.3f}, standard deviation {out.std():.2f}")

# %% [markdown]
# The simulated spread takes the side of $1 - \alpha^2$. And VE from $N(0, 1)$ ends with hardly any spread at all: every start lies in the innermost fiftieth of the noise it should come from, so the ODE takes
# all of them to nearly the same value, the median of the data. On images, expect nearly the same picture whatever the seed.

# %%
shown, heights = torch.linspace(0.005, 1, 90).double(), torch.linspace(-6, 6, 241).double()
panels, paths = {}, {}
for name, schedule in {"VP": vp, "sub-VP": sub, "VE, here with $\\sigma_{max} = 5$": ve(0.01, 5.0)}.items():
    panels[name] = torch.stack(
        [toy.log_prob(heights[:, None], schedule.alpha(at), schedule.sigma(at)).exp() for at in shown], 1
    )
    walk = euler_maruyama(
        lambda z, t, schedule=schedule: schedule.drift(t) * z,
        schedule.diffusion,
        toy.sample(6, standard_normal(1)),
        shown,
        standard_normal(2),
    )
    paths[name] = (shown, walk[..., 0].T)
plots.evolution(
    shown,
    heights,
    panels,
    paths=paths,
    title="VP and sub-VP shrink the two bumps under the noise; VE leaves them where they are",
    alt="Three density maps over time. VP and sub-VP: two bands at minus 1.2 and 0.8 bend towards zero and merge into one band of unit spread; in sub-VP they stay "
    "sharp a little longer. VE: the bands stay where they are and fan out until at time 1 the spread is about 5.",
)

# %% [markdown]
# A network that is told the *noise level* $\log(\alpha_t^2/\sigma_t^2)$ instead of the time, and sees the state divided by $\sqrt{\alpha_t^2 + \sigma_t^2}$, does not care
# which of the three it lives in. Ours was trained on a cosine schedule that appears nowhere in this section. Draw five faces on each, from the same noise. (VE gets 40 steps
# instead of 16: its $\sigma_t$ is exponential in $t$, which Heun finds harder to follow.)

# %%
network = load_pretrained("faces-unconditional-32")
domain = Pixel()


def face_denoiser(schedule):
    """The shipped faces network on any schedule."""
    return NetworkDenoiser(network, schedule=schedule)


seeds = standard_normal(11)(torch.empty(5, 3, 32, 32))
drawn, labels = [], []
for name, schedule, n in (("VP", vp, 16), ("sub-VP", sub, 16), ("VE", explode, 40)):
    z = schedule.sigma(1.0).float() * seeds
    with torch.inference_mode():
        drawn.append(last(probability_flow(face_denoiser(schedule), schedule, z, log_snr_times(schedule, n))))
    labels += [f"{name}, noise {i + 1}" for i in range(len(seeds))]
plots.image_grid(
    domain.decode(torch.cat(drawn)).clamp(0, 1),
    labels,
    title="One network, three SDEs: the same noise becomes the same faces",
    alt="Three rows of five small cartoon faces, drawn on the VP, the sub-VP and the VE schedule from the same five noise images. In each column "
    "the three faces are nearly the same.",
    zoom=4,
    columns=5,
)

# %% [markdown]
# <details><summary><b>Question.</b> Why do the three rows show the same faces?</summary>
#
# Divide the state by $\alpha_t$ and name the time by $\sigma_t/\alpha_t$: then all three ODEs become the same equation, the one that `edm` writes down directly. The schedule only
# decides how fast you travel along its paths and how the picture is scaled on the way. The small differences come from finite steps. (The SDEs share laws only, since each draws its own noise.)
# </details>
#
# ## 10. Invert a face
#
# An ODE can be followed in both directions. Start from a face at (almost) $t = 0$, integrate to $t = 1$, and you hold *its* noise: a code as large as the image, from which the same ODE brings
# the face back. `invert` walks the same grid backwards. We begin at $t = 0.0001$ with the face *plus* the little noise that a state has there, $\sigma_t = 0.003$, less than half of one grey level of 255; why, you
# will see below. How well the round trip closes depends on the number of steps.

# %%
portraits = faces(5, seed=3).images
originals, t_min = domain.encode(portraits), 1e-4
grainy = forward_step(originals, vp, 0.0, t_min, standard_normal(6))
trip = {}
for n in (4, 8, 16, 32):
    steps = log_snr_times(vp, n, t_min=t_min)[:-1]
    with torch.inference_mode():
        code = last(invert(face_denoiser(vp), vp, grainy, steps))
        back = last(probability_flow(face_denoiser(vp), vp, code, steps))
    trip[n] = (code, domain.decode(back).clamp(0, 1))
quality = {n: psnr(back, domain.decode(grainy).clamp(0, 1), channel="rgb") for n, (_, back) in trip.items()}

# %%
code = trip[32][0]
plots.image_grid(
    torch.cat([portraits, (code / 6 + 0.5).clamp(0, 1), trip[32][1], trip[8][1]]),
    [
        *["original"] * 5,
        *["its noise"] * 5,
        *[f"32 steps: {value:.0f} dB" for value in quality[32].tolist()],
        *[f"8 steps: {value:.0f} dB" for value in quality[8].tolist()],
    ],
    title="A face, its noise, and back again: with more steps the return is closer",
    alt="Four rows of five: original cartoon faces; coloured noise in which at most a faint outline of a face can be made out; the faces regenerated "
    f"with 32 steps, and with 8. Mean PSNR {quality[32].mean():.0f} dB with 32 steps and {quality[8].mean():.0f} dB with 8.",
    caption="Noise is shown from -3 (black) to 3 (white).",
    zoom=4,
    columns=5,
)

# %%
counts = list(quality)
plots.curves(
    counts,
    {"mean of five faces": [quality[n].mean() for n in counts]},
    bands={"mean of five faces": [quality[n].std() / 5**0.5 for n in counts]},
    title="The round trip closes as the steps get finer",
    alt="PSNR of the round trip against the number of Heun steps: "
    + ", ".join(f"{quality[n].mean():.0f} dB at {n}" for n in counts)
    + ".",
    xlabel="Heun steps in each direction",
    ylabel="PSNR to the start (dB)",
    height=320,
)

# %% [markdown]
# The network is not perfect, and yet the face comes back. That is no contradiction: *any* smooth velocity field can be followed forwards and back. The round trip tests the
# solver. Whether the code is a typical piece of noise tests the rest: the network, and where we start. Try it once from the face as it is, and once with its grain.

# %%
contrast = F.max_pool2d(portraits, 3, 1, 1) + F.max_pool2d(-portraits, 3, 1, 1)  # largest minus smallest of 3x3 pixels
with torch.inference_mode():
    from_clean = last(invert(face_denoiser(vp), vp, originals, log_snr_times(vp, 32, t_min=t_min)[:-1]))
print("spread of the code    everywhere   flat parts   edges   correlation of neighbours")
for name, found in (("from clean faces", from_clean), ("from faces with grain", trip[32][0])):
    spreads = [part.std().item() for part in (found, found[contrast < 0.05], found[contrast > 0.3])]
    neighbours = (found[..., 1:] * found[..., :-1]).mean() / found.square().mean()
    print(f"{name:21} {spreads[0]:8.2f} {spreads[1]:12.2f} {spreads[2]:9.2f} {neighbours:12.3f}")
print("noise                     1.00         1.00      1.00    0 +- 0.01")

# %% [markdown]
# The clean face is no typical state at $t = 0.0001$. On a flat cheek the states there differ by their grain alone, and the ODE magnifies exactly that to the noise at $t = 1$. A cheek without grain has nothing
# to magnify, so its code is too quiet. (The last column asks whether neighbouring pixels of the code are independent, as in noise.) **How to recognise it:** invert, and measure the spread of the code on flat parts. Grain that no eye can see repairs it; what is still missing is the network's error.
#
# ### From one face to another
#
# Two codes $a$ and $b$. Which noise lies between them? The obvious average $(a + b)/2$ is too quiet: variances add, so each pixel has variance
# $\tfrac14 + \tfrac14 = \tfrac12$. In 3072 dimensions noise lives on a thin shell of radius $\sqrt{3072} \approx 55$, and the average lies far inside, at 39, where the network has never been.
# **Spherical interpolation** (→ Exercise 06.7) goes along the shell: with $\omega$ the angle between $a$ and $b$,
#
# $$\operatorname{slerp}(a, b; w) = \frac{\sin((1-w)\,\omega)}{\sin\omega}\, a + \frac{\sin(w\,\omega)}{\sin\omega}\, b .$$


# %%
def slerp(a, b, w):
    """From a (w = 0) to b (w = 1) at constant angular speed; a and b are (1, C, H, W)."""
    omega = F.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).arccos().view(-1, 1, 1, 1)
    return (((1 - w) * omega).sin() * a + (w * omega).sin() * b) / omega.sin()


ways = torch.linspace(0, 1, 7)
first, second = code[:1], code[1:2]
between = {
    "slerp": torch.cat([slerp(first, second, w) for w in ways]),
    "linear": torch.cat([torch.lerp(first, second, w) for w in ways]),
}
steps = log_snr_times(vp, 24)
with torch.inference_mode():
    walked = {name: last(probability_flow(face_denoiser(vp), vp, z, steps)) for name, z in between.items()}
averages = torch.cat([torch.lerp(originals[:1], originals[1:2], w) for w in ways])
plots.image_grid(
    domain.decode(torch.cat([walked["slerp"], walked["linear"], averages])).clamp(0, 1),
    [
        *[f"slerp, |z| = {norm:.0f}" for norm in between["slerp"].flatten(1).norm(dim=1)],
        *[f"linear, {norm:.0f}" for norm in between["linear"].flatten(1).norm(dim=1)],
        *[f"pixels, {w:.2f}" for w in ways],
    ],
    title="Along the shell every picture is a face; inside it details fade; averaged pixels show two faces",
    alt="Three rows of seven images from one face on the left to another on the right. With slerp every image on the way is a face of its own. Linear interpolation of the noise gives "
    "smoother, paler pictures in the middle. The average of pixels is a double exposure of both faces.",
    zoom=4,
    columns=7,
)

# %% [markdown]
# In the first row every picture starts from noise of the usual loudness, so the model treats it like any other sample. In the second the noise is too quiet in the middle, and details fade. In the last
# row the middle pictures are double exposures: halfway between two faces in *pixels* there is no face.
#
# <details><summary><b>Question.</b> What would happen if you noised both faces with the forward SDE up to t = 1 and interpolated those states instead?</summary>
#
# $z_1 = \alpha_1 z_0 + \sigma_1\epsilon$ is then almost pure fresh noise: it holds nothing of the face. You would get a walk between two random faces, different for every seed. Only the
# ODE ties a face to one noise image.
# </details>
#
# ## 11. A real photo: how late may you start?
#
# In super-resolution you rarely start from nothing: an enlarged photo is already there. Noise it up to a time $t_0 < 1$ and run the reverse process from there. The forward SDE
# drowns details first and large shapes last, so a small $t_0$ keeps the shapes and lets the model redraw the details. SDEdit (arXiv:2108.01073) edits pictures in this way; CCDF (arXiv:2112.05146), in the survey's
# section on zero-shot methods, uses it to save steps.
#
# The networks of chapter 00 do this on a crop of a photo. The regression answer is the sure part; the state is what it leaves out, in units of its own uncertainty, and $z_0 = 0$ means "add nothing". We start from that, noised to $t_0$.

# %%
hr = photo("chelsea")[..., 64:192, 80:208]
lr = resize(hr, 1 / 4)
regression, residual = load_pretrained("photo-regression-x4"), load_pretrained("photo-residual-x4")
source = standard_normal(5)(hr)
answers = {}
with torch.inference_mode():
    mean, spread, cond = condition(regression, lr)
    refine = NetworkDenoiser(residual, schedule=vp)
    for t_0 in (0.1, 0.4, 0.7, 1.0):
        steps = log_snr_times(vp, 10, t_max=t_0, t_min=0.01)
        z = vp.sigma(t_0).float() * source  # z_0 = 0, noised to t_0
        z_0 = last(probability_flow(lambda z, t, _=None: refine(z, t, cond), vp, z, steps))
        answers[f"$t_0$ = {t_0}"] = (mean + spread * z_0).clamp(0, 1)
shown = {"original": hr, "regression": mean.clamp(0, 1), **answers}
scores = {name: (psnr(image, hr, crop=4).item(), sliced_wasserstein(image, hr).item()) for name, image in shown.items()}

# %%
plots.image_grid(
    list(shown.values()),
    [name if name == "original" else f"{name}: {scores[name][0]:.1f} dB, {scores[name][1]:.4f}" for name in shown],
    title="Started from more noise, the fur comes back and the PSNR goes down",
    alt="Six crops of a cat's eye and fur. The original has fine fur. The regression is smooth. "
    + " ".join(
        f"{name.replace('$', '')}: PSNR {scores[name][0]:.1f} dB, sliced Wasserstein {scores[name][1]:.4f}."
        for name in list(shown)[1:]
    )
    + " Fur appears as the starting time grows.",
    caption="PSNR on luma (higher is closer, pixel by pixel) and sliced Wasserstein distance of 7x7 patches (lower: textures occur more nearly as often as in the original).",
    zoom=2,
    columns=3,
)

# %% [markdown]
# Read it as a dial. Towards $t_0 = 0$ the answer is the regression: the highest PSNR, the smoothest fur. Towards $t_0 = 1$ it is a sample: its textures occur more nearly as often as the original's, and pixel by pixel it is
# farther from the truth (chapter 02 explains why that is the price). A start at 0.4 can save calls as well: for the same step size the grid is shorter (ours has ten steps each time). One crop and one seed prove nothing about which is better, and
# more noise has its price: look into the iris, where the sample has grown fur. Chapter 13 measures it over many photos.
#
# > **Common mistakes**
# >
# > - $dt$ instead of $\sqrt{dt}$ in front of the noise: the variance depends on the number of steps (section 2).
# > - $g$ for $g^2$ in front of the score, or the $\tfrac12$ of the ODE in the SDE.
# > - Drift or diffusion typed by hand next to $\alpha$ and $\sigma$: a factor of two goes unnoticed (section 4). Derive them.
# > - A variance used as a standard deviation, in sub-VP above all.
# > - Starting VE from $N(0, 1)$; starting any schedule from a law that is not its $p_1$.
# > - Noise in the last step, or a score at $t = 0$, where it does not exist.
# > - Corrector norms averaged over the batch.
# > - Inverting an image that lacks the grain of its state; linear interpolation of noise (section 10).
#
# > **In the papers**
# >
# > - Song et al. (arXiv:2011.13456) introduced the SDE view, the probability-flow ODE for diffusion models, predictor–corrector sampling and sub-VP. On CIFAR-10 their best FID, 2.20, is a VE model's with a corrector ($r = 0.16$); their best likelihood, 2.99 bits per dimension, is a sub-VP model's, along the ODE. In their table 1, at equal cost, a corrector helps the VE model clearly and the VP model hardly.
# > - Kingma et al. (arXiv:2107.00630) obtain $f$ and $g$ from $\alpha$ and $\sigma$, as in section 4.
# > - Karras et al. (arXiv:2206.00364) choose $\alpha = 1$, $\sigma = t$ and Heun's method, and add a little noise back on purpose: the trade-off of section 7.
# > - DDIM (arXiv:2010.02502) with $\eta = 0$ is another discretisation of the same ODE.
#
# > **Going further**
# >
# > - Why Anderson's SDE is the film in reverse and not only a process with the same law: Anderson, *Reverse-time diffusion equation models* (1982).
# > - The likelihood of an image along the ODE: chapter 08. Better solvers for the same ODE: chapter 07.

# %% [markdown]
# ## Recap
#
# 1. **Simulate:** Euler–Maruyama is a loop; noise enters with $\sqrt{dt}$, because variances add.
# 2. **Show:** DDPM is the VP SDE and NCSN the VE SDE up to an error of order $1/T$, slope $-1$ measured.
# 3. **Derive:** $f = d\log\alpha/dt$ and $g^2 = d\sigma^2/dt - 2 f\sigma^2$; `moment_residual` integrates back and catches a factor of two.
# 4. **Reverse:** for the law, shaking is a wind $-\tfrac12 g^2 s_t$. Hence the ODE, Anderson's SDE and everything between; $W_1$ cannot tell them apart, and scipy confirms the solver.
# 5. **Choose:** the ODE keeps errors and needs few steps; the SDE forgets as much as $z_0$ and $z_\tau$ are uncorrelated, and takes a wrong score twice as hard; a corrector repairs the law.
# 6. **Invert:** the ODE ties every face to one noise image, a typical one if the face starts with its grain; between two of them walk along the shell.
#
# Next: solvers that need ten calls instead of sixty.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through Stochastic Differential Equations*, arXiv:2011.13456.
# - Anderson, *Reverse-time diffusion equation models*, Stochastic Processes and their Applications 12, 1982.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, arXiv:2006.11239.
# - Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, arXiv:2010.02502.
# - Song, Ermon, *Generative Modeling by Estimating Gradients of the Data Distribution*, arXiv:1907.05600.
# - Kingma, Salimans, Poole, Ho, *Variational Diffusion Models*, arXiv:2107.00630.
# - Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*, arXiv:2206.00364.
# - Meng et al., *SDEdit*, arXiv:2108.01073. Chung, Sim, Ye, *Come-Closer-Diffuse-Faster* (CCDF), arXiv:2112.05146.
