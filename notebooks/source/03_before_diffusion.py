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
# # 03 Before diffusion
#
# An LR image has many HR images that fit it. What should a method return: their average, the likeliest one, or one of them at random? Every family of super-resolution before diffusion is an answer to
# that question, and each pays for its answer in its own coin. In this chapter you build them all, on images of two pixels, where the right answer is known to the last digit. Then you meet them again on photos.
#
# ## What you will be able to do
#
# 1. **Compute** the exact posterior of a small super-resolution problem, and judge any sampler against it.
# 2. **Explain** what examples and sparse codes did before networks, and what they left undone.
# 3. **Train** a regression network and prove that it returns the mean of the posterior.
# 4. **Build** a GAN, a VAE, an autoregressive model and a normalising flow, each on its one formula.
# 5. **Recognise** what each gets wrong: thin or dropped modes, blur, cost, bridges.
# 6. **Place** diffusion among them, and read the perception-distortion plane of real photos.
#
# **Prerequisites**: [chapter 01](01_super_resolution_basics.ipynb) (why LR images are ambiguous), [chapter 02](02_image_quality.ipynb) (the perception-distortion plane), a little PyTorch.
#
# **Reading time**: 75 minutes. Running time: about 40 s on two processor cores.
# **Survey sections**: II-B, super-resolution models, and III-D, the relation of diffusion to other generative models (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/03_before_diffusion.ipynb), worked in [solutions](../solutions/03_before_diffusion.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $x$, $y$, $\hat y$ | `x`, `y`; `lr`, `hr`, `sr` | LR image, HR image, a method's answer |
# > | $p(y \mid x)$ | `posterior(x)` | the **posterior**: which HR images lead to this $x$, and how likely each is |
# > | $d = (y_2 - y_1)/2$ | `detail(y)` | what $x$ does not show: the contrast of two pixels |
# > | $\varepsilon$ | `noise(...)` | standard normal numbers; in the survey's flow section $z$ |
# > | $q$ | | a law that a network makes, beside the true $p$: $q(y \mid x)$ of a generator (section 6), the guess $q(u \mid y, x)$ of an encoder (section 7), the law of any model (section 11) |
# > | $\mathrm{KL}(q\,\Vert\,p) = \mathbb E_q \log(q/p) \ge 0$ | | how far the law $q$ is from the law $p$, in nats; 0 only if they are equal |
# > | $u$ | `u` | a VAE's **latent**, a hidden variable |
# > | $f(y; x)$ | `flow(y, x)` | a flow: HR image to noise, invertible in $y$ |
#
# A **mode** is a peak of the density. Logarithms are natural; log-likelihoods are in nats. States run from $-1$ (black) to 1 (white), photos from 0 to 1.

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import lr_consistency, psnr, sharpness, sliced_wasserstein
from tutorial_lib.networks.autoregressive import PixelModel
from tutorial_lib.networks.flow import ConditionalFlow, Coupling
from tutorial_lib.networks.gan import adversarial_losses
from tutorial_lib.networks.regression import condition
from tutorial_lib.networks.unet import noise_embedding
from tutorial_lib.networks.vae import ConditionalVAE
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import GaussianMixture, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import uniform_times, vp_cosine
from tutorial_lib.sparse import example_based, sparse_code
from tutorial_lib.super_resolution import super_resolve

double = torch.float64

# %% [markdown]
# ## 1. One small photo, five methods, six answers
#
# Take a piece of a photo, shrink it to a quarter of its width and height, and ask five methods for the original. One of them, the flow, is asked twice.

# %%
whole = photo("chelsea")[..., 60:188, 130:290]
small = resize(whole, 1 / 4).clamp(0, 1)
first_look = {name: super_resolve(small, method=name, seed=1) for name in ("bicubic", "sparse", "regression", "gan")}
first_look |= {f"flow, seed {seed}": super_resolve(small, method="flow", seed=seed) for seed in (1, 2)}
plots.compare(
    first_look | {"original": whole},
    [(20, 25, 44, 44), (70, 20, 44, 44)],
    title="One LR photo, five methods, six answers",
    alt="Two enlarged pieces of a photo of a cat's face, in seven columns: bicubic, sparse coding, regression, GAN, two samples of a flow, and the original. Bicubic is blurred; sparse coding and regression have "
    "firmer edges and no fur; the GAN has drawn a few fur-like lines; the flow's two samples have mottled grain, in other places each.",
    zoom=3,
)

# %%
for name, image in (first_look | {"original": whole}).items():
    back = lr_consistency(image, small, 4)[0]
    print(
        f"{name:14} PSNR {psnr(image, whole)[0]:5.1f} dB   made small again: {back:5.1f} dB from the LR photo, {255 * 10 ** (-back / 20):.1f} grey levels RMS"
    )

# %% [markdown]
# Look at the last column of numbers: made small again, every answer is the LR photo again, to within three grey levels of 255 (RMS). So the LR photo has next to nothing to say about which is right. What tells them apart is the question that each of them answers, and to see it clearly we leave photos for a while.
#
# ## 2. Two pixels
#
# The smallest super-resolution problem there is: an HR image of two pixels $y = (y_1, y_2)$, and one LR pixel, their mean with a little noise,
#
# $$x = \tfrac12(y_1 + y_2) + 0.1\,n, \qquad n \sim N(0, 1).$$
#
# In our little world there are four kinds of images: dark areas, bright areas, an edge that rises, and an edge that falls. Each kind is a Gaussian, so the world is a mixture of four, and the posterior of a Gaussian mixture is one again, with means, covariances and weights in closed form.


# %%
turn = torch.tensor([[1, 1], [1, -1]], dtype=double) / math.sqrt(2)  # along and across the line y_1 = y_2


def blob(along, across):
    return turn @ torch.diag(torch.tensor([along, across], dtype=double) ** 2) @ turn.T


world = GaussianMixture(
    torch.ones(4),
    torch.tensor([[-0.8, -0.8], [0.8, 0.8], [-0.75, 0.65], [0.75, -0.65]], dtype=double),
    torch.stack([blob(0.25, 0.1), blob(0.25, 0.1), blob(0.12, 0.12), blob(0.12, 0.12)]),
)
mean_of_pixels, x_noise = torch.tensor([[0.5, 0.5]], dtype=double), 0.1


def posterior(x):
    """p(y | x) for one LR pixel, exactly: again a mixture of Gaussians."""
    return world.posterior(mean_of_pixels, torch.tensor([[float(x)]], dtype=double), x_noise)


def pairs(n, seed):
    """n examples: x (n, 1) and y (n, 2)."""
    noise = standard_normal(seed)
    y = world.sample(n, noise)
    return y @ mean_of_pixels.T + x_noise * noise(y[:, :1]), y


def detail(y):
    return (y[..., 1] - y[..., 0]) / 2


# %% tags=["nbval-check-output"]
x, y = pairs(5, seed=3)
law_of_x = GaussianMixture(
    world.weights,
    world.means @ mean_of_pixels.T,
    mean_of_pixels @ world.covariances @ mean_of_pixels.T + x_noise**2,
)


def exact_log_prob(y, x):
    """log p(y | x) for many pairs at once, by Bayes' rule."""
    likelihood = Normal(y @ mean_of_pixels.T, x_noise).log_prob(x)[:, 0]
    return world.log_prob(y) + likelihood - law_of_x.log_prob(x)


for i in range(5):
    assert_close(posterior(x[i]).log_prob(y[i : i + 1]), exact_log_prob(y[i : i + 1], x[i : i + 1]))
for value in (-0.7, 0.0, 0.2):
    dark, bright, rising, falling = posterior(value).weights.tolist()
    print(f"x = {value:4}: dark {dark:.2f}, bright {bright:.2f}, rising edge {rising:.2f}, falling edge {falling:.2f}")

# %%
axis = torch.linspace(-1.3, 1.3, 105, dtype=double)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)


def on_plane(log_density):
    return log_density.exp().reshape(len(axis), len(axis))


plots.density_2d(
    axis,
    axis,
    {f"x = {value:g}": on_plane(posterior(value).log_prob(plane)) for value in (-0.7, 0.0, 0.2)},
    title="The posterior: on the line that x allows, one island or two",
    alt="Three panels of the plane of both pixels. For x of minus 0.7 one dark spot on the diagonal, where both pixels are equal. For x = 0 two equal spots at opposite corners of the other diagonal. "
    "For x = 0.2 two spots there again, the lower right, the falling edge, darker.",
    xlabel="left pixel $y_1$",
    ylabel="right pixel $y_2$",
    height=340,
)

# %% [markdown]
# A dark LR pixel has one explanation. A grey one has two, and for $x = 0$ nothing in the world can tell which is right. Ten draws from that posterior, as images of two pixels; each has the same LR pixel, up to the noise:

# %%
draws = posterior(0).sample(10, standard_normal(4))


def tiny(y):
    """y (2,) or (1, 2) as an image (1, 1, 2) in [0, 1]."""
    return (y.reshape(1, 1, 2).float() + 1).clamp(0, 2) / 2


