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
# # 05 Score-based models: which way is up?
#
# Chapter 04 built a diffusion model as a chain of small steps with a bound on the likelihood. There is a second road to the
# same place. It starts from one question: *standing at this point, in which direction do the data become more likely?*
# Whoever can answer it everywhere, at every level of noise, can sample.
#
# ## What you will be able to do
#
# 1. **Compute** the score of a mixture, and say what a score cannot see.
# 2. **Run** Langevin dynamics and predict the bias that its step size leaves.
# 3. **Derive** four losses that learn a score from samples, and prove numerically that they differ by constants.
# 4. **Show** where naive score matching fails, and why noise repairs it.
# 5. **Train** a small noise-conditional score network, judge it against the right target, and sample with annealed Langevin dynamics.
# 6. **Convert** between eps, $z_0$, v and the score in any direction.
#
# *Not covered:* continuous time (chapter 06) and fast samplers (chapter 07).
#
# **Prerequisites:** [chapter 00](00_start_here.ipynb), gradients, Gaussian densities, a little PyTorch. Chapter 04 helps but is not needed.
# Reading time: 70 minutes. Running time: about 30 s on two cores.
# Survey section: III-B, Score-based Generative Models (arXiv:2401.00736).
# Exercises: [exercises](../exercises/05_score_based_models.ipynb), to be done as you go; answers in [solutions](../solutions/05_score_based_models.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $z_0$, $z_t$ | `z_0`, `z` | a data point (a *state*); the same with noise: $z_t = \alpha_t z_0 + \sigma_t\epsilon$ |
# > | $p$, $p_t$ | `law` | density of the data; density of $z_t$ |
# > | $s(z)$ | `score(z)` | score, $\nabla_z \log p(z)$; with noise `score(z, t)` for $\nabla_z\log p_t(z)$ |
# > | $\sigma_1 > \dots > \sigma_L$ | `ladder` | the noise levels of NCSN; here $\alpha = 1$ |
# > | $\epsilon$ | `eps`, `noise(z)` | standard normal noise, as many numbers as $z$ has (chapter 04's $\varepsilon$) |
# > | $a$, $a_i$ | `step_size` | Langevin's step, $z + \tfrac a2 s(z) + \sqrt a\,\epsilon$; the step at level $i$ |
# > | $D$ | | number of dimensions of a state |
# >
# > In the survey $\alpha$ is, depending on the section, a noise variance, a retention or the Langevin step size. Here $\alpha_t$
# > is always the factor in front of $z_0$, and the step size is $a$. States of images run from $-1$ to $1$.

# %%
import math

import torch
from torch import nn

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import KINDS, NetworkDenoiser, from_z_0, to_z_0
from tutorial_lib.domains import Pixel
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import EmpiricalData, Gaussian, GaussianMixture, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import annealed_langevin, trajectory
from tutorial_lib.schedules import edm, ve, vp_cosine
from tutorial_lib.score_matching import (
    denoiser_from_score,
    denoising_loss,
    explicit_loss,
    implicit_loss,
    ladder_step_sizes,
    ladder_times,
    noise_ladder,
    rademacher,
    score_error,
    sliced_loss,
)
from tutorial_lib.steps import langevin_step
from tutorial_lib.widgets import wilson_interval

# %% [markdown]
# ## 1. A blind walk that finds the data
#
# The data of this chapter: two clouds in the plane. One point in five belongs to the lower left cloud, four to the upper
# right one. Now drop 1,000 walkers anywhere. They do not know the density. All they are told is the direction in which
# it grows; each of 500 times they take a small step that way and stumble a little:

# %% tags=["nbval-check-output"]
law = GaussianMixture(
    torch.tensor([0.2, 0.8]),
    torch.tensor([[-3.0, -2.0], [3.0, 2.0]]),
    torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.7, 0.4], [0.4, 0.7]]]),
)


def scattered(n):
    """n walkers, evenly spread over the square from -6 to 6."""
    return 12 * torch.rand(n, 2, generator=torch.Generator().manual_seed(0)) - 6


def walk(score, z, step_size=0.1, steps=500, seed=0):
    """Langevin dynamics: (B, D) -> (B, D)."""
    noise = standard_normal(seed)  # noise(z): normal numbers, as many as z has
    for _ in range(steps):
        z = langevin_step(z, score(z), step_size, noise)
    return z


start = scattered(1000)
arrived = walk(law.score, start)
print(f"in the upper right cloud: {(arrived[:, 0] > 0).float().mean():.3f} of the walkers, 0.8 of the data")


# %%
def plane(law, sigma=0.0, reach=6.0, n=121):
    """The density of data plus noise over a square: axis (n,) and values (n, n), rows are z_2."""
    axis = torch.linspace(-reach, reach, n)
    grid = torch.cartesian_prod(axis, axis)
    return axis, law.log_prob(grid, 1.0, sigma).exp().view(n, n).T


def dots(z, title, reach=6.0):
    """One panel of a strip: points over the density of the data."""
    axis, density = plane(law, reach=reach)
    alt = f"Points over the density of two clouds: {title}."
    return plots.density_2d(axis, axis, {"": density}, points={"": z}, title=title, alt=alt, width=330, height=360)


plots.strip(
    [
        dots(law.sample(1000), "1,000 data points"),
        dots(start, "the walkers at the start"),
        dots(arrived, "the walkers after 500 steps"),
    ],
    title="Walkers who only know which way is up end where the data are",
    alt="Three scatter plots over the density of two clouds. Left, data: a small cloud at (-3, -2) and one four times as populated"
    " at (3, 2). Middle, walkers spread evenly over the square. Right, after 500 steps: all walkers lie in the two clouds, half in each.",
)

# %% [markdown]
# Every walker has arrived, and each cloud has the right shape. But half of them sit in the small cloud, where one in five should.
# So there is something to explain (why does it work at all?) and something to repair (why are the shares wrong?).
# Both have the same root.
#
# ## 2. The score
#
# The direction the walkers were given is the **score**, the gradient of the log-density with respect to the *state*:
#
# $$s(z) = \nabla_z \log p(z) = \frac{\nabla_z\, p(z)}{p(z)} .$$
#
# (Statisticians use the word for the gradient with respect to *parameters*. Nothing here is that.) Why the logarithm? Write
# $p = \tilde p / Z$ with an unknown normaliser $Z$. Then $\log p = \log \tilde p - \log Z$, and the gradient of a constant is
# zero. Normalising is what makes models of densities so hard in 3,072 dimensions (a colour picture of 32×32), and a model of the
# score never has to do it.
#
# For a Gaussian $\mathcal N(m, C)$ the score is $C^{-1}(m - z)$: a spring that pulls towards the mean. For a mixture
# $p = \sum_k w_k \mathcal N_k$ the gradient of the sum, divided by the sum, is an average of springs,
#
# $$s(z) = \sum_k r_k(z)\, C_k^{-1} (m_k - z), \qquad r_k(z) = \frac{w_k \mathcal N_k(z)}{\sum_j w_j \mathcal N_j(z)} ,$$
#
# weighted by the *responsibilities* $r_k$: how likely it is that a point found at $z$ came from part $k$.


# %%
def my_score(z, weights, means, covariances):
    """The score of a Gaussian mixture: (B, D) -> (B, D)."""
    parts = [torch.distributions.MultivariateNormal(m, c) for m, c in zip(means, covariances, strict=True)]
    log_joint = weights.log() + torch.stack([part.log_prob(z) for part in parts], 1)  # (B, K)
    responsibilities = log_joint.softmax(1)
    springs = torch.stack([(m - z) @ torch.linalg.inv(c) for m, c in zip(means, covariances, strict=True)], 1)
    return (responsibilities[..., None] * springs).sum(1)


probe = scattered(200).double().requires_grad_()
by_autograd = torch.autograd.grad(law.log_prob(probe).sum(), probe)[0]
torch.testing.assert_close(my_score(probe, law.weights, law.means, law.covariances), law.score(probe))
torch.testing.assert_close(by_autograd, law.score(probe))