plots.image_grid(
    [*[tiny(y) for y in draws], tiny(posterior(0).mean)],
    [*[f"{value:+.2f}" for value in detail(draws).tolist()], "mean"],
    title="Ten draws from p(y | x = 0), and their mean: a grey that no draw ever shows",
    alt="Ten images of two pixels, each black beside white or white beside black, about half of each. The eleventh, the mean of the posterior, is one even grey.",
    caption="Above each image its contrast d.",
    zoom=36,
    columns=11,
)

# %% [markdown]
# For the rest of the chapter one picture will do: $d$, which $x$ hides, against $x$, which we see. Grey is where the exact posterior has its density, orange are a method's answers. Grey is normalised for each $x$ separately; the dots also follow how often each $x$ occurs, so compare dots with grey only within a column.

# %%
grid_x, grid_d = torch.linspace(-1.2, 1.2, 97, dtype=double), torch.linspace(-1.15, 1.15, 93, dtype=double)
contrast = torch.tensor([-0.5, 0.5], dtype=double)


def law_of_detail(x):
    """Weights, means and standard deviations of d given x: a mixture on a line."""
    law = posterior(x)
    variance = torch.einsum("i,kij,j->k", contrast, law.covariances, contrast)
    return law.weights, law.means @ contrast, variance.sqrt()


columns = [law_of_detail(x) for x in grid_x]
truth = torch.stack([Normal(m, s).log_prob(grid_d[:, None]).exp() @ w for w, m, s in columns], 1)
x_shown, y_shown = pairs(1200, seed=21)


def panel(name, y, width=300):
    """The cloud of a method's answers y to x_shown over the exact posterior."""
    return plots.density_2d(
        grid_x,
        grid_d,
        {"": truth.clamp(max=3)},
        points={"_": torch.stack([x_shown[:, 0], detail(y.detach().double())], 1)},
        title=name,
        alt=f"Contrast against LR pixel: {name}.",
        xlabel="x",
        ylabel="d",
        width=width,
        height=310,
    )


# %% [markdown]
# ## 3. Before learning: examples and sparse codes
#
# Interpolation returns $\hat y = (x, x)$: it hides the ambiguity instead of deciding. *Example-based* methods (Freeman, Jones and Pasztor, 2002) keep a store of pairs, look up the LR patch most like $x$, and paste its HR partner. *Neighbour embedding* blends several of them. Both in one function:

# %%
store_x, store_y = pairs(5000, seed=1)


def from_examples(x, k):
    """The mean of the HR partners of the k most similar LR images."""
    near = torch.cdist(x, store_x).topk(k, largest=False).indices
    return store_y[near].mean(1)


plots.strip(
    [
        panel("exact draws", y_shown),
        panel("the nearest example", from_examples(x_shown, 1)),
        panel("mean of 50 examples", from_examples(x_shown, 50)),
    ],
    title="One example is a draw from the posterior; the mean of many is regression",
    alt="Three clouds over the exact posterior, which has grey bars at d = 0 for dark and bright x, and two bars at d = 0.7 and minus 0.7 in the middle. Exact draws lie on the bars. The nearest example gives the same cloud. "
    "The mean of 50 examples is a thin curve that crosses the empty middle.",
    columns=3,
)

# %% [markdown]
# The nearest example is nearly perfect here! It has two faults that two pixels cannot show. Real patches have dozens of dimensions, in which nothing is near; and neighbouring patches choose independently, so their halves of one edge need not meet.
#
# *Sparse coding* (Yang, Wright, Huang and Ma, 2010) answers the first. It learns two dictionaries, low-resolution atoms $D_l$ and high-resolution atoms $D_h$, in pairs. A patch's features $F x$ are explained by a few atoms, and the same weights speak high resolution:
#
# $$\hat w = \arg\min_w \|F x - D_l w\|^2 \;\text{ with at most } s \text{ weights other than } 0, \qquad \hat y = \text{bicubic}(x) + D_h \hat w .$$
#
# A handful of atoms out of hundreds can describe far more patches than a store can hold. Finding the best handful is hard. Yang et al. ask for a small sum of absolute weights instead; the library follows Zeyde, Elad and Protter (2012) and is greedy (*orthogonal matching pursuit*): take the atom that explains most of what is left, refit all weights, repeat.


# %% tags=["nbval-check-output"]
def my_pursuit(x, atoms, nonzeros):
    """x (D,) in at most `nonzeros` of the atoms (K, D): their numbers and weights."""
    chosen, left = [], x
    for _ in range(nonzeros):
        chosen.append(((atoms @ left).abs() / atoms.norm(dim=1)).argmax().item())
        weights = torch.linalg.lstsq(atoms[chosen].T, x[:, None]).solution[:, 0]
        left = x - weights @ atoms[chosen]
    return chosen, weights


noise = standard_normal(5)
atoms, patches = noise(torch.empty(64, 16, dtype=double)), noise(torch.empty(20, 16, dtype=double))
found, weights = sparse_code(patches, atoms, 3)
for i, patch in enumerate(patches):
    mine = my_pursuit(patch, atoms, 3)
    assert mine[0] == found[i].tolist()
    assert_close(mine[1], weights[i])
print("20 patches, 64 atoms: my_pursuit chooses the same atoms and weights as the library")

# %% [markdown]
# On the photo of section 1: windows of 3×3 LR pixels, copied from 10,000 examples cut out of five other photos, or spelled with 3 of the learned atoms.

# %%
examples = []
for name in ("astronaut", "coffee", "flower", "china", "grass"):
    big = photo(name)[..., :240, :320]
    examples.append((resize(big, 1 / 4).clamp(0, 1), big))
traditional = {
    "bicubic": first_look["bicubic"],
    "examples": example_based(small, examples, patches=2000),
    "sparse": first_look["sparse"],
    "original": whole,
}
plots.compare(
    {
        f"{name}: {psnr(image, whole)[0]:.1f} dB" if name != "original" else name: image
        for name, image in traditional.items()
    },
    [(20, 25, 56, 56), (70, 80, 56, 56)],
    title="Before networks: copied details, and details spelled with three atoms",
    alt="Two pieces of the cat photo in four columns: bicubic, blurred; copied from examples, with firm edges and false stripes beside the iris; sparse coding, with firm edges and no stripes; the original with fur.",
    zoom=3,
)

# %% [markdown]
# The copies are what one example always is, a draw: firm, and false. Stripes run beside the iris, and PSNR falls below bicubic's. The few atoms are calmer. In both methods windows overlap and every pixel takes the *average* of what they say: where they disagree, it blurs. And the code is one answer: which edge an LR patch stands for is decided once, by the greedy search, and the other possibilities are gone.
#
# ## 4. Regression: the mean of everything
#
# SRCNN (Dong et al., arXiv:1501.00092) showed that the pipeline of sparse coding (cut patches, code, reassemble) is three convolutions, and trained them together for the smallest squared error. Its successors made that faster and deeper:
#
# - FSRCNN (arXiv:1608.00367) works on the LR grid, enlarges last, and runs more than 40 times faster.
# - ESPCN (arXiv:1609.05158) enlarges by rearranging: 16 channels of one LR pixel become 4×4 HR pixels (the *pixel shuffle*).
# - EDSR (arXiv:1707.02921) stacks residual blocks without batch normalisation, trained with L1, and won the NTIRE 2017 challenge.
#
# Our method `"regression"` is a small EDSR with a pixel shuffle. All of them minimise an average distance to $y$. What does the minimiser look like? Put $m(x) = \mathbb E[y \mid x]$ and expand; given $x$ the cross term vanishes, because $y - m(x)$ has mean zero:
#
# $$\mathbb E\,\|y - f(x)\|^2 = \underbrace{\mathbb E\,\|y - m(x)\|^2}_{\text{nobody can avoid it}} + \;\mathbb E\,\|m(x) - f(x)\|^2 .$$
#
# **With L2 the best network is the posterior's mean**, and with L1, pixel by pixel, its median (→ Exercises 03.1 and 03.2). Train both. The loop serves every model of this chapter.


# %%
class Small(nn.Module):
    """Three layers: (B, .) tensors, put side by side and times 4 (for steep functions) -> (B, outputs)."""

    def __init__(self, inputs, outputs, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
        )

    def forward(self, *parts):
        return self.layers(4 * torch.cat(parts, 1))


train_x, train_y = (part.float() for part in pairs(20_000, seed=2))


def fit(modules, loss, seed, rounds=400, rate=0.01, betas=(0.9, 0.99)):
    """Minimise the mean of loss(x, y) over random batches; the learning rate falls to 0 over the second half."""
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, rate, betas=betas, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for k in range(rounds):
        optimiser.param_groups[0]["lr"] = rate * min(1, 2 * (1 - k / rounds))
        batch = torch.randint(len(train_x), (256,), generator=generator)
        optimiser.zero_grad()
        loss(train_x[batch], train_y[batch]).mean().backward()
        optimiser.step()


torch.manual_seed(0)
l2, l1 = Small(1, 2), Small(1, 2)
fit([l2], lambda x, y: (l2(x) - y).square(), seed=0)
fit([l1], lambda x, y: (l1(x) - y).abs(), seed=0)

# %%
exact_mean = torch.stack([w @ m for w, m, _ in columns])
share_below = torch.stack([Normal(m, s).cdf(grid_d[:, None]) @ w for w, m, s in columns], 1)
exact_median = grid_d[(share_below >= 0.5).int().argmax(0)]
with torch.no_grad():
    answers = {name: detail(net(grid_x.float()[:, None])) for name, net in (("L2", l2), ("L1", l1))}
plots.evolution(
    grid_x,
    grid_d,
    {"L2: network and exact mean": truth.clamp(max=3), "L1: network and exact median": truth.clamp(max=3)},
    title="Between the islands, where nothing real lies, regression draws a line",
    alt="Two panels of contrast d against x over the exact posterior. Left, the L2 network follows the exact mean and rounds its peaks: both are zero at dark x, rise "
    f"(exact to {exact_mean.max():.2f}, network to {answers['L2'].max():.2f}), fall through zero at x = 0 to about as far below, and come back. "
    "Right, the L1 network follows the exact median, which stays on the upper island and jumps to the lower one at x = 0; the network makes a steep slope of the jump.",
    caption="Dashed: exact. Solid: the network.",
    xlabel="LR pixel x",
    ylabel="contrast d",
    paths={
        "L2: network and exact mean": (grid_x, torch.stack([answers["L2"].double(), exact_mean])),
        "L1: network and exact median": (grid_x, torch.stack([answers["L1"].double(), exact_median])),
    },
)

# %%
x_test, y_test = pairs(20_000, seed=6)
best = torch.stack([posterior(x).mean for x in x_test[:1000]])
with torch.no_grad():
    predicted = l2(x_test[:1000].float()).double()
of_network, of_mean = ((answer - y_test[:1000]).square().sum(1) for answer in (predicted, best))
more = of_network - of_mean
print(f"squared error on 1000 new images: L2 network {of_network.mean():.3f}, exact mean {of_mean.mean():.3f}")
print(
    f"difference {more.mean():.4f} +- {more.std() / 1000**0.5:.4f}; distance between the two {(predicted - best).square().sum(1).mean():.4f}"
)

# %% tags=["nbval-check-output"]
law = posterior(0)
at_mean, at_mode = law.log_prob(law.mean[None]).item(), law.log_prob(law.means[-1:]).item()
print(
    f"x = 0: the mean has d = {detail(law.mean).item():.2f}; the likeliest image has |d| = {detail(law.means[-1]).abs():.2f}"
)
print(f"the likeliest image is e^{at_mode - at_mean:.0f} times as likely as the mean")

# %% [markdown]
# The network lies close to the exact mean, rounding its peaks; on 1000 images its error cannot be told from the floor, the error of the exact mean. The formula above says what to expect: the difference of the two squared errors estimates the squared distance between network and mean, which is printed beside it; the two agree within twice the error bar. So the network is as good as its question allows. The question is the trouble. At $x = 0$ it asks for the point nearest to two islands, and the answer is in the sea between them. **That is what blur is.** L1 jumps from island to island instead, which looks sharper and is biased: it always tells the likelier story.
#
# <details><summary><b>Question.</b> The error of the exact mean is far from 0. Would more data, or a larger network, help?</summary>
#
# No. It is the posterior's own variance, which no function of $x$ can lower. Only a better $x$ could: another photo of the same scene, less noise, or a narrower world (faces instead of anything).
# </details>
#
# ## 5. How to judge a sampler
#
# From here on methods *draw*. A draw is right if it comes as often as it should, so a judge needs many draws for the same $x$, and the exact posterior beside them. Ours takes 24 values of $x$ and 300 draws each, and reports three numbers:
#
# - **distance**: sliced $W_1$ between the drawn and the exact cloud, averaged over $x$;
# - **shares**: which part of the draws lies in the wrong mode (falling edge, flat, rising edge);
# - **strays**: draws less likely than 99 % of the exact ones. One per cent is right.

# %%
judged_x, count = pairs(24, seed=5)[0], 300
laws = [posterior(x) for x in judged_x]
exact_draws = [law.sample(2000, standard_normal(7)) for law in laws]
limits = [law.log_prob(y).quantile(0.01) for law, y in zip(laws, exact_draws, strict=True)]
angles = torch.arange(16, dtype=double) * math.pi / 16
directions = torch.stack([angles.cos(), angles.sin()])


def quantiles(y, n=200):
    """Projections of a cloud (N, 2) on 16 directions, as n quantiles each."""
    return (y.double() @ directions).quantile((torch.arange(n, dtype=double) + 0.5) / n, dim=0)


def shares(y):
    return torch.stack([(detail(y) < -0.35).double().mean(), (detail(y) > 0.35).double().mean()])


def judge(draw):
    """(distance, shares, strays) of draw(x) -> y, both with one row per draw."""
    with torch.no_grad():
        drawn = draw(judged_x.float().repeat_interleave(count, 0)).double().reshape(len(laws), count, 2)
    found = []
    for y, exact, law, limit in zip(drawn, exact_draws, laws, limits, strict=True):
        wrong = shares(y) - shares(exact)
        total = (wrong.abs().sum() + wrong.sum().abs()) / 2  # the third mode takes what the others leave
        strays = (law.log_prob(y) < limit).double().mean()
        found.append(torch.stack([(quantiles(y) - quantiles(exact)).abs().mean(), total, strays]))
    return torch.stack(found).mean(0)


board = {
    "exact, again": judge(lambda x: torch.cat([law.sample(count, standard_normal(8)) for law in laws]))[None],
    "L2 regression": judge(l2)[None],
}
for name, scores in board.items():
    print(f"{name:14} distance {scores[0, 0]:.3f}   wrong shares {scores[0, 1]:.0%}   strays {scores[0, 2]:.0%}")

# %% [markdown]
# The first line is what chance alone gives to a perfect sampler: nobody can be better. The second is the mark to beat.
#
# ## 6. GAN: a game against a critic
#
# SRGAN (arXiv:1609.04802) gave up measuring the distance to $y$ and asked a second network instead: *is this a real image, or one of ours?* The generator $G$ turns $x$ and noise $\varepsilon$ into an image; the discriminator $D$ gives real images a high logit and generated ones a low one. In the *hinge* form of the game
#
# $$\mathcal L_D = \mathbb E\,\max(0, 1 - D(y)) + \mathbb E\,\max\big(0, 1 + D(G(x, \varepsilon))\big), \qquad \mathcal L_G = -\mathbb E\, D(G(x, \varepsilon)).$$
#
# ($D$ sees $x$ as well; the formulas leave it out.)
#
# What does the critic learn? For the classic logistic loss the best answer at a point with real density $p$ and generated density $q$ is found by setting a derivative to zero, and it is a **density ratio** (→ Exercises 03.3 and 03.4):
#
# $$D^* = \log\frac{p(y\mid x)}{q(y \mid x)} .$$
#
# The hinge asks only for the ratio's side: $+1$ where $p > q$, $-1$ where $p < q$. Both claims on a grid:


# %% tags=["nbval-check-output"]
def my_hinge(real_logits, fake_logits):
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits), -fake_logits


logits = torch.linspace(-4, 4, 8001, dtype=double)
for p, q in ((0.9, 0.3), (0.2, 0.6)):
    logistic = p * F.softplus(-logits) + q * F.softplus(logits)
    hinge = p * F.relu(1 - logits) + q * F.relu(1 + logits)
    print(
        f"p = {p}, q = {q}: best logistic answer {logits[logistic.argmin()]:+.3f} (log p/q = {math.log(p / q):+.3f}), best hinge answer {logits[hinge.argmin()]:+.3f}"
    )

torch.manual_seed(1)
critic, y, fake, x = Small(3, 1), train_y[:8], train_y[8:16].clone().requires_grad_(), train_x[:8]
theirs = adversarial_losses(critic, y, fake, x)
for mine, other in zip(my_hinge(critic(y, x)[:, 0], critic(fake, x)[:, 0]), theirs, strict=True):
    assert_close(mine, other)
assert torch.autograd.grad(theirs[0].sum(), fake, retain_graph=True, allow_unused=True)[0] is None
print("the library's losses agree, and the discriminator's loss sends no gradient to the generator")

# %%
families = {}  # name -> for each of three seeds a function draw(x) -> y


def gan(seed, rounds=600, noisy=1.0, content=0.0):
    """Train a GAN; `noisy=0` takes its noise away, `content` adds a squared error to the generator's loss."""
    torch.manual_seed(seed)
    generator, critic, noise = Small(3, 2), Small(3, 1), standard_normal(seed)

    def draw(x):
        return generator(x, noisy * noise(x.expand(-1, 2)))

    def loss(x, y):
        fake = draw(x)
        return sum(adversarial_losses(critic, y, fake, x)) + content * (fake - y).square().sum(1)

    fit([generator, critic], loss, seed, rounds, rate=0.007, betas=(0.0, 0.9))
    return draw


families["GAN"] = [gan(seed) for seed in range(3)]
board["GAN"] = torch.stack([judge(draw) for draw in families["GAN"]])
print("wrong shares of the three seeds: " + ", ".join(f"{scores[1]:.3f}" for scores in board["GAN"]))
print(f"exact draws {board['exact, again'][0, 1]:.3f}, regression {board['L2 regression'][0, 1]:.3f}")