# %%
axis, density = plane(law)
spots = torch.cartesian_prod(torch.linspace(-5.5, 5.5, 16), torch.linspace(-5.5, 5.5, 16))
plots.density_2d(
    axis,
    axis,
    {"": density},
    arrows=(spots, law.score(spots)),
    title="The score points uphill, longest where there are no data",
    alt="A field of arrows over the density of two clouds. Every arrow points to one of the clouds; arrows shrink to nothing at"
    " the two centres and are longest far from both, at the lower right. A diagonal seam from top left to bottom right"
    " separates arrows to the lower left cloud from arrows to the upper right one.",
    caption="Half-way between the clouds runs a seam: on either side the arrows turn to different clouds.",
    width=520,
    height=500,
)

# %% [markdown]
# (→ Exercise 05.1)
#
# ### What a score cannot see
#
# Near the small cloud $r_1 \approx 1$, whatever the weights are. So the score there is that cloud's own, and so it is at the
# large one. The weights 0.2 and 0.8 act only on the seam, where hardly any data lie. Move along the
# line through both centres, for two laws that differ in nothing but the weights:

# %% tags=["nbval-check-output"]
even = GaussianMixture(torch.tensor([0.5, 0.5]), law.means, law.covariances)
along = torch.linspace(-0.2, 1.2, 281)
points = law.means[0] + along[:, None] * (law.means[1] - law.means[0])
direction = (law.means[1] - law.means[0]) / (law.means[1] - law.means[0]).norm()
slopes = {
    "weights 0.2 and 0.8": law.score(points) @ direction,
    "weights 0.5 and 0.5": even.score(points) @ direction,
}
sample = law.sample(50_000)
gap = explicit_loss(even.score, law.score, sample)  # half the squared difference, for each sample
size = law.score(sample).square().sum(1) / 2
print(f"half the mean squared score {size.mean():.3f}, half the mean squared difference {gap.mean():.6f}")

# %%
plots.curves(
    along,
    slopes,
    title="Different weights, and yet the same score wherever there are data",
    alt="Two lines over the position between the clouds. They coincide everywhere but for a narrow strip around 0.4, where both"
    " jump from about -5 to 4; the law with equal weights jumps slightly further to the right.",
    xlabel="position on the line from one centre (0) to the other (1)",
    ylabel="score along the line",
    vertical={"small cloud": 0.0, "large cloud": 1.0},
)

# %% [markdown]
# In the mean over the data, the squared difference is some sixty thousand times smaller than the squared score itself.
#
# That explains section 1. Walkers start on one side of the seam or the other, and no arrow leads across. So the share of a cloud
# is the share of the *starting places* on its side, about half of the square; nothing that the walkers meet later corrects it.
# In theory a walker crosses in the end. In practice the wait grows exponentially with the depth of the valley in $\log p$.
#
# ## 3. Langevin dynamics
#
# Why does a walk along the score end in samples, and not just at the peaks? Because of the stumbling. One step is
#
# $$z \;\leftarrow\; z + \tfrac a2\, s(z) + \sqrt a\,\epsilon, \qquad \epsilon\sim\mathcal N(0, I) .$$
#
# The score pulls together and the noise pushes apart. Suppose the walkers have density $p$, and count who passes a point in one small step. The pull
# carries a stream $\tfrac a2\, p\, s$ uphill. Random steps of variance $a$ carry a stream $-\tfrac a2 \nabla p$, from where there are many walkers to where
# there are few. With $s = \nabla p / p$ the two cancel at every point, so $p$ stays $p$. (That is why ½ goes with $\sqrt a$.)
#
# This holds for $a \to 0$. How good is a step size that is not zero? For data $\mathcal N(0, v)$ we can tell exactly. The score is $-z/v$, so the step is
# $z \leftarrow (1 - \tfrac{a}{2v})\,z + \sqrt a\,\epsilon$, and the variance $V$ of the walkers obeys
#
# $$V \leftarrow \Big(1 - \frac{a}{2v}\Big)^2 V + a \qquad\Longrightarrow\qquad V_\infty = \frac{a}{1 - (1 - \frac a{2v})^2} = \frac{v}{1 - a/(4v)} .$$
#
# The limit is *not* $v$. It is too wide for every step size; it explodes as $a$ approaches $4v$; beyond that each step
# overshoots by more than it corrects.

# %% tags=["nbval-check-output"]
gaussian = Gaussian(torch.zeros(1), torch.ones(1, 1))  # v = 1
settled = {a: walk(gaussian.score, torch.zeros(20_000, 1), a, 300)[:, 0] for a in (0.2, 3.0)}
for a, z in settled.items():
    expected = 1 / (1 - a / 4)
    print(f"a = {a}: variance {z.var():.3f}, formula {expected:.3f} +- {expected * math.sqrt(2 / len(z)):.3f}")
    assert abs(z.var() - expected) < 5 * expected * math.sqrt(2 / len(z))
print(f"a = 4.2: after 300 steps the variance is {walk(gaussian.score, torch.zeros(2000, 1), 4.2, 300).var():.1e}")

# %%
x = torch.linspace(-7, 7, 281)
plots.histogram(
    {f"walkers, a = {a}": z.clamp(-7, 7) for a, z in settled.items()},
    exact={
        f"N(0, {1 / (1 - a / 4):.2f})": (
            x,
            Gaussian(torch.zeros(1), torch.full((1, 1), 1 / (1 - a / 4))).log_prob(x[:, None]).exp(),
        )
        for a in settled
    },
    title="Too large a step leaves too wide a cloud, by a factor known exactly",
    alt="Two histograms around 0 with their predicted Gaussian curves. Step size 0.2: tall and narrow, on a curve of variance 1.05."
    " Step size 3: half as tall and twice as wide, on a curve of variance 4. The data have variance 1.",
    xlabel="z (the data are N(0, 1))",
)

# %% [markdown]
# Both clouds are Gaussian, as they should be. The right shape with the wrong width is the mark of a large step, and you
# cannot see it without knowing the true variance. (→ Exercise 05.2)
#
# ## 4. Learning a score from samples
#
# Now suppose that you have samples of $p$ and no formula. You want a network $s_\theta(z)$ close to the score,
#
# $$J_{\text{explicit}} = \tfrac12\, \mathbb E_{p}\, \big\| s_\theta(z) - \nabla\log p(z) \big\|^2 .$$
#
# The target is unknown, so this cannot be computed. Hyvärinen (2005) found the way out. Expand the square. The term with
# $\|s_\theta\|^2$ is an average over samples: fine. The term with $\|\nabla\log p\|^2$ does not depend on $\theta$: drop it. What is left is the
# cross term, and there $p\,\nabla\log p = \nabla p$ allows integration by parts ($p$ vanishes far out):
#
# $$-\int p\; s_\theta\cdot\nabla\log p \;dz= -\int s_\theta\cdot\nabla p\;dz = \int p\;\mathrm{tr}\big(\nabla s_\theta\big)\,dz .$$
#
# Here $\nabla s_\theta$ is the Jacobian, the $D\times D$ matrix of derivatives $\partial s_i/\partial z_j$, and its trace is the sum of the $\partial s_i/\partial z_i$.
# So the **implicit** loss needs samples and the network only:
#
# $$J_{\text{implicit}} = \mathbb E_p\Big[\mathrm{tr}\big(\nabla s_\theta(z)\big) + \tfrac12\|s_\theta(z)\|^2\Big] = J_{\text{explicit}} - \tfrac12\,\mathbb E_p\|\nabla\log p\|^2 .$$
#
# Read it as two wishes. "Be zero at the data" (small norm: the data should sit on a summit) and "point inwards
# around them" (negative trace: a summit, not a valley).
#
# The trace costs one backward pass for each of the $D$ dimensions. **Sliced** score matching (arXiv:1905.07088) estimates
# it: for a random $v$ with $\mathbb E[vv^\top] = I$,
#
# $$\mathbb E_v\big[v^\top \nabla s_\theta\, v\big] = \mathrm{tr}\big(\nabla s_\theta\; \mathbb E[vv^\top]\big) = \mathrm{tr}(\nabla s_\theta),$$
#
# one backward pass whatever $D$. In code:


# %%
def curvature(score, z, v):
    """v^T (ds/dz) v and s: (B, D), (B, D) -> (B,), (B, D)."""
    z = z.clone().requires_grad_()
    s = score(z)
    along_v = torch.autograd.grad((s * v).sum(), z, create_graph=True)[0]  # the vector v^T ds/dz
    return (along_v * v).sum(1), s