# %%
x_32 = x_shown.float()
plots.strip(
    [panel(f"seed {i}", draw(x_32)) for i, draw in enumerate(families["GAN"])],
    title="Three GANs, same data, other seeds: thin, and thin in different places",
    alt="Three clouds over the exact posterior. All reach both islands and lie on or near the bars at dark and bright x, thinner than these. Seed 0 leaves the dark bar, with d up to 0.2 at x = -1.2. In each cloud a few dozen points lie between the islands.",
    columns=3,
)

# %% [markdown]
# Few answers are grey: the critic punishes that. But look how *thin* the clouds are. No term of the game asks for all of $p(y \mid x)$. A generator that fools the critic with fewer kinds of images has nothing to fear: where it never goes, the critic
# sees no fakes and sends no gradient. So variety inside the modes is lost, in other places for each seed. Our GANs keep both islands; compare their wrong shares, printed above, with those of exact draws and of regression. On photos, with many modes, one that was missed may stay missed (**mode dropping**).
#
# **Break it.** Super-resolution adds two causes of its own. SRGAN's generator has no noise input at all. And SRGAN, ESRGAN (arXiv:1809.00219) and pix2pix (arXiv:1611.07004) add a *content loss*, a distance to $y$, to keep the colours right and the game stable; pix2pix reports that its generator learned to ignore the noise it was given. Do both to our GAN:

# %%
spoiled = {
    "no noise": gan(0, noisy=0.0),
    "content loss, weight 3": gan(0, content=3.0),
    "content loss, weight 30": gan(0, content=30.0),
}
plots.strip(
    [panel(name, draw(x_32)) for name, draw in spoiled.items()],
    title="Without noise one story for each x; with enough content loss, regression again",
    alt="Three clouds over the exact posterior. Without noise: one thin curve over the upper island, then the lower one, which then climbs through the bright bar and stays above it, at d of 0.5 to 0.7. With content loss of weight 3: on or near the bars and on both islands, with many points between the islands. With weight 30: a thin curve through the middle, as in regression.",
    columns=3,
)

# %% [markdown]
# In numbers: at $x = 0.2$, where an edge falls three times as often as it rises, and at $x = 0.8$, in a bright area:

# %%
edges, (weights, means, exact_spread) = posterior(0.2).sample(20_000, standard_normal(3)) @ contrast, law_of_detail(0.8)
print(f"x = 0.2 exactly: rising {posterior(0.2).weights[2]:.2f}, between {(edges.abs() <= 0.35).double().mean():.2f}")
print(f"x = 0.8 exactly: mean of d {(weights @ means).abs():.2f}, spread {exact_spread[1]:.3f}")
for name, draw in {"GAN": families["GAN"][0], **spoiled}.items():
    with torch.no_grad():
        edges, flat = (detail(draw(torch.full((4000, 1), value))) for value in (0.2, 0.8))
    wrong = judge(draw)[1]
    print(
        f"{name:24} x = 0.2: rising {(edges > 0.35).float().mean():.2f}, between {(edges.abs() <= 0.35).float().mean():.2f}"
        f"   x = 0.8: mean of d {flat.mean():+.2f}, spread {flat.std():.3f}   all x: wrong shares {wrong:.3f}"
    )

# %% [markdown]
# One story for each $x$, chosen by nobody knows what. Where $x$ is bright it is no story at all: there only $d = 0$ is right, and the curve is far from it. A game has no loss that must fall: a critic that has chased the generator off the data may keep it off, and nothing like a squared error pulls it back. (This is one run with one seed.)
#
# A little content loss steadies the game: the cloud comes back to the dark bar, and at $x = 0.2$ the share of rising edges comes nearer to the exact one (over all $x$ the shares are no better than the plain GAN's: last column). It pays with answers between the islands. With much of it only regression is left.
#
# <details><summary><b>Question.</b> A GAN without noise gives one answer for each x. Is it then just regression with L1?</summary>
#
# It looks alike: one curve that prefers real places. The difference is who decides. L1 pays for distance to $y$, so it takes the median, which may be grey in every pixel when neighbouring pixels disagree about *where* an edge is. The critic sees whole patches and refuses any answer that is grey, however near.
# </details>
#
# ## 7. VAE: a hidden cause
#
# A variational autoencoder (arXiv:1312.6114) says: first a latent $u \sim N(0, I)$, a hidden variable, decides the story, then the pixels follow with a little Gaussian noise, $y \sim N(g(u, x), \sigma^2 I)$. The likelihood of $y$ is an integral over all stories, which nobody can do. So a second network, the encoder $q(u \mid y, x)$, guesses which story it was, and Jensen's inequality gives a bound:
#
# $$\log p(y \mid x) \;\ge\; \underbrace{\mathbb E_{q}\,\log p(y \mid u, x)}_{\text{fit}} - \underbrace{\mathrm{KL}\big(q(u\mid y, x)\,\Vert\,N(0, I)\big)}_{\text{price of the story}} .$$
#
# The gap is $\mathrm{KL}(q \,\Vert\, p(u \mid y, x))$: zero only if the guess is the true posterior of $u$ (→ Exercise 03.5). The bound in eight lines:


# %%
def maps(v):
    """(B, C) -> images of one pixel with C channels, (B, C, 1, 1), as the networks want them."""
    return v[:, :, None, None]


def told(x):
    """The condition of the package's networks: 4 x, as in Small."""
    return maps(4 * x)


def my_elbo(model, y, x, noise):
    mean, log_std = model.encode(maps(y), told(x))
    u = mean + log_std.exp() * noise(mean)
    fit = Normal(model.decode(u, told(x)), model.log_std.exp()).log_prob(maps(y)).flatten(1).sum(1)
    price = (mean**2 / 2 + (2 * log_std).exp() / 2 - 0.5 - log_std).flatten(1).sum(1)
    return fit - price


def vae(seed, rounds=450, std=None):
    """Train a VAE with two latent numbers; std=None learns the decoder's sigma."""
    torch.manual_seed(seed)
    model, noise = ConditionalVAE(channels=2, cond_channels=1, latent=2, hidden=32, std=std), standard_normal(seed)
    fit([model], lambda x, y: -model.elbo(maps(y), told(x), noise), seed, rounds)
    return model


vaes = [vae(seed) for seed in range(3)]
families["VAE"] = [lambda x, m=model: m.sample(told(x), standard_normal(9)).flatten(1) for model in vaes]
board["VAE"] = torch.stack([judge(draw) for draw in families["VAE"]])
assert_close(
    my_elbo(vaes[0], train_y[:9], train_x[:9], standard_normal(0)),
    vaes[0].elbo(maps(train_y[:9]), told(train_x[:9]), standard_normal(0)),
)

# %%
wide = vae(0, std=1.2)


def draw_means(model):
    """What the decoder says for stories drawn from the prior, without its noise."""
    with torch.no_grad():
        return model.decode(standard_normal(9)(maps(x_32.expand(-1, 2))), told(x_32)).flatten(1)


plots.strip(
    [
        panel("samples", families["VAE"][0](x_32)),
        panel("means g(u, x) alone", draw_means(vaes[0])),
        panel("trained with sigma = 1.2: means", draw_means(wide)),
    ],
    title="The VAE reaches every mode, and smears; with a generous sigma it forgets its latent",
    alt="Three clouds over the exact posterior. Samples: on all bars, but blurred beyond their edges and with many points between the islands. Means alone: a little tighter, still with points between. Trained with sigma 1.2: a single curve through the middle, as in regression.",
    columns=3,
)

# %% [markdown]
# How good is the VAE as a law? Its likelihood has only bounds. Averaging $p(y, u \mid x)/q(u \mid y, x)$ over 50 draws of $u$ *inside* the logarithm gives a tighter bound, still a bound.

# %%
likelihoods = {"exact": exact_log_prob(y_test, x_test)[None].float()}
some_x, some_y = told(x_test[:4000].float()), maps(y_test[:4000].float())
with torch.no_grad():
    bound, tighter = [], []
    for model in vaes:
        ratio = []
        noise = standard_normal(1)
        for _ in range(50):  # importance weights p(y, u) / q(u | y), for u drawn from the encoder
            mean, log_std = model.encode(some_y, some_x)
            eps = noise(mean)
            u = mean + log_std.exp() * eps
            log_ratio = Normal(0, 1).log_prob(u) - Normal(0, 1).log_prob(eps) + log_std
            ratio.append(model.log_likelihood(some_y, u, some_x) + log_ratio.flatten(1).sum(1))
        bound.append(torch.stack(ratio).mean(0).mean())
        tighter.append((torch.stack(ratio).logsumexp(0) - math.log(50)).mean())
likelihoods["VAE"] = torch.stack(tighter)
print(f"mean log p(y | x): exact {likelihoods['exact'].mean():.2f} nats")
print(
    f"VAE: bound {torch.stack(bound).mean():.2f}, with 50 weighted guesses {torch.stack(tighter).mean():.2f} (seeds +- {torch.stack(tighter).std():.2f})"
)

# %% [markdown]
# The VAE drops nothing: the fit term pays for every training image. It smears instead. Stories that lie side by side in $u$ must decode to images side by side, so between two islands the decoder has a bridge, and $\sigma$ covers what it cannot resolve. **Break it** (right panel): if $\sigma$ may excuse everything, the cheapest encoder says nothing, the price is 0, and
# the decoder returns the mean: *posterior collapse*. The blur of early VAE pictures has these two sources, and showing $g(u, x)$ without its noise hides only one of them.
#
# <details><summary><b>Question.</b> What would happen if you multiplied the KL term by 0.01?</summary>
#
# The fit would improve: the encoder could tell the decoder almost everything, with sharp reconstructions of $y$. But its $u$ would lie where $N(0, I)$ hardly ever draws, so *samples* would decode from places the decoder has never seen. A reconstruction is no evidence about samples.
# </details>
#
# ## 8. Autoregression: one pixel at a time
#
# Any joint law is a product of conditionals, without approximation:
#
# $$p(y \mid x) = \prod_i p\big(y_i \mid y_1, \dots, y_{i-1}, x\big).$$
#
# PixelCNN (arXiv:1601.06759, arXiv:1606.05328) cuts grey values into levels and predicts a full histogram for each pixel, by convolutions whose masks hide what comes later (→ Exercise 03.6). A histogram can have any number of modes. Dahl et al. used it for faces (*Pixel recursive super resolution*, arXiv:1702.00783). For two pixels the product has two factors.

# %%
levels, span = 32, 1.6  # grey levels, evenly from -1.6 to 1.6


def to_levels(y):
    """(B, 2) -> whole numbers (B, 1, 1, 2): an image of one row with two pixels."""
    return ((y + span) / (2 * span) * levels).long().clamp(0, levels - 1)[:, None, None]


def from_levels(k, noise):
    """The middle of the level, plus noise that fills it evenly."""
    k = k.flatten(1)
    return (k + torch.special.ndtr(noise(k.float()))) / levels * 2 * span - span


def wide_x(x):
    return told(x).expand(-1, -1, 1, 2)


def pixel_model(seed, rounds=350):
    torch.manual_seed(seed)
    model = PixelModel(channels=1, cond_channels=1, levels=levels, hidden=24, layers=1)
    fit([model], lambda x, y: -model.log_prob(to_levels(y), wide_x(x)), seed, rounds)
    return model


pixel_models = [pixel_model(seed) for seed in range(3)]
families["pixel model"] = [
    lambda x, m=model: from_levels(m.sample(wide_x(x), 3), standard_normal(4)) for model in pixel_models
]
board["pixel model"] = torch.stack([judge(draw) for draw in families["pixel model"]])
volume = 2 * math.log(levels / (2 * span))  # a probability per level -> a density
with torch.no_grad():
    likelihoods["pixel model"] = torch.stack(
        [m.log_prob(to_levels(y_test), wide_x(x_test.float())).mean() + volume for m in pixel_models]
    )
    every = torch.cartesian_prod(torch.arange(levels), torch.arange(levels))[:, None, None]
    total = pixel_models[0].log_prob(every, wide_x(torch.full((len(every), 1), 0.1))).exp().sum()
assert_close(total, torch.tensor(1.0))
print(f"all {len(every)} images together have probability {total:.6f}")

# %%
middles = (torch.arange(levels) + 0.5) / levels * 2 * span - span
with torch.no_grad():
    at_zero = wide_x(torch.zeros(1, 1))
    first = pixel_models[0].logits(torch.zeros(1, 1, 1, 2).long(), at_zero)[0, :, 0, 0, 0].softmax(0)
    seconds = {
        name: pixel_models[0].logits(to_levels(torch.tensor([[value, 0.0]])), at_zero)[0, :, 0, 0, 1].softmax(0)
        for name, value in (
            ("second, if the first is dark (-0.7)", -0.7),
            ("second, if the first is bright (0.7)", 0.7),
        )
    }
plots.curves(
    middles,
    {"first pixel": first, **seconds},
    title="The first pixel may be dark or bright; the second then has no choice",
    alt="Three histograms over grey values for x = 0. The first pixel's has two equal peaks near minus 0.7 and 0.7. The second pixel's, if the first is dark, has one peak near 0.7; if the first is bright, one peak near minus 0.7.",
    xlabel="grey value",
    ylabel="probability of a level",
    ylim=(0, 0.6),
    height=320,
)

# %% [markdown]
# **Break it.** Suppose we are in a hurry and draw both pixels at once, each from its own histogram, as a network does that predicts a full histogram for every pixel in one call. Here the histograms are those of the 40 most similar examples, and each pixel takes its own.

# %%
pool = torch.cdist(x_shown, store_x).topk(40, largest=False).indices
pick = torch.randint(40, (len(x_shown), 2), generator=torch.Generator().manual_seed(0))
rows = torch.arange(len(x_shown))
hurried = torch.stack([store_y[pool[rows, pick[:, i]], i] for i in range(2)], 1)  # each pixel from another example
plots.strip(
    [
        panel("one pixel after the other", families["pixel model"][0](x_32)),
        panel("both at once, independently", hurried),
    ],
    title="Drawn one after the other: right. Drawn at once: two halves of different images",
    alt="Two clouds over the exact posterior. One pixel after the other: the points lie on all bars and islands, hardly any elsewhere. Both at once: beside the islands a third group appears in the middle at d = 0, images whose pixels are both dark or both bright.",
    columns=2,
)

# %% [markdown]
# So the order is the price. Two pixels took two calls. A photo of 512×512 with three colours takes 786,432 calls, one after the other, for one sample; and what is drawn is never revised. In everything else this family is the honest one: exact likelihood, all modes, plain training.
#
# ## 9. Normalising flow: bend the noise
#
# > A word first: this flow is a flow of *probability*. It has nothing to do with optical flow, displacement fields or motion, whatever some accounts of flow-based super-resolution say.
#
# Take noise $\varepsilon \sim N(0, I)$ and bend space, by an invertible map, until it has the shape of the data. If $\varepsilon = f(y; x)$, densities change by how much volume changes:
#
# $$\log p(y \mid x) = \log N\big(f(y; x); 0, I\big) + \log\left|\det\frac{\partial f}{\partial y}\right| .$$
#
# SRFlow (arXiv:2006.14200) trains exactly this, and nothing else. The determinant of a general map for $n$ numbers costs $n^3$ operations, so flows are built of pieces with cheap ones. A *coupling* (arXiv:1605.08803) leaves the first half $a$ of the numbers alone and moves the second half $b$ by a scale and shift that depend on $a$ and $x$:
#
# $$b \mapsto e^{s(a, x)}\, b + t(a, x), \qquad \log\left|\det\right| = \textstyle\sum s(a, x) .$$
#
# It is invertible whatever $s$ and $t$ are; its Jacobian is triangular. Between couplings a learned matrix mixes the halves (Glow, arXiv:1807.03039). Check the claim about the determinant against autograd (→ Exercise 03.7):


# %% tags=["nbval-check-output"]
def my_coupling(network, y, x):
    """One coupling of two numbers; returns the image and the log-determinant."""
    a, b = y[:, :1], y[:, 1:]
    log_scale, shift = network.scale_and_shift(maps(a), maps(x))
    return torch.cat([a, log_scale.exp()[..., 0, 0] * b + shift[..., 0, 0]], 1), log_scale.sum((1, 2, 3))


torch.manual_seed(3)
piece, stack = Coupling(2, 1, hidden=16).double(), ConditionalFlow(2, 1, steps=4, hidden=16).double()
for parameter in [*piece.parameters(), *stack.parameters()]:
    parameter.data += 0.3 * torch.randn_like(parameter)
y, x = y_test[:5], x_test[:5]
out, log_det = my_coupling(piece, y, x)
assert_close(maps(out), piece(maps(y), maps(x))[0])
z, total = stack(maps(y), maps(x))
for i in range(5):
    jacobian = torch.func.jacrev(lambda v: stack(maps(v[None]), maps(x[i : i + 1]))[0].flatten())(y[i])  # noqa: B023
    assert_close(torch.linalg.slogdet(jacobian)[1], total[i])
assert_close(stack.inverse(z, maps(x)), maps(y))
print("log-determinant = that of autograd's Jacobian; inverse(forward(y)) = y")


# %%
def flow_model(seed, rounds=340, steps=4):
    torch.manual_seed(seed)
    model = ConditionalFlow(channels=2, cond_channels=1, steps=steps, hidden=32)
    fit([model], lambda x, y: -model.log_prob(maps(y), told(x)), seed, rounds, rate=0.02)
    return model


flows = [flow_model(seed) for seed in range(3)]
families["flow"] = [lambda x, m=model: m.sample(told(x), standard_normal(9)).flatten(1) for model in flows]
board["flow"] = torch.stack([judge(draw) for draw in families["flow"]])
with torch.no_grad():
    likelihoods["flow"] = torch.stack([m.log_prob(maps(y_test.float()), told(x_test.float())).mean() for m in flows])
    flow_plane = flows[0].log_prob(maps(plane.float()), torch.zeros(len(plane), 1, 1, 1)).double()
bridge = detail(plane).abs() < 0.25
cell = (axis[1] - axis[0]) ** 2
for name, log_density in (("exact", posterior(0).log_prob(plane)), ("flow", flow_plane)):
    print(f"{name:5} x = 0: probability of |d| < 0.25: {(log_density.exp()[bridge].sum() * cell):.4f}")