def my_sliced(score, z, v):
    bend, s = curvature(score, z, v)
    return bend + s.square().sum(1) / 2


def my_implicit(score, z):
    trace = sum(curvature(score, z, unit.expand_as(z))[0] for unit in torch.eye(z.shape[1]).to(z))
    return trace + score(z).square().sum(1) / 2


def guess(z):
    """A score that is not right: it points to the large cloud only, and no coordinate pulls harder than 1."""
    return torch.tanh(law.means[1].to(z) - z)


signs = rademacher(standard_normal(0))(sample)
torch.testing.assert_close(my_implicit(guess, sample), implicit_loss(guess, sample))
torch.testing.assert_close(my_sliced(guess, sample, signs), sliced_loss(guess, sample, rademacher(standard_normal(0))))

# %% [markdown]
# The claim is that these losses are the explicit one less a constant, half the mean squared score. We know the mixture's score,
# so the claim can be tested, for this guess and for the true score. (`size` of section 2 is what has to be taken off; a difference is zero when it is
# no larger than a few of its standard errors.)


# %% tags=["nbval-check-output"]
def report(name, score):
    explicit = explicit_loss(score, law.score, sample)
    for kind, loss in (
        ("implicit", implicit_loss(score, sample)),
        ("sliced", sliced_loss(score, sample, standard_normal(0))),
    ):
        difference = explicit - size - loss
        error = difference.std() / math.sqrt(len(sample))
        print(
            f"{name}: explicit - constant {(explicit - size).mean():7.3f}   {kind:8} {loss.mean():7.3f}   difference {difference.mean():6.3f} +- {error:.3f}"
        )
        assert abs(difference.mean()) < 5 * error


report("tanh spring", guess)
report("true score ", law.score)

# %% [markdown]
# At the true score the loss is not zero but minus the constant, the lowest value there is. Keep that in mind when you watch a
# loss curve: *a score-matching loss has no natural zero*. (→ Exercise 05.3)
#
# <details><summary><b>Question.</b> Why does a random sign vector give the exact trace for <code>guess</code>, but not for the mixture's score?</summary>
#
# $v^\top J v = \sum_{ij} v_i J_{ij} v_j$. On the diagonal $v_i^2 = 1$ always; off the diagonal $v_i v_j$ is random with mean zero. The
# guess acts on each coordinate alone, its Jacobian is diagonal and there is nothing random left. With Gaussian $v$ even
# $v_i^2$ fluctuates.
# </details>
#
# ## 5. Where there are no data, there is no lesson
#
# Train a network with the sliced loss on 4,000 points. It never sees a score. We do, so we can mark its work.


# %%
def perceptron(inputs):
    return nn.Sequential(nn.Linear(inputs, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))