# %%
plots.density_2d(
    axis,
    axis,
    {
        name: on_plane(density - density.max()).sqrt()
        for name, density in (("exact, x = 0", posterior(0).log_prob(plane)), ("flow, x = 0", flow_plane))
    },
    title="A flow can stretch the sheet, but never tear it: a bridge of density joins the islands",
    alt="Two panels of the plane of both pixels. Exact posterior for x = 0: two separate spots. The flow's density: two spots in the same places, joined by a thin band across the middle.",
    caption="Square root of the density relative to its maximum, so that faint parts can be seen.",
    xlabel="left pixel $y_1$",
    ylabel="right pixel $y_2$",
    width=640,
    height=340,
)

# %% [markdown]
# An invertible continuous map cannot turn one piece into two. The noise is one piece, so the flow's law is one piece: between the islands stays a bridge, thin where training had its way. That is no accident of our small network: to come close to separate islands a flow must become numerically non-invertible (Cornish et al., arXiv:1909.13833). On photos a bridge is a picture halfway between two sharp ones.
#
# Practice has a remedy for samples that stray: draw $\tau\varepsilon$ with a *temperature* $\tau < 1$ (SRFlow samples its pictures below 1, too). It keeps samples near the centre of the noise. With one mode that is a fine place. With two, what lies in the centre? Move the slider: the flow stays the same, only the temperature and the LR pixel change.

# %%
half = standard_normal(12)(torch.empty(500, 2, 1, 1))


def draw_temperature(temperature=0.9, x=0.0, seed=0):
    """500 samples of one flow at a temperature, over the exact posterior for this x."""
    with torch.no_grad():
        cond = torch.full((500, 1, 1, 1), 4 * float(x))
        y = flows[seed].inverse(temperature * half, cond).flatten(1).double()
    law = posterior(x)
    exact_share, share = law.weights[2].item(), (detail(y) > 0.35).double().mean().item()
    return plots.density_2d(
        axis,
        axis,
        {f"x = {x:g}, temperature {temperature:g}": on_plane(law.log_prob(plane))},
        points={"_": y},
        title=f"rising: {share:.0%}, exact {exact_share:.0%}",
        alt=f"500 samples of the flow for x = {x:g} at temperature {temperature:g} over the exact posterior; {share:.0%} show a rising edge, exactly it would be {exact_share:.0%}.",
        xlabel="$y_1$",
        ylabel="$y_2$",
        width=330,
        height=350,
    )


widgets.explorer(draw_temperature, temperature=(0.0, 1.2, 0.1, 0.9), x=(-0.8, 0.8, 0.1, 0.0), seed=[0, 1, 2])

# %%
widgets.frames(
    draw_temperature,
    [{"temperature": 1.0}, {"temperature": 0.7}, {"temperature": 0.2}],
    title="Cooled down, the samples gather on the bridge",
    alt="Three panels of flow samples for x = 0 over two islands. At temperature 1 they cover both islands, with some points on the bridge between. At 0.7 they draw together on the near sides of the islands. At 0.2 nearly all lie on the bridge, in a thin line from one island to the other.",
    columns=3,
)

# %% [markdown]
# The centre of the noise is mapped to the middle of the bridge. The lower the temperature, the more samples are pictures that cannot exist: the limit is one answer again, and a grey one.
#
# <details><summary><b>Question.</b> What is a flow of one layer, y = t(x) + e^{s(x)} ε, when s is the same constant everywhere?</summary>
#
# Its negative log-likelihood is the squared error up to constants, and $t(x)$ becomes the posterior's mean: regression. L1 is the same with a Laplace law for the noise (Lugmayr et al., arXiv:2111.03649). A deep flow is what remains of regression when you let it describe its own errors.
# </details>
#
# ## 10. Diffusion, the fifth family
#
# Diffusion also bends noise into data, by many small steps that a *denoiser* directs. With $z_t = \alpha_t y + \sigma_t\varepsilon$, the image at noise level $t$ (fixed numbers: $\alpha_t$ falls from 1 to 0, $\sigma_t$ rises from 0 to 1), it needs one function, and that function is a regression:
#
# $$\hat z_0(z_t, t, x) = \mathbb E\,[\,y \mid z_t, x\,] .$$
#
# So we are back at the squared error, whose minimum is a mean. But the mean of *which* posterior? With much noise that of $p(y \mid x)$: grey. With little noise $z_t$ says already which island it is, and the mean is a sharp image. Chapters 04 to 07 take this apart; here you only place it. The steps are those of DDIM, the deterministic sampler of chapter 07 that you ran in chapter 00. Exact first: our posterior knows its denoiser.


# %%
schedule = vp_cosine()


def exact_diffusion(calls):
    """draw(x) for the judge: DDIM with the exact denoiser of each posterior."""

    def draw(x):
        start = standard_normal(2)(torch.empty(len(laws), count, 2, dtype=double))
        return torch.cat(
            [
                last(ddim(denoiser_for(law, schedule), schedule, z, uniform_times(calls)))
                for law, z in zip(laws, start, strict=True)
            ]
        )

    return draw


def diffusion(seed, rounds=800):
    """Train a denoiser that is told x; returns it as denoiser(z, t, x)."""
    torch.manual_seed(seed)
    layers, noise, generator = Small(2 + 1 + 16, 2), standard_normal(seed), torch.Generator().manual_seed(seed)

    def network(u, level, x):
        return layers(u, x, noise_embedding(level, 16) / 4)

    denoiser = NetworkDenoiser(network, "v", schedule)

    def loss(x, y):
        t, eps = torch.rand(len(y), generator=generator), noise(y)
        z = schedule.alpha(t).float()[:, None] * y + schedule.sigma(t).float()[:, None] * eps
        return (network(*denoiser.inputs(z, t), x) - denoiser.target(y, eps, t)).square().float()

    fit([layers], loss, seed, rounds)
    return denoiser


def sampler(denoiser, calls):
    def draw(x):
        z = standard_normal(2)(torch.empty(len(x), 2))
        return last(ddim(lambda z, t: denoiser(z, t, x), schedule, z, uniform_times(calls)))

    return draw


denoisers = [diffusion(seed) for seed in range(3)]
families["diffusion"] = [sampler(denoiser, 20) for denoiser in denoisers]
board["diffusion"] = torch.stack([judge(draw) for draw in families["diffusion"]])

# %%
calls = [1, 2, 3, 5, 10, 20, 40]
by_exact = [judge(exact_diffusion(n))[0] for n in calls]
by_network = torch.stack([torch.stack([judge(sampler(d, n))[0] for n in calls]) for d in denoisers])
plots.curves(
    calls,
    {"exact denoiser": torch.stack(by_exact), "learned denoiser, three seeds": by_network.mean(0)},
    bands={"learned denoiser, three seeds": by_network.std(0)},
    horizontal={
        "exact draws": board["exact, again"][0, 0].item(),
        "L2 regression": board["L2 regression"][0, 0].item(),
    },
    title="One call is regression; ten calls are a sampler",
    alt="Distance to the exact posterior against the number of network calls from 1 to 40, on a logarithmic axis. The exact denoiser starts on the line of L2 regression, the learned one above it; both stay there for two calls, fall steeply until five, nearly coincide from then on, and at 40 calls are still about twice as far as exact draws.",
    xlabel="network calls",
    ylabel="distance",
    logx=True,
    xlim=(0.9, 90),
    height=350,
)

# %% [markdown]
# With one call DDIM returns the denoiser's answer to pure noise, the posterior's mean (the learned one is a little off there). With ten calls it is a sampler, and what remains with the exact denoiser is the length of the steps: it sinks towards the line of chance. **Diffusion buys the posterior with calls**, and its training is the tamest of all: a regression, no game, no bound to tune, no architecture that must be invertible.
#
# ## 11. The five side by side

# %%
names = ["GAN", "VAE", "pixel model", "flow", "diffusion"]
panels = [panel(name, families[name][0](x_32)) for name in names]
plots.strip(
    [panel("exact", y_shown), *panels],
    title="Five families on one posterior",
    alt="Six clouds over the exact posterior. Exact: on the bars and both islands. GAN: thinner than the bars and islands, off the dark bar at the left, a few dozen points between. VAE: smeared, many points between. Pixel model: close to exact. Flow: islands joined by scattered points. Diffusion: on both islands, a few points between.",
    columns=3,
)

# %%
print(f"{'':16}{'distance':>18}{'wrong shares':>18}{'strays':>16}{'log p, nats':>16}")
for name, scores in board.items():
    spread = scores.std(0) if len(scores) > 1 else torch.zeros(3)
    nats = likelihoods.get(name if name != "exact, again" else "exact")
    text_nats = "" if nats is None else f"{nats.mean():.2f}" + (f" +- {nats.std():.2f}" if nats.ndim == 1 else "")
    text_nats = "≥ " * (name == "VAE") + text_nats
    cells = [f"{scores.mean(0)[i]:8.3f} +- {spread[i]:.3f}" for i in range(3)]
    print(f"{name:16}" + "".join(f"{text:>17}" for text in cells) + f"{text_nats:>18}")
for name in ("flow", "pixel model", "VAE"):  # the VAE's bound was taken on the first 4000 images
    missing = likelihoods["exact"][0, : 4000 if name == "VAE" else None].mean() - likelihoods[name].mean()
    print(f"{name}: {'at most ' * (name == 'VAE')}{missing:.2f} nats are missing")

# %%
plots.strip(
    [
        plots.bars(
            ["exact", *[name.replace(" ", "\n") for name in names]],
            {"": [board["exact, again"][0, i], *[board[name][:, i].mean() for name in names]]},
            errors={"": [0, *[board[name][:, i].std() for name in names]]},
            title=title,
            alt=f"{title}: bars for exact draws and the five families, with the spread over three seeds.",
            width=470,
            height=300,
        )
        for i, title in ((0, "distance (sliced $W_1$)"), (2, "strays (1 % is right)"))
    ],
    title="What each family gets wrong, three seeds each",
    alt="Two bar charts for exact draws, GAN, VAE, pixel model, flow and diffusion. Left, distance: "
    + ", ".join(f"{name} {board[name][:, 0].mean():.2f}" for name in names)
    + ". Right, strays: "
    + ", ".join(f"{name} {board[name][:, 2].mean():.0%}" for name in names)
    + ".",
    columns=2,
)

# %% [markdown]
# Read the rows against the clouds. The VAE has the most strays: its bridges and its smear. The GAN's strays are few for a cloud that is far from right, since thin threads inside the islands cost it nothing there; the distance notices. Pixel model, flow and diffusion are the closest.
#
# Now the nats that are missing, last in the printout: they estimate $\mathrm{KL}(p\,\Vert\,q)$, averaged over $x$. Flow and pixel model miss about as much, each for its own reason: the flow pays for its bridges, the pixel model also for its levels, within which its density is flat. The VAE misses most; how much of that is its smear and how much a loose bound, the number cannot say. Bridges are cheap in this currency: a model that gives them the share $s$ of its draws, and is right otherwise, misses only $-\log(1-s)$. Likelihood punishes what a model leaves out far more than what it adds.
#
# What no score shows is what you *get*:
#
# | family | trained by | calls for a sample | likelihood | all modes? | its own fault |
# |---|---|---|---|---|---|
# | regression | squared error | 1 | no | one answer | the mean: blur |
# | GAN | a game | 1 | no | not asked for | thin modes, may drop some |
# | VAE | a bound | 1 | a bound | yes | smears; may ignore its latent |
# | pixel model (autoregressive) | exact likelihood | one per number | exact | yes | slow; never revises |
# | flow | exact likelihood | 1 | exact | yes | bridges; every layer invertible |
# | diffusion | regression, at all noise levels | ten or more | a bound, or an ODE (chapter 08) | yes | many calls |
#
# Three wishes, then: quality, a sample in one call, and all modes. On two pixels the flow is as near as diffusion, with one call instead of twenty; only its strays, the bridge, give it away. Two pixels are a mild test for it and for the pixel model. On photos the three wishes pull apart. (→ Exercise 03.8 on measuring shares fairly.)
#
# ## 12. On photos
#
# The same families, on photos at ×4 (chapter 01's bicubic downscaling). Twelve crops of built-in photos, which no network has trained on. The regression was trained with L1, as EDSR: near the median of each pixel, which for a texture as likely brighter as darker is the mean. The GAN started from it, with a small weight for the critic and L1 as content loss, and has no noise. The flow draws what the regression leaves out, on the LR grid with the 48 numbers of a 4×4 block as channels, at temperature 0.9. "Diffusion" is here the method `residual-diffusion`: like the flow it draws what the regression leaves out.

# %%
places = {
    "astronaut": (20, 170),
    "chelsea": (80, 130),
    "coffee": (60, 200),
    "rocket": (250, 300),
    "immunohistochemistry": (200, 200),
    "brick": (100, 100),
    "grass": (100, 100),
    "gravel": (100, 100),
    "coins": (20, 40),
    "camera": (60, 180),
    "china": (150, 250),
    "flower": (120, 280),
}
hr = torch.cat([photo(name)[..., top : top + 96, left : left + 96] for name, (top, left) in places.items()])
lr = resize(hr, 1 / 4).clamp(0, 1)
methods = ("bicubic", "sparse", "regression", "gan", "flow", "residual-diffusion")
answers = {method: super_resolve(lr, method=method, seed=10) for method in methods}
columns_shown = {**answers, "original": hr}
plots.image_grid(
    torch.cat([images[i : i + 1] for i in (0, 1, 6, 10) for images in columns_shown.values()]),
    [name.replace("residual-", "") for name in columns_shown] + [""] * 21,
    title="Four crops, six methods: smooth, drawn, or speckled",
    alt="Four rows of photo crops (hair, a cat's eye, grass, a temple), each by bicubic interpolation, sparse coding, regression, GAN, flow and residual diffusion, with the original at the right. Bicubic is blurred throughout. Sparse coding and regression have clear edges and smooth grass. The GAN has firm lines in the temple and a dotted net in the grass, and its hair is nearly that of the regression; the flow speckles in clumps, diffusion adds fine grain; none has the blades of the original.",
    zoom=2,
    columns=7,
    crop=(18, 18, 58, 58),
)

# %% [markdown]
# Three ways not to be smooth. The GAN sharpens edges and *draws*: firm lines in the temple, a dotted net in the grass, and in the hair almost nothing. The flow *speckles*: where the regression is unsure it adds detail in clumps. Diffusion, in twenty calls, grains more evenly. None knows the blades of grass; $x$ does not say.

# %%
measured = {}
for method, images in [*answers.items(), ("original", hr)]:
    scores = (
        psnr(images, hr, crop=4),
        100 * sliced_wasserstein(images, hr),
        sharpness(images) / sharpness(hr),
        lr_consistency(images, lr, 4),
    )
    measured[method] = scores
    if method != "original":
        print(
            f"{method:19} PSNR {scores[0].mean():5.2f} dB   patches {scores[1].mean():5.2f}   sharpness {scores[2].mean():5.2f}   consistency {scores[3].mean():5.1f} dB"
        )

# %%
table = {name: scores for name, scores in measured.items() if name != "original"}
against = table["regression"]
plots.scatter(
    {name: (scores[0].mean(), scores[1].mean()) for name, scores in table.items()},
    errors={
        name: tuple((scores[i] - against[i]).std() / len(hr) ** 0.5 for i in range(2)) for name, scores in table.items()
    },
    title="The perception-distortion plane: nobody is in the lower right corner",
    alt="Six points, PSNR to the right, distance of patches upwards. "
    + "; ".join(f"{name}: {scores[0].mean():.1f} dB, {scores[1].mean():.1f}" for name, scores in table.items())
    + ".",
    caption="Means over twelve crops; the bars are standard errors of the difference to regression, crop by crop.",
    xlabel="PSNR, dB (right is closer to the original)",
    ylabel="sliced $W_1$ of patches, 1e-2 (down: like photos)",
    height=420,
)

# %% [markdown]
# Read it as chapter 02 taught: to the right, closer to *this* original; down, more like photos in general. Regression is farthest right. GAN, diffusion and flow go down and pay to the left, the flow most. Mind the axis, too: the flow has the best patches by this measure, and your eye may well prefer the GAN. Sliced $W_1$ asks how often a texture occurs and forgets where, so speckles in the wrong place count as right.
#
# No method can be in the lower right corner, because the posterior's variance is real: **a perfect sampler's squared error is twice that of the posterior's mean** (3 dB), whoever draws.
#
# That can be used as a test. If the flow's samples are draws from a law with mean $\mu$ and variance $b$, the average of $K$ of them has the error
#
# $$\mathrm{MSE}(K) = a + \frac{b}{K}, \qquad a = \mathbb E\,\|y - \mu\|^2,$$
#
# and averaging a sampler must lead back to regression: to its error, and to its blur.

# %%
counts = [1, 2, 4, 8, 16]
samples = torch.stack([super_resolve(lr, method="flow", seed=range(100 * k, 100 * k + len(lr))) for k in range(16)])
averages = {k: samples[:k].mean(0) for k in counts}
mse = torch.stack([(averages[k] - hr).square().flatten(1).mean(1) for k in counts])  # (counts, crops)
b = samples.var(0).flatten(1).mean(1)
a = mse[-1] - b / 16
of_regression = (answers["regression"] - hr).square().mean()
plots.strip(
    [
        plots.curves(
            counts,
            {"measured": 1e4 * mse.mean(1), "a + b/K": 1e4 * (a.mean() + b.mean() / torch.tensor(counts))},
            title="squared error",
            alt="Squared error against K, falling towards the line of regression.",
            horizontal={"regression": 1e4 * of_regression.item()},
            xlabel="samples averaged, K",
            ylabel="mean squared error, 1e-4",
            logx=True,
            width=470,
            height=320,
        ),
        plots.curves(
            counts,
            {"flow, averaged": [(sharpness(averages[k]) / sharpness(hr)).mean() for k in counts]},
            title="sharpness relative to the original",
            alt="Sharpness against K, falling towards the line of regression.",
            horizontal={"regression": (sharpness(answers["regression"]) / sharpness(hr)).mean().item()},
            xlabel="samples averaged, K",
            ylabel="sharpness",
            logx=True,
            width=470,
            height=320,
        ),
    ],
    title="Average enough samples and you are back at the regression",
    alt="Two panels against the number of averaged flow samples, 1 to 16. Left, the mean squared error falls from "
    f"{1e4 * mse[0].mean():.0f} to {1e4 * mse[-1].mean():.0f}, on the curve a + b/K; regression's is {1e4 * of_regression:.0f}. Right, the sharpness falls towards that of regression.",
    columns=2,
)