def train(network, loss_of, steps, rate=3e-3):
    """Adam with a cosine decay; `loss_of(network, generator)` gives one value per sample."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = loss_of(network, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return network.requires_grad_(False).eval()


data = law.sample(4000)
directions = rademacher(standard_normal(1))


def naive_loss(network, generator):
    batch = data[torch.randint(len(data), (256,), generator=generator)]
    return sliced_loss(network, batch, directions)


torch.manual_seed(0)
naive = train(perceptron(2), naive_loss, 800)

# %%
grid = torch.cartesian_prod(axis, axis)
error = (naive(grid) - law.score(grid)).norm(dim=1).view(len(axis), -1).T
weighted = error**2 * density
everywhere, at_data = error.square().mean().sqrt(), weighted.sum().div(density.sum()).sqrt()
print(f"root mean squared error of the score: {at_data:.2f} over the data, {everywhere:.2f} over the square")

# %%
plots.density_2d(
    axis,
    axis,
    {
        "density of the data": density / density.max(),
        "error": error / error.max(),
        "squared error x density": weighted / weighted.max(),
    },
    title="The network is wrong where there are no data, and its loss cannot tell",
    alt="Three maps of the plane. Left, the density: two dark clouds. Middle, the size of the score's error: white in and around"
    " the two clouds, grey to black along the seam between them, darkest towards the top left and bottom right corners. Right,"
    " squared error times density: the corners are white; what remains lies in the clouds and on the short bridge between them.",
    caption="Each map is divided by its largest value. Before that, half the integral of the right one is the explicit loss.",
    width=960,
    height=360,
)

# %% [markdown]
# The loss is a mean *over the data*: it sees the map on the right, where the corners with the largest errors have vanished. An error out there
# costs nothing, because no sample is ever drawn there. A sampler, however, starts exactly there. In two dimensions our walkers are lucky and stumble
# into a cloud sooner or later. In 3,072 dimensions practically all of the space is empty, real images lie near a thin surface, and
# a start at random is *always* in no man's land. So naive score matching has two troubles:
#
# - the score is unknown where the sampler needs it first;
# - where it is known, it says nothing about the shares of separate clouds.
#
# <details><summary><b>Question.</b> Would ten times more data help?</summary>
#
# Hardly. Between the clouds the density is thousands of times lower than in them; with ten times the data a few more
# points fall there. The empty volume grows exponentially with the dimension, the number of samples does not.
# </details>
#
# ## 6. Noise fills the empty space
#
# Song and Ermon's idea (arXiv:1907.05600) is disarmingly simple: if the data leave space empty, spread them out. Add noise
# of standard deviation $\sigma$. The law of $z = z_0 + \sigma\epsilon$ is again a mixture, each cloud wider. Along the line through the centres:

# %%
plots.curves(
    along,
    {f"sigma = {sigma:g}": law.log_prob(points, 1.0, sigma) / math.log(10) for sigma in (0.0, 1.0, 2.0, 4.0)},
    title="Noise fills the valley: at sigma = 4 there is one hill and no valley",
    alt="Four curves of log10 density along the line between the clouds. Without noise two peaks with a valley more than three"
    " decades deep between them. With sigma 1 the valley is one decade deep, with sigma 2 a slight dip, with sigma 4 it is gone.",
    xlabel="position on the line from one centre (0) to the other (1)",
    ylabel="log10 of the density",
    ylim=(-5, 1.2),
    vertical={"small cloud": 0.0, "large cloud": 1.0},
)

# %% [markdown]
# With much noise there are data everywhere, so the score can be learned everywhere, and one connected hill lets
# walkers find their shares. The price: it is the score of a blurred law. Hence *many* levels, from so much noise
# that the clouds merge to so little that nobody minds.
#
# ### The score of noisy data is a denoiser
#
# Noise does us a second favour. The density of $z = \alpha z_0 + \sigma\epsilon$ is an average of Gaussians centred at $\alpha z_0$,
#
# $$p_t(z) = \int p(z_0)\, \mathcal N(z;\, \alpha z_0, \sigma^2 I)\, dz_0 .$$
#
# Take the gradient under the integral. A Gaussian's gradient is itself times $(\alpha z_0 - z)/\sigma^2$. Divide by $p_t(z)$; by Bayes' rule
# $p(z_0)\,\mathcal N(z;\alpha z_0,\sigma^2 I)/p_t(z)$ is the posterior density of $z_0$ given $z$. What remains is a posterior mean:
#
# $$\nabla \log p_t(z) = \mathbb E\Big[\frac{\alpha z_0 - z}{\sigma^2}\,\Big|\,z\Big] = \frac{\alpha\,\mathbb E[z_0\mid z] - z}{\sigma^2} = -\frac{\mathbb E[\epsilon\mid z]}{\sigma} .$$
#
# This is **Tweedie's formula**. To know the score of noisy data is to know the best denoiser, and the other way
# round. Check it by hand where the posterior is known. For $z_0\sim\mathcal N(m, v)$ on a line the exponent of the posterior is
#
# $$-\frac{(z_0-m)^2}{2v} - \frac{(z-\alpha z_0)^2}{2\sigma^2} = -\frac12\Big(\frac1v + \frac{\alpha^2}{\sigma^2}\Big) z_0^2 + \Big(\frac mv + \frac{\alpha z}{\sigma^2}\Big) z_0 + \dots$$
#
# A Gaussian with exponent $-\tfrac12 P z_0^2 + b z_0$ has mean $b/P$, for $-\tfrac12 P z_0^2 + b z_0 = -\tfrac12 P (z_0 - b/P)^2 + \dots$ So, after multiplying
# both by $v\sigma^2$, $\mathbb E[z_0\mid z] = (\sigma^2 m + \alpha v z)/(\sigma^2 + \alpha^2 v)$. And the other way: $z$ has variance $\alpha^2 v+\sigma^2$, its score is
# $(\alpha m - z)/(\alpha^2 v + \sigma^2)$, and Tweedie gives $\big(z + \sigma^2 s\big)/\alpha = (\alpha v z + \sigma^2 m)/(\alpha^2 v + \sigma^2)$. The same.
#
# For the mixture, three ways to one number: the closed form; Tweedie with a score from autograd; and brute force, an average of 200,000
# data points weighted by how likely each is to have become $z$.

# %% tags=["nbval-check-output"]
alpha, sigma = 0.8, 1.5
z = torch.tensor([[0.3, -0.5]], dtype=torch.float64, requires_grad=True)
score_by_autograd = torch.autograd.grad(law.log_prob(z, alpha, sigma).sum(), z)[0]
z = z.detach()
tweedie = (z + sigma**2 * score_by_autograd) / alpha

candidates = law.sample(200_000, standard_normal(1)).double()
likelihood = (-(z - alpha * candidates).square().sum(1) / (2 * sigma**2)).exp()
brute_force = (likelihood[:, None] * candidates).sum(0) / likelihood.sum()
error = ((likelihood[:, None] * (candidates - brute_force)).square().sum(0)).sqrt() / likelihood.sum()

torch.testing.assert_close(tweedie, law.denoise(z, alpha, sigma))
assert ((brute_force - tweedie).abs() < 5 * error).all()
print("closed form", [f"{x:.4f}" for x in law.denoise(z, alpha, sigma)[0].tolist()])
print("Tweedie    ", [f"{x:.4f}" for x in tweedie[0].tolist()])
print("brute force", [f"{x:.4f} +- {e:.4f}" for x, e in zip(brute_force.tolist(), error.tolist(), strict=True)])

# %% [markdown]
# ## 7. Denoising score matching
#
# A regression with squared error learns the conditional mean of its target. By Tweedie the score is the conditional mean of
# $-\epsilon/\sigma$. So regress on $-\epsilon/\sigma$, which you know, because you added the noise yourself (Vincent, 2011):
#
# $$J_{\text{denoising}} = \tfrac12\,\mathbb E\Big\|s_\theta(z_t) + \frac{\epsilon}{\sigma}\Big\|^2 = \tfrac12\,\mathbb E\big\|s_\theta(z_t) - \nabla\log p_t(z_t)\big\|^2 + \tfrac12\Big(\frac D{\sigma^2} - \mathbb E\|\nabla\log p_t\|^2\Big) .$$
#
# Why the sum? Split $s_\theta + \epsilon/\sigma$ into $s_\theta - \nabla\log p_t$, which depends on $z_t$ alone, and $\nabla\log p_t + \epsilon/\sigma$, whose mean given $z_t$ is
# zero by Tweedie. So their product has mean zero. The second square does not depend on the network: it is the spread of $\epsilon/\sigma$ about its
# conditional mean $-\nabla\log p_t$, and a spread is the mean square, here $D/\sigma^2$, less the square of the mean.
#
# In four plain steps: draw a data point; add noise; show the result to the network; punish the squared distance to
# $-\epsilon/\sigma$. No trace, no second derivative. With the weight $\lambda = \sigma^2$, which section 8 explains:


# %%
def my_denoising(score, z_0, sigma, eps):
    """sigma^2 |s(z_0 + sigma eps) + eps / sigma|^2 / 2: (B, D) -> (B,)."""
    return (sigma * score(z_0 + sigma * eps) + eps).square().sum(1) / 2


schedule = edm(10.0)  # alpha = 1, sigma = 10 t
t, noise = 0.15, standard_normal(3)
ours = my_denoising(guess, sample, 1.5, standard_normal(3)(sample))
torch.testing.assert_close(ours, denoising_loss(lambda z, t: guess(z), schedule, sample, t, noise, weighted=True))

# %% [markdown]
# The constant matters more than it seems. For data $\mathcal N(m, vI)$ the mean squared score at level $t$ is $D/(\alpha^2 v + \sigma^2)$, so
# a *perfect* network has the weighted loss
#
# $$\sigma^2 \cdot \tfrac12\Big(\frac D{\sigma^2} - \frac{D}{\alpha^2v+\sigma^2}\Big) = \frac D2\Big(1 - \frac{\sigma^2}{\alpha^2 v + \sigma^2}\Big) .$$
#
# It is zero only for $v = 0$, a data set of a single point. Otherwise noise cannot be told from signal exactly, and
# the loss stays up. (→ Exercise 05.4)
#
# ### Break it: a check that zero would pass
#
# You wrote a loss and want to test it. An obvious test: one data point at the origin, whose score $-z/\sigma^2$ is known; the
# loss of that score must be zero. A public tutorial did just that. Watch what it lets through, beside a test with
# Gaussian data, where the right answer is a known number that is *not* zero:

# %% tags=["nbval-check-output"]
wrong = {
    "right": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) + eps).square().sum(1) / 2,
    "always zero": lambda s, z_0, eps, c: torch.zeros(len(z_0)),
    "no square": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) + eps).sum(1) / 2,
    "absolute value": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) + eps).abs().sum(1) / 2,
    "weight 1": lambda s, z_0, eps, c: (s(z_0 + c * eps) + eps / c).square().sum(1) / 2,
    "weight sigma": lambda s, z_0, eps, c: c * (s(z_0 + c * eps) + eps / c).square().sum(1) / 2,
    "first coordinate only": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) + eps)[:, 0].square() / 2,
    "first sample only": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) + eps)[:1].square().sum(1).expand(len(z_0)) / 2,
    "wrong sign": lambda s, z_0, eps, c: (c * s(z_0 + c * eps) - eps).square().sum(1) / 2,
    "clean input": lambda s, z_0, eps, c: (c * s(z_0) + eps).square().sum(1) / 2,
}
count, level = 40_000, 0.5  # the noise level is c in the losses
eps = standard_normal(4)(torch.empty(count, 2))
for name, loss in wrong.items():
    verdicts = []
    for v in (0.0, 1.0):
        z_0 = math.sqrt(v) * standard_normal(5)(eps)
        value = loss(lambda z, v=v: -z / (v + level**2), z_0, eps, level).mean()
        known = 1 - level**2 / (v + level**2)  # D = 2; one sample's loss is then exponential: deviation = mean
        verdicts.append("passes" if abs(value - known) < 5 * (known + 1e-6) / math.sqrt(count) else "caught")
    print(f"{name:22} one point: {verdicts[0]}   Gaussian: {verdicts[1]}")

# %% [markdown]
# Of nine wrong losses the single point lets seven pass, the constant zero among them. At a perfect fit all residuals are zero, so it does not
# matter what is done to them. The rule for every test you write: **the right answer should be a number that a lazy
# function does not return**.
#
# <details><summary><b>Question.</b> Your denoising loss has stopped falling at 0.41. Has the network learned the score?</summary>
#
# You cannot tell from that number: the floor is the constant, which depends on data and noise and is unknown for real data. Compare
# with a second model on the same samples and noise (the constant cancels), or look at samples. On a prior with a known score you
# can measure the error itself; section 8 does.
# </details>
#
# ## 8. One network for all levels: NCSN
#
# A noise-conditional score network $s_\theta(z, \sigma)$ learns a whole **ladder** of levels. They fall by a
# constant factor, so that the step from one level to the next is equally hard everywhere:
#
# $$\frac{\sigma_1}{\sigma_2} = \frac{\sigma_2}{\sigma_3} = \dots = \frac{\sigma_{L-1}}{\sigma_L} > 1 .$$
#
# $\sigma_1$ must bridge the largest distance in the data, $\sigma_L$ must be too small to matter. Our clouds are 7 apart: from 10 to 0.1.

# %% tags=["nbval-check-output"]
ladder = noise_ladder(10, sigma_max=10.0, sigma_min=0.1)
times = ladder_times(ladder, schedule)  # where the schedule has these levels, then 0
torch.testing.assert_close(schedule.sigma(times[:-1]), ladder)
print("levels:", " ".join(f"{sigma:.2f}" for sigma in ladder.tolist()), "  ratio:", f"{ladder[1] / ladder[0]:.3f}")

# %% [markdown]
# The losses of all levels are added. With which weights? The target $-\epsilon/\sigma$ has the size of $1/\sigma$, so unweighted
# losses grow like $1/\sigma^2$: at $\sigma = 0.1$ ten thousand times larger than at 10, and the network would learn the
# smallest level only. With $\lambda(\sigma) = \sigma^2$ each level's loss is $\tfrac12\mathbb E\|\sigma s_\theta + \epsilon\|^2$, of the same size everywhere.
# For the same reason the network's output is divided by $\sigma$: what it then has to produce, $\sigma s = -\mathbb E[\epsilon\mid z]$, is never much larger than one. (So
# $-\sigma s_\theta$ is a prediction of $\epsilon$. Up to the factor ½ this loss is the $L_\text{simple}$ of chapter 04.)


# %%
class ScoreNetwork(nn.Module):
    """s(z, t): a perceptron that is told the noise level."""

    def __init__(self):
        super().__init__()
        self.body = perceptron(3)

    def forward(self, z, t):
        sigma = schedule.sigma(t).float().expand(len(z))[:, None]
        # of about unit size at every level; the data's mean square is near 9
        inputs = torch.cat([z / (sigma**2 + 9).sqrt(), sigma.log() / 2], 1)
        return self.body(inputs) / sigma


noise = standard_normal(6)
pool = law.sample(50_000, noise)


def ladder_loss(network, generator):
    z_0 = pool[torch.randint(len(pool), (768,), generator=generator)]
    level = times[torch.randint(len(ladder), (768,), generator=generator)]  # one level for each sample
    return denoising_loss(network, schedule, z_0, level, noise, weighted=True)


torch.manual_seed(0)
learned = train(ScoreNetwork(), ladder_loss, 2000)

# %% [markdown]
# Now judge it. The network at level $\sigma$ has learned the score of the *noisy* data. So it must be compared with the
# score of the **diffused** mixture, at **noisy** points. The package's `score_error` does that. The dashed line makes the classic
# mistake: it takes a perfect network (the exact score of the noisy law) and compares it with the score of the clean mixture.


# %%
def exact(z, t):
    return law.score(z, schedule.alpha(t), schedule.sigma(t))


def mistaken_error(score, t):
    """The bug: a score at level t compared with the law that was not diffused."""
    z = schedule.alpha(t) * fresh + schedule.sigma(t) * standard_normal(8)(fresh)
    return schedule.sigma(t) ** 2 * explicit_loss(lambda z: score(z, t), law.score, z)


def mean_error(score, t):
    return score_error(score, law, schedule, fresh, t, standard_normal(8), weighted=True).mean()


fresh = law.sample(4000, standard_normal(7))
assert max(mean_error(exact, t) for t in times[:-1]) < 1e-9  # the exact network has no error, at any level

plots.curves(
    ladder,
    {
        "learned network, against the diffused mixture": torch.stack([mean_error(learned, t) for t in times[:-1]]),
        "exact network, against the clean mixture (a bug)": torch.stack(
            [mistaken_error(exact, t).mean() for t in times[:-1]]
        ),
        "a network that answers 0": torch.stack([mean_error(lambda z, t: 0 * z, t) for t in times[:-1]]),
    },
    title="A perfect network looks terrible when it is compared with the wrong law",
    alt="Three curves over the noise level from 0.1 to 10, both axes logarithmic. The learned network's error lies between about 0.0005 and"
    " 0.01 at all levels. That of a network that answers 0 rises from 0.02 to 1. The mistaken error of the exact network rises"
    " from 0.00002 at 0.1 to more than 10,000 at 10, crossing the others between 0.2 and 0.7.",
    caption="All are weighted by sigma squared. Against the diffused mixture the exact network's error is 0, which a logarithmic axis cannot show.",
    xlabel="noise level sigma",
    ylabel="half the mean squared error",
    logx=True,
    logy=True,
)

# %% [markdown]
# The mistaken comparison would have told you that a flawless network is worse than no answer at all from $\sigma = 0.77$ upwards.
#
# The learned network's error is small beside that of a network that answers 0, which is the size of the score itself. Take the root of the ratio of the
# two curves: a few per cent of the score at the large levels, about a tenth in the middle, a third or so at the smallest. There the score is tiny beside the noise in its
# training target. That is the price of learning from noisy targets. It does little harm, since the sampler's
# steps are shortest there.
#
# And the map of section 5? The same square, the same kind of network, at two of the levels:

# %%
maps = {}
for index in (3, 6):
    sigma = ladder[index].item()
    error = sigma * (learned(grid, times[index]) - exact(grid, times[index])).norm(dim=1)
    maps[f"with noise, sigma = {sigma:.2f}"] = error.view(len(axis), -1).T
maps["without noise (section 5)"] = (naive(grid) - law.score(grid)).norm(dim=1).view(len(axis), -1).T
plots.density_2d(
    axis,
    axis,
    {name: error.clamp(max=3) for name, error in maps.items()},
    title="Much noise: right everywhere. Little noise: right where the walkers will be by then",
    alt="Three maps of the score's error over the same square with one scale from 0 to 3. With noise of 2.15 the map is white. With noise of"
    " 0.46 it is white around the clouds and grey along the seam. Without noise it is black in most of the square outside the clouds.",
    caption="Error of the score (times sigma where there is noise), darkest from 3 on.",
    width=960,
    height=360,
)

# %% [markdown]
# <details><summary><b>Question.</b> Is that a fair comparison? The network of section 5 had 4,000 points and 800 steps, this one 50,000 and 2,000.</summary>
#
# A good objection. Given the same points, steps and batches, the sliced loss of section 5 comes to 0.10 over the data (before: 0.16) and 5.1
# over the square (before: 3.2). More lessons in the same places make the network better there and teach it nothing about the corners.
# </details>
#
# ## 9. Annealed Langevin dynamics
#
# Sampling is now almost obvious. Start in pure noise of the largest level. Walk there until the walkers are spread over the
# one big hill. Go one level down, where they start nearly right, and walk again. In words:
#
# 1. $z \leftarrow \sigma_1 \epsilon$.
# 2. For each level $\sigma_i$, set the step size $a_i$, and take $T$ Langevin steps with the score of that level.
# 3. At the end remove the last bit of noise with the denoiser (Tweedie).
#
# The step size follows the level: $a_i = a_L\,\sigma_i^2/\sigma_L^2$. The reason is a ratio. Where noise dominates, the score has the size of $1/\sigma$ in each
# coordinate, so a step moves by about $\tfrac{a}{2\sigma}$ and stumbles by $\sqrt a$:
#
# $$\frac{\|\tfrac a2 s\|}{\|\sqrt a\,\epsilon\|} \approx \frac{\sqrt{a_i}}{2\sigma_i} = \frac{\sqrt{a_L}}{2\sigma_L},$$
#
# the same at every level: neither all push nor all stumble. (Once $\sigma$ is smaller than the clouds, the score stops growing and the push falls behind. We shall meet
# the consequence.) The paper writes $\varepsilon$ for $a_L$, and so does the code, `epsilon`. For the sampler `step_size` is the constant $a_i/\sigma_i^2 = a_L/\sigma_L^2$.


# %%
def my_annealed(score, z, times, step_size, steps, noise):
    """Annealed Langevin dynamics in coordinates with alpha = 1; `times` ends in 0."""
    for t in times[:-1]:
        sigma = schedule.sigma(t)
        for _ in range(steps):
            a = step_size * sigma**2
            z = z + a / 2 * score(z, t) + a.sqrt() * noise(z)
    return z + sigma**2 * score(z, t)  # Tweedie: the mean of z_0 given z


start = 10 * standard_normal(9)(torch.empty(2000, 2))
options = {"steps": 50, "step_size": 0.2}
run = trajectory(  # a list: the start, one state for each level, the result
    annealed_langevin(denoiser_for(law, schedule), schedule, start, times, **options, noise=standard_normal(0))
)
torch.testing.assert_close(
    my_annealed(exact, start, times, noise=standard_normal(0), **options), run[-1].z, rtol=1e-3, atol=1e-3
)

# %% [markdown]
# From here on the package's sampler is used. It wants a denoiser; `denoiser_from_score` makes one of our network by Tweedie.
# First the exact score, so that errors can only come from the sampler; then the learned one.

# %%
learned_run = trajectory(
    annealed_langevin(
        denoiser_from_score(learned, schedule), schedule, start, times, **options, noise=standard_normal(0)
    )
)
plain = {"plain, exact score": walk(law.score, scattered(2000)), "plain, learned score": walk(naive, scattered(2000))}
results = plain | {"annealed, exact score": run[-1].z, "annealed, learned score": learned_run[-1].z}
shares = {}
for name, z in results.items():
    hits = int((z[:, 0] > 0).sum())
    low, high = wilson_interval(hits, len(z))
    shares[name] = (hits / len(z), (high - low) / 2)
    print(f"{name:24} {shares[name][0]:.3f} +- {shares[name][1]:.3f}")

# %%
plots.bars(
    ["data", *(name.replace(", ", "\n") for name in shares)],
    {"share": [0.8, *(share for share, _ in shares.values())]},
    errors={"share": [0.0, *(half for _, half in shares.values())]},
    title="Noise tells the walkers how many belong in each cloud",
    alt="Bars of the share of points in the large cloud. Data 0.8. Plain Langevin with the exact score 0.5, with the learned score about 0.5."
    " Annealed Langevin with the exact and with the learned score close to 0.8.",
    caption="Share of 2,000 walkers in the upper right cloud, with 95 % intervals.",
    ylabel="share in the large cloud",
    ylim=(0, 1),
)

# %% [markdown]
# The exact score with the plain walk fails; the learned score with noise succeeds. What was missing was not
# precision. It was the way across.
#
# Do the annealed shares reach 0.8, or only come close? 2,000 walkers cannot tell. Send 20,000 with the exact score, and see also when they choose their side:

# %%
crowd = 10 * standard_normal(9)(torch.empty(20_000, 2))
for steps in (50, 200):
    states = trajectory(
        annealed_langevin(denoiser_for(law, schedule), schedule, crowd, times, steps, 0.2, standard_normal(0))
    )
    sides = torch.stack([state.z[:, 0] > 0 for state in states])
    low, high = wilson_interval(int(sides[-1].sum()), len(crowd))
    decided = (sides == sides[-1]).float().mean(1).tolist()
    print(f"{steps:3} steps a level: {sides[-1].float().mean():.3f} +- {(high - low) / 2:.3f}; on their final side:")
    print("   ", ", ".join(f"{decided[i]:.2f} at sigma = {ladder[i - 1]:.2g}" for i in (3, 4, 5, 6, 7)))

# %% [markdown]
# Close, but not quite: the ladder cools a little faster than the walkers redistribute. Four times as many steps help, at four times the cost.
#
# Watch one run. At each level the cloud has nearly settled to the law of that level, and the arrows show the score it follows:

# %%
runs = {"exact": (run, exact), "learned": (learned_run, learned)}


def watch(level, score):
    """The walkers after `level` levels (0: the start), over the density of that level, with the score's arrows."""
    states, field = runs[score]
    index = max(level - 1, 0)
    sigma = ladder[index].item()
    reach = 5 + 2.2 * sigma
    axis, density = plane(law, sigma, reach, 81)
    spots = torch.cartesian_prod(*[torch.linspace(-0.9 * reach, 0.9 * reach, 11)] * 2)
    when = "start" if level == 0 else f"level {level}"
    return plots.density_2d(
        axis,
        axis,
        {f"sigma = {sigma:.2f}": density},
        points={"": states[level].z[:600]},
        arrows=(spots, field(spots, times[index])),
        title=f"{when}, {score} score",
        alt=f"Walkers at noise level {sigma:.2f} over the density of that level, with arrows of the {score} score.",
        width=330,
        height=360,
    )