# %%
apart = (averages[16] - answers["regression"]).square().mean().sqrt()
single = (samples[0] - answers["regression"]).square().mean().sqrt()
print(f"RMS distance to the regression's answer: one sample {255 * single:.1f}/255, mean of 16 {255 * apart:.1f}/255")
print(f"chance alone explains {255 * (b.mean() / 16).sqrt():.1f}/255 of the second distance")
print(f"a = {1e4 * a.mean():.1f}, b = {1e4 * b.mean():.1f} (1e-4): b / a = {b.mean() / a.mean():.2f}")

# %% [markdown]
# The mean of sixteen samples lies close to the regression's answer: compare the distance with what chance alone explains, since sixteen draws still scatter around their mean. No wonder: this flow was built on the regression and draws what it leaves out. The curve holds a test that is no matter of construction. For a perfect sampler $a = b$, both the posterior's variance; at temperature 0.9 a Gaussian one would have $b = 0.81\,a$. Our flow has less (printed above). Either its draws vary too little, or their mean is off (a bias is part of $a$); the test cannot say which. The first would make it sharp to look at and too sure of itself, a pair of faults of which a single sample shows only one.
#
# One reservation: $b$ is measured from the samples' spread, but $a$ is read off at $K = 16$. So the fit is forced through the last point, and only the other four test it.

# %%
spread = (8 * samples.std(0).mean(1, keepdim=True)).clamp(max=1).expand(-1, 3, -1, -1)
shown = {
    "sample": samples[0],
    "another": samples[1],
    "mean of 16": averages[16],
    "regression": answers["regression"],
    "original": hr,
    "standard deviation": spread,
}
plots.image_grid(
    torch.cat([images[i : i + 1] for i in (0, 6, 10) for images in shown.values()]),
    [*shown, *[""] * 12],
    title="Sixteen samples averaged look like regression; white is where they disagreed",
    alt="Three rows of crops (hair, grass, temple): two flow samples with different grain, the mean of sixteen and the regression, both smooth and alike, the original, and a map of the samples' standard deviation: bright in grass and along edges, dark on smooth areas.",
    caption="Standard deviation times 8.",
    zoom=2,
    columns=6,
    crop=(18, 18, 58, 58),
)

# %% [markdown]
# The right column is something that regression and GAN cannot give: a map of where the answer is a guess. It is only as good as the law behind it; chapter 09 tests such maps against the truth.
#
# Last, the photo's own temperature. The same flow, from nearly the regression's picture at $\tau = 0$ to too much at 1.2. Watch PSNR and patches go opposite ways:

# %%
regression, photo_flow = load_pretrained("photo-regression-x4"), load_pretrained("photo-flow-x4")
eps = standard_normal([torch.Generator().manual_seed(10)])(torch.empty(1, 48, 24, 24))


@torch.inference_mode()
def warm(temperature, crop):
    mean, spread, cond = condition(regression, lr[crop : crop + 1])
    return (mean + spread * F.pixel_shuffle(photo_flow.inverse(temperature * eps, cond), 4)).clamp(0, 1)


assert_close(warm(0.9, 0), super_resolve(lr[:1], method="flow", seed=10))


def draw_photo(temperature=0.9, crop="chelsea"):
    """One flow sample of a crop at a temperature."""
    index = list(places).index(crop)
    sr, truth = warm(temperature, index), hr[index : index + 1]
    numbers = f"PSNR {psnr(sr, truth, crop=4)[0]:.1f}, patches {100 * sliced_wasserstein(sr, truth)[0]:.2f}"
    return plots.image_grid(
        sr,
        title=f"τ = {temperature:g}: {numbers}",
        alt=f"The crop {crop} super-resolved by the flow at temperature {temperature:g}: {numbers}.",
        zoom=3,
    )


widgets.explorer(draw_photo, temperature=(0.0, 1.2, 0.1, 0.9), crop=list(places))

# %%
widgets.frames(
    draw_photo,
    [{"temperature": value} for value in (0.0, 0.6, 0.9)],
    title="From the mean to a sample by one number",
    alt="Three versions of a cat's eye and fur. Temperature 0: smooth, highest PSNR. 0.6: some texture. 0.9: more texture, lowest PSNR.",
    columns=3,
)

# %% [markdown]
# > **Common mistakes**
# >
# > - Judging a generator by one sample, or by PSNR: PSNR rewards the mean, and one sample cannot show a missing mode.
# > - A generator's gradient that reaches the discriminator's weights, or the other way round: detach the fake in one loss and freeze the critic in the other.
# > - The log-determinant with the wrong sign, or left out: the loss then falls without end, or everything shrinks to a point.
# > - A first mask that lets a pixel see itself: the loss falls to almost nothing, and the samples are noise.
# > - The KL of a VAE averaged over pixels while the fit is summed (or the reverse): a silent change of its weight.
# > - log p of grey *levels* compared with log p of a *density*: they differ by the volume of a level.
# > - A momentum schedule left on in a GAN: PyTorch's `OneCycleLR` moves Adam's first beta unless told not to.
#
# > **In the papers**
# >
# > - SRGAN (arXiv:1609.04802) had a lower PSNR than its own regression network, and opinion scores closer to those of the originals than any method before it. ESRGAN (arXiv:1809.00219) won the third region of the PIRM 2018 challenge, dropped batch normalisation, and let the critic judge *relative* realness.
# > - SRFlow (arXiv:2006.14200) is trained by the negative log-likelihood alone, and shows what the space of solutions is good for: several answers, transfer of content between images.
# > - Pixel recursive super resolution (arXiv:1702.00783) added to PixelCNN a network that reads the LR face, 8×8 to 32×32.
# > - Blau and Michaeli (arXiv:1711.06077) prove that perception and distortion must be traded, whatever the method.
# > - Goodfellow et al. (arXiv:1406.2661) proposed the game; the hinge is from Lim and Ye (arXiv:1705.02894); spectral norm, which our photo critic uses, from Miyato et al. (arXiv:1802.05957).
#
# > **Going further**
# >
# > - Flows without couplings, whose layers are the steps of an ODE: chapter 06 meets one that nobody had to train as a flow.
# > - What a likelihood is worth in bits, and what diffusion's is: chapter 08.
# > - A VAE with many latent layers, each of the image's size, whose encoder adds noise and learns nothing, is a diffusion model: chapter 04.

# %% [markdown]
# ## Recap
#
# 1. **Compute:** the posterior of a mixture is a mixture. A judge needs many draws for the same $x$, and a line that says what chance alone does.
# 2. **Explain:** one example is a draw, many are a mean; sparse codes share a few atoms between both resolutions; averaging overlaps blurs.
# 3. **Train:** L2 gives the mean, L1 the median. The error that remains is the posterior's variance, and the blur is the mean's place between the modes.
# 4. **Build:** a density ratio (GAN), a bound (VAE), a product of conditionals (autoregression), a change of variables (flow).
# 5. **Recognise:** thin modes, and the danger of dropping some; smears and silent latents; a call per number; bridges.
# 6. **Place:** diffusion is regression at every noise level, which covers the posterior and pays in calls. On photos, the average of samples is regression again: $a + b/K$.
#
# Next: how the fifth family works.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Freeman, Jones, Pasztor, *Example-Based Super-Resolution*, IEEE Computer Graphics and Applications, 2002. Yang, Wright, Huang, Ma, *Image Super-Resolution via Sparse Representation*, IEEE Transactions on Image Processing, 2010. Zeyde, Elad, Protter, *On Single Image Scale-Up Using Sparse-Representations*, 2012.
# - Dong et al., *SRCNN*, arXiv:1501.00092, and *FSRCNN*, arXiv:1608.00367. Shi et al., *ESPCN*, arXiv:1609.05158. Lim et al., *EDSR*, arXiv:1707.02921.
# - Goodfellow et al., *Generative Adversarial Networks*, arXiv:1406.2661. Ledig et al., *SRGAN*, arXiv:1609.04802. Wang et al., *ESRGAN*, arXiv:1809.00219. Isola et al., *pix2pix*, arXiv:1611.07004. Lim, Ye, *Geometric GAN*, arXiv:1705.02894. Miyato et al., *Spectral Normalization*, arXiv:1802.05957.
# - Kingma, Welling, *Auto-Encoding Variational Bayes*, arXiv:1312.6114.
# - van den Oord et al., *Pixel Recurrent Neural Networks*, arXiv:1601.06759, and *Conditional Image Generation with PixelCNN Decoders*, arXiv:1606.05328. Dahl, Norouzi, Shlens, *Pixel Recursive Super Resolution*, arXiv:1702.00783.
# - Dinh, Sohl-Dickstein, Bengio, *Real NVP*, arXiv:1605.08803. Kingma, Dhariwal, *Glow*, arXiv:1807.03039. Lugmayr et al., *SRFlow*, arXiv:2006.14200, and *AdFlow*, arXiv:2111.03649. Cornish et al., *Relaxing Bijectivity Constraints*, arXiv:1909.13833.
# - Blau, Michaeli, *The Perception-Distortion Tradeoff*, arXiv:1711.06077.