widgets.explorer(watch, level=(0, 10, 1, 5), score=list(runs))

# %%
widgets.frames(
    watch,
    [{"level": level, "score": "learned"} for level in (0, 3, 4, 5, 7, 10)],
    title="Frames of the explorer: one hill splits into two clouds",
    alt="Six frames of walkers and score arrows, from much noise to little. Start: one round cloud of radius 20 with arrows to its centre."
    " At sigma 3.6 one oblong hill, at 2.2 it has two humps, at 1.3 two clouds touch, at 0.46 two separate clouds, at 0.1 sharp ones,"
    " the upper right one fuller.",
    caption="Mind the axes: the frames zoom in as the noise falls.",
    columns=3,
)

# %% [markdown]
# The decision falls while $\sigma$ goes from 4 to 1, where the hill splits. Before that there is nothing to choose; from 0.8 on
# hardly anybody changes sides, as the numbers above say. Move the slider there. (→ Exercises 05.6 and 05.7)
#
# ### How exact is it?
#
# For Gaussian data we need not look at clouds. Data $\mathcal N(0, v)$, level $\sigma_i$: the law has variance $u_i = v+\sigma_i^2$, each step multiplies
# $z$ by $1 - a_i/(2u_i)$ and adds variance $a_i$. Section 3's recursion, along the ladder, is the variance of the sampler, without
# approximation. 20,000 walkers must agree with it within their sampling error:


# %%
def variance_along(ladder, v, step_size, steps):
    """Variance of the walkers after each level of annealed Langevin on N(0, v)."""
    variance, history = ladder[0].item() ** 2, []
    for sigma in ladder.tolist():
        a, u = step_size * sigma**2, v + sigma**2
        for _ in range(steps):
            variance = (1 - a / (2 * u)) ** 2 * variance + a
        history.append(variance)
    return torch.tensor(history, dtype=torch.float64)


narrow = Gaussian(torch.zeros(1), torch.full((1, 1), 0.5))
many = 10 * standard_normal(9)(torch.empty(20_000, 1))
seen = trajectory(annealed_langevin(denoiser_for(narrow, schedule), schedule, many, times, 20, 0.2, standard_normal(1)))
measured = torch.stack([state.z.double().var() for state in seen[1:-1]])
predicted = variance_along(ladder, 0.5, 0.2, 20)
assert ((measured / predicted - 1).abs() < 5 * math.sqrt(2 / len(many))).all()

plots.curves(
    ladder,
    {
        "law of the level, v + sigma^2": 0.5 + ladder**2,
        "5 steps a level": variance_along(ladder, 0.5, 0.2, 5),
        "20 steps a level": predicted,
        "20 steps a level, 20,000 walkers": measured,
        "100 steps a level": variance_along(ladder, 0.5, 0.2, 100),
    },
    title="With few steps a level the cloud lags behind and ends too wide",
    alt="Variance over the noise level, falling from 100 at sigma 10 to the left. The law's own curve levels off at 0.5. With 100 steps a level the"
    " sampler follows it closely and ends near 0.55; with 20 steps it ends near 0.7, with 5 steps near 3.4. The walkers lie on the curve for 20 steps.",
    xlabel="noise level sigma (the run goes from right to left)",
    ylabel="variance of the walkers",
    logx=True,
    logy=True,
)

# %% [markdown]
# Steps of size $a\propto\sigma^2$ get so short at the small levels that nothing moves any more: a cloud of width $\sqrt v\gg\sigma$ would
# need about $v/a$ of them. What was too wide when the steps became short stays too wide. So it pays to spend
# steps where $\sigma$ is comparable with the details of the data. (→ Exercise 05.8)
#
# ## 10. Break it: a constant step
#
# "$a_i\propto\sigma_i^2$" looks like a detail. Take the same number of steps with one step size for all levels: that of the last
# level, that of a level in the middle, and a larger one.

# %%
rule = ladder_step_sizes(ladder, epsilon=options["step_size"] * ladder[-1].item() ** 2)
torch.testing.assert_close(rule, options["step_size"] * ladder**2)


def with_constant_step(a):
    noise, z = standard_normal(0), start[:1000]
    for t in times[:-1]:
        for _ in range(options["steps"]):
            z = langevin_step(z, exact(z, t), a, noise)
    return z


broken = {
    "NCSN's rule": run[-1].z[:1000],
    f"a = {rule[-1]:.3f} throughout": with_constant_step(rule[-1].item()),
    f"a = {rule[5]:.2f} throughout": with_constant_step(rule[5].item()),
    "a = 1.7 throughout": with_constant_step(1.7),
}
for name, z in broken.items():
    print(
        f"{name:20} median |z| {z.norm(dim=1).median():5.2f}   in the large cloud's half {(z[:, 0] > 0).float().mean():.2f}"
    )

# %%
plots.strip(
    [dots(z.clamp(-12, 12), name, reach=12.0) for name, z in broken.items()],
    title="NCSN's rule is right; a constant step freezes, miscounts or throws out",
    alt="Four scatter plots over the square from -12 to 12. NCSN's rule: two tight clouds, the upper right one fuller. Step 0.002: walkers"
    " strewn over the whole square. Step 0.12: two tight clouds with nearly equal numbers. Step 1.7: the large cloud is"
    " almost empty, most walkers form a wide blob around the small one and a few fly off.",
    caption="Walkers beyond the frame are drawn on its edge.",
    columns=2,
)

# %% [markdown]
# Each failure has its face:
#
# - **Too small.** At the large levels nothing happens; the walkers are still scattered when the levels are small. *Frozen noise.*
# - **In the middle.** Pretty pictures, wrong shares: too slow for the walkers to sort themselves while the hill is one.
#   You will not see this one. You have to count.
# - **Too large.** The large cloud has variance 0.3 along its narrow axis, so a step of $1.7 > 4\cdot 0.3$ throws
#   walkers out of it (section 3). The small cloud with 0.5 just holds them ($1.7 < 4\cdot 0.5$), far too wide.
#
# <details><summary><b>Question.</b> What would happen if you kept NCSN's rule but stopped without the last denoising step?</summary>
#
# The result would carry noise of standard deviation $\sigma_L$. Here 0.1 is invisible beside clouds of width 0.7. On images of range 2 a
# noise of 0.1 is grain that everybody sees. NCSN stopped there; the published code of NCSNv2 ends with the denoising step.
# </details>
#
# ## 11. One thing with four names
#
# Networks are trained to predict different things. All of them are the same knowledge. With $z = \alpha z_0 + \sigma\epsilon$ known, each
# quantity determines all others:
#
# | prediction | what it is | $z_0$ from it | it from $z_0$ |
# |---|---|---|---|
# | $z_0$ | the denoised state | $z_0$ | $z_0$ |
# | eps | the noise | $(z - \sigma\epsilon)/\alpha$ | $(z - \alpha z_0)/\sigma$ |
# | score | $-\epsilon/\sigma$ | $(z + \sigma^2 s)/\alpha$ | $(\alpha z_0 - z)/\sigma^2$ |
# | v | $\alpha\epsilon - \sigma z_0$ | $(\alpha z - \sigma v)/(\alpha^2+\sigma^2)$ | $\big(\alpha z - (\alpha^2+\sigma^2) z_0\big)/\sigma$ |
#
# The last row needs a line of algebra: $\alpha z - \sigma v = \alpha^2 z_0 + \alpha\sigma\epsilon - \sigma\alpha\epsilon + \sigma^2 z_0 = (\alpha^2+\sigma^2)\,z_0$. In
# variance-preserving schedules $\alpha^2+\sigma^2 = 1$ and the denominator disappears. In others (VE, and also sub-VP) forgetting it is a popular mistake.


# %%
def convert(value, kind, target, z, alpha, sigma):
    """A prediction of one kind at the state z, as a prediction of another kind."""
    total = alpha**2 + sigma**2
    z_0 = {
        "z_0": value,
        "eps": (z - sigma * value) / alpha,
        "score": (z + sigma**2 * value) / alpha,
        "v": (alpha * z - sigma * value) / total,
    }[kind]
    return {
        "z_0": z_0,
        "eps": (z - alpha * z_0) / sigma,
        "score": (alpha * z_0 - z) / sigma**2,
        "v": (alpha * z - total * z_0) / sigma,
    }[target]


vp, t = vp_cosine(), 0.4
for path in (vp, ve()):  # a schedule with alpha^2 + sigma^2 = 1, and one without
    alpha, sigma = path.alpha(t), path.sigma(t)
    z = alpha * law.sample(100).double() + sigma * standard_normal(0)(torch.empty(100, 2).double())
    truth = {"z_0": law.denoise(z, alpha, sigma), "score": law.score(z, alpha, sigma)}  # two independent closed forms
    truth["eps"] = -sigma * truth["score"]
    truth["v"] = alpha * truth["eps"] - sigma * truth["z_0"]
    for kind in KINDS:
        for target in KINDS:
            found = convert(truth[kind], kind, target, z, alpha, sigma)
            torch.testing.assert_close(found, truth[target])
            torch.testing.assert_close(convert(found, target, kind, z, alpha, sigma), truth[kind])  # and back
            package = from_z_0(to_z_0(truth[kind], kind, z, t, path), target, z, t, path)
            torch.testing.assert_close(found, package)
print("all", len(KINDS) ** 2, "conversions agree, there and back")

# %% [markdown]
# If they are equivalent, why does anybody care? Because a network errs. Suppose its output is off by 1 % of its typical size. What
# is the error of $z_0$? Read it off the table's third column: for eps it is multiplied by $\sigma/\alpha$ (for the score too: size $1/\sigma$ times $\sigma^2/\alpha$),
# for v by $\sigma$, for $z_0$ by 1.

# %%
inside = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
plots.curves(
    vp.log_snr(inside),
    {
        "z_0": torch.full_like(inside, 0.01),
        "eps or score": 0.01 * vp.sigma(inside) / vp.alpha(inside),
        "v": 0.01 * vp.sigma(inside),
    },
    title="A 1 % error is harmless or fatal, depending on what the network predicts",
    alt="Error of z_0 over log SNR from -7 (noise) to 7 (data), logarithmic. For z_0 it is 0.01 throughout. For eps or score it falls from 0.3 at the"
    " noisy end to 0.0003 at the clean end. For v it stays at 0.01 in noise and falls together with eps towards the data.",
    caption="For states of unit variance, on vp_cosine. The other way round, eps from a predicted z_0 is amplified by alpha/sigma at the clean end.",
    xlabel="log SNR (left: noise, right: data)",
    ylabel="error of z_0",
    logy=True,
)

# %% [markdown]
# eps and score are excellent near the data and useless in pure noise, where $\alpha = 0$ and the division fails
# altogether. A prediction of $z_0$ has its trouble at the clean end: the noise it implies, $(z - \alpha z_0)/\sigma$, has its error multiplied by $\alpha/\sigma$. v is safe on both sides, which is why the face network of this curriculum
# predicts v. (→ Exercise 05.5)
#
# ## 12. Faces
#
# Now 3,072 dimensions. The sampler does not change by a single line.
#
# ### First the exact score of a data set
#
# Take 500 faces as *all* the data there are. Noised, they are a mixture of 500 Gaussians, whose score is known exactly. It is also what a
# network with unlimited capacity would learn from these 500: the minimiser of the denoising loss on a finite data set. Pixels run from
# $-1$ to $1$, and the ladder from 50 (about the largest distance between two faces, 58) down to 0.02.

# %%
space = ve(sigma_min=0.01, sigma_max=50.0)
known = Pixel().encode(faces(500, seed=1).images)  # (500, 3, 32, 32) in [-1, 1]
memoriser = denoiser_for(EmpiricalData(known), space)
face_ladder = noise_ladder(30, sigma_max=50.0, sigma_min=0.02)
face_times = ladder_times(face_ladder, space)


def sample_faces(denoiser, n, steps, seed=0):
    """States of annealed Langevin dynamics from noise to n faces, one for each level."""
    noise = standard_normal(seed)
    z = 50 * noise(torch.empty(n, 3, 32, 32))
    with torch.inference_mode():
        return trajectory(annealed_langevin(denoiser, space, z, face_times, steps, 0.4, noise))


def nearest(images):
    """Root mean squared distance per pixel to the nearest of the 500, in image units: (B, 3, H, W) -> (B,)."""
    distances = torch.cdist(images.flatten(1), Pixel().decode(known).flatten(1))
    return distances.min(1).values / math.sqrt(images[0].numel())


recalled = sample_faces(memoriser, 5, steps=8)
levels = [11, 16, 20, 31]
plots.image_grid(
    torch.cat([Pixel().decode(recalled[i].z).clamp(0, 1) for i in levels]),
    title="Out of pure noise, faces: the exact score of 500 pictures at work",
    alt="Four rows of five pictures. The first row is coloured noise. In the second, heads shimmer through the noise. In the third,"
    " faces under grain. In the last, five crisp drawn faces with different hair, skin and backgrounds.",
    caption="From top to bottom: "
    + ", ".join(f"sigma = {face_ladder[i - 1]:.2g}" for i in levels[:-1])
    + ", and the result.",
    columns=5,
    zoom=2,
)

# %% [markdown]
# Flawless. Too flawless: are they new?

# %% tags=["nbval-check-output"]
strangers = faces(100, seed=2).images
found = nearest(Pixel().decode(recalled[-1].z))
print(
    f"distance to the nearest of the 500: samples at most {found.max():.3f}, fresh faces {nearest(strangers).mean():.3f} on average"
)

# %% [markdown]
# Each sample *is* one of the 500. The exact score of a finite data set only ever returns the data: a **memoriser**. Its score is the
# perfect minimiser of the loss, and the sampler is right; still it is not what we want, because it does not know a single face
# that it has not seen. Everything that makes generative models generate comes from networks that fail to reach this minimum.
#
# <details><summary><b>Question.</b> At which point of the run has the memoriser decided which face it will return?</summary>
#
# As in section 9, when the hill splits. Two faces at distance $d$ can be told apart when $d/(2\sigma)$ is a few units. Two of these faces are 30 apart on average and
# nearest neighbours 13, so the choice narrows from $\sigma = 6$ on and ends near 2. In 50 runs the final face was the likeliest one in 22 % at $\sigma = 5.8$,
# in 76 % at 3.4 and in all at 2.0: when you see the first shimmer of a head, in the second row, everything has been settled.
# </details>
#
# ### Then a learned score
#
# `faces-unconditional-32` was trained on procedural faces by denoising, on another schedule, with v as its output. It is told the noise
# level, not the time, so `NetworkDenoiser` can put it on our VE ladder: divided by $\sqrt{1+\sigma^2}$, our state is one of the kind it was trained on. Same function, another denoiser. Once with 8 steps a level, once with 2:

# %%
network = NetworkDenoiser(load_pretrained("faces-unconditional-32"), schedule=space)
invented = {steps: Pixel().decode(sample_faces(network, 6, steps)[-1].z).clamp(0, 1) for steps in (8, 2)}
plots.image_grid(
    torch.cat([*invented.values()]),
    title="Too few steps a level leave noise in the faces",
    alt="Two rows of six pictures. Above, 8 steps a level: drawn faces with different hair, skin, glasses and hats, much like the data. Below, 2"
    " steps a level: heads that can be recognised, but covered by coarse coloured grain and blotches.",
    caption="Above, 8 Langevin steps a level; below, 2.",
    columns=6,
    zoom=3,
)

# %% [markdown]
# The lower row is section 9's lag in pictures. With two steps a level the state always holds more noise than the network is told. The
# network believes what it is told, takes the surplus for part of a face, and keeps it. (The memoriser would not mind: it
# knows nothing but its 500 faces.)
#
# Does the network, too, return known faces only? It never saw these 500. Measure how far its faces are from them, and how far fresh faces are:

# %%
for name, images in (
    ("network, 8 steps", invented[8]),
    ("fresh faces", strangers),
    ("memoriser", Pixel().decode(recalled[-1].z)),
):
    distances = nearest(images)
    print(f"{name:17} {distances.mean():.3f} +- {distances.std() / math.sqrt(len(distances)):.3f}")

# %% [markdown]
# Compare the first two lines: the network's faces are no nearer to the 500 than fresh ones are. It draws faces that the memoriser could never return. A
# distance larger than that of fresh faces is no praise, though: blur and leftover grain add distance too.
# And this is no proof against copying: the network has its own 65,536 training faces, and the *perfect* minimiser of its loss would return only those.
# Chapter 04 searches among them for copies. A network that generates is one that stopped short of that minimum.
#
# And the price: $30 \times 8 + 1 = 241$ calls of the network for a batch. Chapter 06 turns the same score into a differential equation and
# needs far fewer; chapter 07 fewer still.
#
# ## 13. To keep
#
# > **Common mistakes**
# >
# > - Comparing a noisy score with the clean law (section 8). A perfect network then looks wrong.
# > - Testing a loss where its right value is zero (section 7). A loss that returns zero passes.
# > - A constant Langevin step, or $a \propto \sigma$ in place of $\sigma^2$ (section 10).
# > - $a$ where $\sqrt a$ belongs in the noise, or $\sqrt{2a}$ beside $\tfrac a2$: two conventions mixed, a cloud that is too tight or too wide.
# > - Tweedie with $\sigma$ for $\sigma^2$, or without $1/\alpha$; v without $\alpha^2+\sigma^2$ outside VP schedules.
# > - Reading quality from a score-matching loss, which has an unknown floor (sections 4 and 7).
# > - Starting from $\mathcal N(0, I)$ on a VE schedule: the start has standard deviation $\sigma_1$.
#
# > **In the papers**
# >
# > - NCSN (Song & Ermon, arXiv:1907.05600): 10 levels from 1 to 0.01 on images in $[0,1]$, 100 steps a level, $a_L = 2\cdot10^{-5}$ (their $\varepsilon$), start in
# >   uniform noise, no denoising at the end. CIFAR-10 Inception score 8.87.
# > - The paper writes $\tfrac a2$ and $\sqrt a$, with $a_L/\sigma_L^2 = 0.2$. The published code for images writes $a$ and $\sqrt{2a}$ with the same number: twice the
# >   step. Its code for the toy example follows the paper. When you compare step sizes, compare conventions first.
# > - The map of section 5 and the wrong shares of section 1 are arguments of the same paper, for two clouds of weights 0.2 and 0.8.
# > - NCSNv2 (arXiv:2006.09011): $\sigma_1$ about the largest distance between data points; for CIFAR-10 232 levels from 50 to 0.01 with 5 steps each, averaged
# >   weights, and a denoising step at the end.
# > - Where denoising and scores met: Vincent, *A connection between score matching and denoising autoencoders* (2011).
#
# > **Going further**
# >
# > - Langevin with an accept/reject step (MALA) has no bias, but needs densities, not only scores.
# > - The Jacobian of the score gives the posterior *covariance*: $\mathrm{Cov}[z_0\mid z] = \tfrac{\sigma^2}{\alpha^2}\big(I + \sigma^2\nabla s\big)$. Chapters 08 and 15 use it.
# > - With infinitely many levels the ladder becomes a stochastic differential equation (arXiv:2011.13456): chapter 06.
#
# ## Recap
#
# 1. The score of a mixture is an average of springs, **computed** in five lines. It cannot see normalisers or the weights of separate clouds.
# 2. **Run** with step $a$, Langevin dynamics on $\mathcal N(0,v)$ has variance $v/(1 - a/(4v))$: too wide, and unstable beyond $4v$.
# 3. Explicit, implicit, sliced and denoising losses **differ by constants**; only the last needs neither the score nor a derivative.
# 4. Naive matching **fails** where there are no data, which is where samplers start. Noise fills the space and joins the clouds.
# 5. A network **trained** on a ladder with $\lambda=\sigma^2$ must be judged against the diffused law; annealed Langevin samples with $a\propto\sigma^2$.
# 6. eps, $z_0$, v and score are one thing; they **convert** by linear formulas but amplify errors differently.
#
# Now try the [exercises](../exercises/05_score_based_models.ipynb).
#
# ## References
#
# - A. Hyvärinen, *Estimation of non-normalized statistical models by score matching*, JMLR 6, 2005.
# - P. Vincent, *A connection between score matching and denoising autoencoders*, Neural Computation 23, 2011.
# - Y. Song, S. Garg, J. Shi, S. Ermon, *Sliced score matching*, 2019, arXiv:1905.07088.
# - Y. Song, S. Ermon, *Generative modeling by estimating gradients of the data distribution*, 2019, arXiv:1907.05600.
# - Y. Song, S. Ermon, *Improved techniques for training score-based generative models*, 2020, arXiv:2006.09011.
# - Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2020, arXiv:2011.13456.
# - T. Salimans, J. Ho, *Progressive distillation for fast sampling of diffusion models* (v-prediction), 2022, arXiv:2202.00512.
# - B. B. Moser et al., *Diffusion models, image super-resolution and everything: a survey*, arXiv:2401.00736, section III-B.
