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
# # Solutions 10: Conditioning and guidance
#
# Eight functions: how a model is told something, how hard it is told, what that really samples, and how to find out whether it listens. Write a few lines, run the cell, run the check below it: it draws fresh inputs and answers in one line.
# They belong to [chapter 10](../notebooks/10_conditioning_and_guidance.ipynb).
#
# Running time: about 10 s on two processor cores.
#
# Arrays are float64 tensors with the batch first. The scale $s$ of guidance is the one of GLIDE, Stable Diffusion and `tutorial_lib.guidance`: 1 is off. Ho and Salimans ([arXiv 2207.12598](https://arxiv.org/abs/2207.12598)) write $w = s - 1$.

# %%
import math

import torch

from tutorial_lib import plots
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, from_z_0, to_z_0
from tutorial_lib.exercises import check
from tutorial_lib.guidance import classifier_free
from tutorial_lib.images import resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.pretrained import SPREADS, load_pretrained
from tutorial_lib.samplers import ddim, heun, last
from tutorial_lib.schedules import edm, karras_times, shifted_cosine, uniform_times, vp_cosine

double = torch.float64
schedule, noise = vp_cosine(), standard_normal(0)

# %% [markdown]
# ## Exercise 10.1: Two answers and a scale (warm-up)
#
# `denoiser(z, t, cond)` gives an estimate of $z_0$; `z`, `cond` and `null` are (B, D), `t` and `scale` numbers, and `null` is the condition that says nothing. Return the guided estimate (B, D): scale 0 ignores the condition, 1 is the conditional answer, and above 1 it goes beyond.


# %%
def guided(denoiser, z, t, cond, null, scale):
    """The guided estimate of z_0 (B, D)."""
    ### BEGIN SOLUTION
    told, untold = denoiser(z, t, cond), denoiser(z, t, null)
    return untold + scale * (told - untold)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.1", guided)

# %% [markdown]
# Papers guide $\hat\epsilon$, others $\hat z_0$, $\hat v$ or the score. Does the same scale mean the same thing in all four? Convert two answers with `from_z_0(z_0, kind, z, t, schedule)`, guide there, convert back with `to_z_0`.

# %% tags=["solution", "nbval-check-output"]
z, told, untold = (noise(torch.empty(4, 3, dtype=double)) for _ in range(3))
here = untold + 3 * (told - untold)
for kind in ("eps", "v", "score"):
    c, u = (from_z_0(answer, kind, z, 0.4, schedule) for answer in (told, untold))
    there = to_z_0(u + 3 * (c - u), kind, z, 0.4, schedule)
    print(f"guided as {kind:5}: z_0 differs by at most {round((there - here).abs().max().item(), 12)}")


def toy(z, t, cond):
    return torch.tanh(z + cond)


cond, null = noise(z), torch.zeros_like(z)
library = classifier_free(toy, 3.0, null=null)
torch.testing.assert_close(guided(toy, z, 0.4, cond, null, 3.0), library(z, 0.4, cond))

# %% [markdown] tags=["solution"]
# It does. Each kind is $a z + b \hat z_0$ with the same $a$ and $b$ for both answers, and the weights $1 - s$ and $s$ add to 1, so $a z$ survives unchanged. With weights that do not add to 1 the four would differ, which is a quick way to catch such a mistake.

# %% [markdown]
# ## Exercise 10.2: A caption as zeros and ones (warm-up)
#
# `captions` is a list of B sentences such as "a calm face with long red hair, a beard and glasses, on a teal background"; `phrases` is a tuple of P words or pairs of words. Return a float tensor (B, P): 1 where the caption holds the phrase as whole words, else 0.


# %%
def multi_hot(captions, phrases):
    """Which phrases each caption holds: (B, P) zeros and ones."""
    ### BEGIN SOLUTION
    plain = [f" {' '.join(caption.replace(',', ' ').split())} " for caption in captions]
    return torch.tensor([[float(f" {phrase} " in text) for phrase in phrases] for text in plain])
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.2", multi_hot)

# %% [markdown]
# What is a word worth? Take 2,000 captioned faces of 16 × 16 pixels. By how many per cent does being told one of the phrases below lower the squared error of the best *linear* guess of the image? Answer twice: for somebody who sees nothing else, and for somebody who sees the LR image of 4 × 4 pixels as well.

# %% tags=["solution"]
phrases = ("red background", "blond hair", "smiling", "beard", "glasses", "sunglasses", "sun hat", "looking left")
people = faces(2000, size=16, seed=0)
said, hr = multi_hot(people.captions, phrases).double(), people.images.double()
seen = resize(hr, 1 / 4).flatten(1)


def left_open(*known):
    """Mean squared error of the best linear guess of the images from a constant and these columns."""
    table = torch.cat([torch.ones(2000, 1, dtype=double), *known], 1)
    weights = torch.linalg.solve(table.T @ table, table.T @ hr.flatten(1))
    return (hr.flatten(1) - table @ weights).square().mean().item()


plots.bars(
    phrases,
    {
        "without the LR image": [100 * (1 - left_open(word) / left_open()) for word in said.T[..., None]],
        "with the LR image": [100 * (1 - left_open(seen, word) / left_open(seen)) for word in said.T[..., None]],
    },
    title="A word pays where the LR image is silent",
    alt="Two bars for each of eight phrases: per cent of the squared error that the word removes. Without the LR image the red background removes 9 and blond hair 4, all others less than 1.5. Smiling removes less than 0.1 in both cases. With the LR image the red background removes nearly nothing and blond hair 0.5, while beard, sunglasses, sun hat, glasses and looking left remove between 0.8 and 1.5, more than before.",
    ylabel="removed squared error, %",
    width=900,
    height=320,
)

# %% [markdown] tags=["solution"]
# The LR image shows the background anyway, so that word is wasted. Glasses, a beard, where a face looks: details between the pixels of the LR image, and here words help more than before, because the rest is settled. The percentages are small since these details cover few pixels; a viewer counts them differently.

# %% [markdown]
# ## Exercise 10.3: A gain and a shift
#
# FiLM ([arXiv 1709.07871](https://arxiv.org/abs/1709.07871)) feeds a condition into every channel of a network. `features` is (B, C, H, W), `cond` (B, K), and `weight` (2C, K) with `bias` (2C,) makes 2C numbers per image: C gains, then C shifts. Return $(1 + \text{gain}) \cdot \text{features} + \text{shift}$.


# %%
def film(features, cond, weight, bias):
    """The modulated features (B, C, H, W)."""
    ### BEGIN SOLUTION
    gain, shift = (cond @ weight.T + bias)[:, :, None, None].chunk(2, 1)
    return (1 + gain) * features + shift
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.3", film)

# %% [markdown]
# What can FiLM say that concatenation can, and what not? Add noise of $\sigma = 1$ to faces (in state units, 16 × 16) and let the condition be their 4 × 4 LR image. Compare the best linear estimates from: the noisy pixel alone; the pixel and the condition's three mean colours (all that a gain and a shift
# per channel can use); the pixel and the enlarged LR image beside it (concatenation).

# %% tags=["solution"]
hr = 2 * hr - 1
lr = resize(hr, 1 / 4)
noisy = hr + noise(hr)
up, colour = resize(lr, 4), lr.mean((2, 3), keepdim=True).expand_as(hr)


def best_linear(*inputs):
    """The least-squares estimate of hr from these images and a constant, channel by channel."""
    guess = torch.empty_like(hr)
    for c in range(3):
        table = torch.stack(
            [*(image[:, c].flatten() for image in inputs), torch.ones(hr[:, c].numel(), dtype=double)], 1
        )
        guess[:, c] = (table @ torch.linalg.lstsq(table, hr[:, c].reshape(-1, 1)).solution).view_as(hr[:, c])
    return guess


answers = {
    "original": hr,
    "noisy": noisy,
    "no condition": best_linear(noisy),
    "told as shift": best_linear(noisy, colour),
    "told as image": best_linear(noisy, up),
}
errors = {name: (guess - hr).square().mean().item() for name, guess in answers.items()}
plots.image_grid(
    [torch.cat(list((guess[:4].clamp(-1, 1) + 1) / 2), 1) for guess in answers.values()],
    [f"{name}: {errors[name]:.2f}" for name in answers],
    title="A shift knows the colour, only an image knows the place",
    alt="Five columns of four small faces: originals, noisy versions, and three linear estimates. Without a condition they are grey and grainy; told as a shift they have the right overall tint and the same grain; told as an image the blurred face is there and the grain is gone.",
    caption="Behind each name: the mean squared error over 2,000 faces, in state units.",
    zoom=7,
)

# %% [markdown] tags=["solution"]
# A linear estimate is not a network, but what each way *can* carry is already here. What has no place (noise level, words, a factor) goes in as gain and shift; what has a place goes in as an image. A network with gains and shifts in every layer can draw from a long enough condition vector, too, but it must learn to put every pixel in its place, which concatenation gives for free.

# %% [markdown]
# ## Exercise 10.4: Dropping the condition
#
# Classifier-free guidance needs one network that can do both. In training, replace the condition of image $i$ by `null` (C, H, W) where `uniform[i]` < `probability`. `cond` is (B, C, H, W), `uniform` (B,) holds numbers from [0, 1). Return the conditions (B, C, H, W).


# %%
def drop_condition(cond, null, probability, uniform):
    """What the network is told in this step of training: (B, C, H, W)."""
    ### BEGIN SOLUTION
    dropped = (uniform < probability)[:, None, None, None]
    return torch.where(dropped, null, cond)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.4", drop_condition)

# %% [markdown]
# The null condition must be a value that no real condition has. Suppose that K classes are equally likely, numbered 0 to K − 1, and somebody takes 0 for null as well. When the network is told 0, in what share of the cases did it see *any* class in training? Give it for K = 2, 10, 1000 and probabilities 0.1 and 0.2.

# %% tags=["solution", "nbval-check-output"]
for K in (2, 10, 1000):
    shares = [p / (p + (1 - p) / K) for p in (0.1, 0.2)]
    print(
        f"{K:4} classes: told 0, it saw any class in {shares[0]:.0%} (p = 0.1) or {shares[1]:.0%} (p = 0.2) of the cases"
    )

# %% [markdown] tags=["solution"]
# With many classes the network practically forgets class 0, and guidance towards it does nothing: $D_c - D_u$ is nearly zero there. The other classes look perfect, so nobody notices.

# %% [markdown]
# ## Exercise 10.5: Steering by a classifier
#
# `z` (B, D) is a state with amplitudes `alpha`, `sigma` (numbers), `z_0` (B, D) the denoiser's answer, and `log_prob(z)` gives $\log p(c \mid z)$ of the wanted class, (B,) in nats, where row $i$ depends on `z[i]` only. Return the denoiser's answer under
# $\nabla \log p_t(z) + s\,\nabla \log p(c \mid z)$. Use `torch.autograd.grad`.


# %%
def classifier_guided(z, z_0, log_prob, alpha, sigma, scale):
    """The steered estimate of z_0 (B, D)."""
    ### BEGIN SOLUTION
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        gradient = torch.autograd.grad(log_prob(z).sum(), z)[0]
    return z_0 + scale * sigma**2 / alpha * gradient
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.5", classifier_guided)

# %% [markdown]
# Now prove it. The data are a mixture of two bells, a class each. With the exact classifier of the *noisy* state, scale 1 must give the denoiser of the class. Compare also with a classifier that was made for clean images and has never seen noise.

# %% tags=["solution", "nbval-check-output"]
means, variances = torch.tensor([[-0.5], [0.5]], dtype=double), torch.full((2, 1, 1), 0.1, dtype=double)
both = GaussianMixture(torch.tensor([0.5, 0.5]), means, variances)
classes = [Gaussian(means[i], variances[i]) for i in range(2)]


def class_log_prob(z, alpha, sigma):
    """log p(class 1 | z_t = z), by Bayes' rule: (B,)."""
    logits = torch.stack([law.log_prob(z, alpha, sigma) for law in classes], 1)
    return logits.log_softmax(1)[:, 1]


def steer(scale, noisy=True):
    """A denoiser for class 1, steered by the exact classifier or by that of clean images."""

    def denoiser(z, t, cond=None):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        told = (alpha, sigma) if noisy else (1.0, 0.0)
        return classifier_guided(
            z, both.denoise(z, alpha, sigma), lambda z: class_log_prob(z, *told), alpha, sigma, scale
        )

    return denoiser


states = torch.linspace(-3, 3, 601, dtype=double)[:, None]
for t in (0.1, 0.5, 0.9):
    right = denoiser_for(classes[1], schedule)(states, t)
    gaps = [(steer(1.0, noisy)(states, t) - right).abs().max().item() for noisy in (True, False)]
    print(
        f"t = {t}: the noise-aware classifier is off by less than {max(gaps[0], 1e-12):.0e}, the clean one by {gaps[1]:.2g}"
    )

# %% [markdown]
# Sample with scale 1 and 4, and with the clean classifier. What happens to the samples, and why?

# %% tags=["solution"]
start = noise(torch.empty(6000, 1, dtype=double))
times = uniform_times(40, t_max=0.99)
drawn = [last(ddim(steer(float(s), aware), schedule, start, times)) for s, aware in ((1, True), (4, True), (1, False))]
for name, z in zip(("noise-aware, scale 1", "noise-aware, scale 4", "clean, scale 1"), drawn, strict=True):
    print(f"{name:21}: mean {z.mean():.2f}, standard deviation {z.std():.2f}   (the class: 0.50 and 0.32)")
grid = torch.linspace(-1.2, 2.0, 400, dtype=double)
plots.histogram(
    {"scale 1": drawn[0], "scale 4": drawn[1]},
    exact={"the class": (grid, classes[1].log_prob(grid[:, None]).exp())},
    title="Scale 1 samples the class, scale 4 only its far side",
    alt="Histograms of samples and the exact density of the class, a bell at 0.5. Scale 1 lies on the bell. Scale 4 is half as wide, centred at about 0.9, and has nothing below 0.5, the half that is nearer to the other class.",
    xlabel="sample",
    bins=60,
)

# %% [markdown] tags=["solution"]
# The noise-aware classifier is Bayes' rule, so scale 1 is the class (40 steps of DDIM cost a little of its spread). Scale 4 avoids every place where the classifier might doubt. The clean classifier is far too sure on noisy states: its gradient is 10 wherever the state lies on the wrong side, and $\sigma^2/\alpha$ is large there, so the samples are thrown
# out of the data's range. Classifiers for guidance are therefore trained on noisy states and told the level. A sampler that works with $\hat\epsilon$ steers by $\hat\epsilon - s\,\sigma\,\nabla\log p(c \mid z)$, with $\sigma = \sqrt{1 - \bar\alpha_t}$: put that into $\hat z_0 = (z - \sigma\hat\epsilon)/\alpha$ and your line comes out.

# %% [markdown]
# ## Exercise 10.6: What guidance samples
#
# Let $p_c = N(0, v_c)$ and $p_u = N(0, v_u)$, independently in D directions; `v_c` and `v_u` are (D,). Guide with `scale` and follow the probability-flow ODE from pure noise. Return the variance (D,) of what comes out.
#
# Work without $\alpha$: with noise of level $\rho$ a denoiser of $N(0, v)$ says $y\,v/(v + \rho^2)$, and the flow is $dy/d\rho = (y - \hat z_0)/\rho$. How does $\log y$ change when $\hat z_0$ is guided? (The chapter boxes the answer for $v = v_c$, $u = v_u$; derive it this way before you look.)


# %%
def guided_variance(v_c, v_u, scale):
    """The variance (D,) of samples under guidance."""
    ### BEGIN SOLUTION
    return v_c**scale * v_u ** (1 - scale)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.6", guided_variance)

# %% [markdown] tags=["solution"]
# For one law, $d\log y/d\rho = \rho/(v + \rho^2)$, so $y \propto \sqrt{v + \rho^2}$ along the flow. Guidance adds the rates: $y \propto (v_c + \rho^2)^{s/2}(v_u + \rho^2)^{(1-s)/2}$. At a large $\rho$ that is $\rho$, as large as the noise; at $\rho = 0$ it is $v_c^{s/2} v_u^{(1-s)/2}$, and the variance is the square of that.

# %% [markdown]
# It is often said that guidance samples $p_c^s\,p_u^{1-s}$. What is that law's variance? Plot both against $s$ for $v_c = 0.1$, $v_u = 1$, and put the variances that a sampler really gives beside them: `affine_law` measures them without any chance.

# %% tags=["solution"]
level = edm()
thin, wide = (Gaussian(torch.zeros(1, dtype=double), torch.tensor([[v]], dtype=double)) for v in (0.1, 1.0))
told, untold = denoiser_for(thin, level), denoiser_for(wide, level)
karras = karras_times(level, 150)


def sampled_variance(scale):
    """The exact variance of what Heun's method makes of guidance with this scale."""

    def both_ways(z, t, cond=None):
        return untold(z, t) + scale * (told(z, t) - untold(z, t))

    def run(noise):
        return last(heun(both_ways, level, 80 * noise(torch.zeros(1, 1, dtype=double)), karras))

    return affine_law(run, 1)[1].item()


scales = torch.linspace(0, 4, 41, dtype=double)
measured = (1.0, 2.0, 3.0, 4.0)
sampled = [sampled_variance(s) for s in measured]
print(f"scale 4: sampled {sampled[-1]:.5f}, exercise 10.6 {0.1**4:.5f}, tempered law {1 / (4 / 0.1 - 3):.5f}")
plots.curves(
    scales,
    {
        "$v_c^s\\,v_u^{1-s}$, exercise 10.6": guided_variance(
            torch.tensor(0.1, dtype=double), torch.tensor(1.0), scales
        ),
        "variance of $p_c^s\\,p_u^{1-s}$": 1 / (scales / 0.1 + 1 - scales),
        "measured": (torch.tensor(measured), torch.tensor(sampled)),
    },
    title="Guidance narrows far more than the tempered law would",
    alt="Variance on a logarithmic axis against the scale from 0 to 4. Both curves start at 1 and cross 0.1 at scale 1. Then the tempered law falls slowly to 0.027, while the guided law falls along a straight line to 0.0001. The measured points lie on the straight line.",
    xlabel="scale $s$",
    ylabel="variance",
    logy=True,
)

# %% [markdown] tags=["solution"]
# At scale 4 the samples have a variance of 0.0001 instead of 0.027: their diversity is gone. The guided score is that of $p_c^s p_u^{1-s}$ at $t = 0$ only. At earlier times the score of the *noised* tempered law would be needed, and adding scores does not give that.

# %% [markdown]
# ## Exercise 10.7: Bring the contrast back
#
# A large scale gives harsh images: $\hat z_0$ gets too large a contrast. Lin et al. ([arXiv 2305.08891](https://arxiv.org/abs/2305.08891)) rescale it. `guided` and `told` (the conditional answer) are (B, C, H, W); `share` is a number from 0 to 1. With $r$ = standard deviation of `told` over that of `guided`, both over all numbers of *one* image, return
# $\text{share} \cdot r \cdot \text{guided} + (1 - \text{share}) \cdot \text{guided}$.


# %%
def rescaled(guided, told, share):
    """The guided answer (B, C, H, W) with its contrast restored, to a share."""
    ### BEGIN SOLUTION
    ratio = told.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return (share * ratio + 1 - share) * guided
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.7", rescaled)

# %% [markdown]
# What does it cure, and what not? Let the images be 8 × 8 × 3 numbers: unconditionally $N(0, 1)$ each, and given the condition $N(m, 0.25)$ around a fixed pattern $m$ of size 0.75. Sample with scales 1, 2 and 4 and shares 0, 0.7 and 1. Print the size of the pattern in the samples and the standard deviation around it,
# beside what exercise 10.6 says about the latter.

# %% tags=["solution", "nbval-check-output"]
pattern = 0.75 * standard_normal(1)(torch.empty(1, 3, 8, 8, dtype=double)).sign()
pixels = noise(torch.empty(64, 3, 8, 8, dtype=double))


def contrast(scale, share):
    """(size of the pattern, standard deviation around it) in 64 guided samples."""

    def denoiser(z, t, cond=None):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        told = pattern + alpha * 0.25 / (0.25 * alpha**2 + sigma**2) * (z - alpha * pattern)
        untold = alpha / (alpha**2 + sigma**2) * z
        return rescaled(untold + scale * (told - untold), told, share)

    samples = last(ddim(denoiser, schedule, pixels, uniform_times(100, t_max=0.99)))
    size = ((samples * pattern).mean() / pattern.square().mean() * 0.75).item()
    return size, (samples - samples.mean(0)).std().item()


for scale in (1, 2, 4):
    expected = guided_variance(torch.tensor(0.25), torch.tensor(1.0), scale).sqrt()
    for share in (0.0, 0.7, 1.0):
        size, around = contrast(float(scale), share)
        note = f"   (10.6: {expected:.2f})" if share == 0 else ""
        print(f"scale {scale}, share {share}: pattern {size:.2f}, spread around it {around:.2f}{note}")

# %% [markdown] tags=["solution"]
# Scale 1 gives the law, 0.75 and 0.5 up to the sampler's error, whatever the share. A larger scale exaggerates the pattern, which is the harsh look, and shrinks the spread, which is the lost diversity. Rescaling brings the pattern back towards its right size. It multiplies the whole answer by one number, so it cannot bring the spread back.

# %% [markdown]
# ## Exercise 10.8: Does it listen? (research-like)
#
# A network that ignores its condition raises no error: its loss is fine, its samples look plausible. Swap the conditions and look at the *errors*. `denoiser(z, cond)` answers with $\hat z_0$; `z_0`, `z`, `cond` are (B, C, H, W). With $e_i$ the mean squared error of image $i$ told its own condition, and $e_i'$ that told the condition of image $i - 1$ (`cond.roll(1, 0)`),
# return the mean of $e_i' - e_i$ and its standard error.


# %%
def swap_test(denoiser, z_0, z, cond):
    """(mean of the difference, its standard error)."""
    ### BEGIN SOLUTION
    own = (denoiser(z, cond) - z_0).square().flatten(1).mean(1)
    foreign = (denoiser(z, cond.roll(1, 0)) - z_0).square().flatten(1).mean(1)
    return (foreign - own).mean(), (foreign - own).std() / math.sqrt(len(z))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("10.8", swap_test)

# %% [markdown]
# First where the truth is known: $z_0 \sim N(0, 1)$ in every pixel, the condition is $z_0$ with noise of size 0.5, and the state $z_0$ with noise of size 1. Compare the exact denoiser with one that is deaf, one that half listens, and one that was trained with the sign of the condition flipped and is now told the right one.

# %% tags=["solution", "nbval-check-output"]
clean = noise(torch.empty(64, 1, 8, 8, dtype=double))
state, heard = clean + noise(clean), clean + 0.5 * noise(clean)
listeners = {
    "exact": lambda z, c: (z + 4 * c) / 6,
    "half listening": lambda z, c: (z / 2 + (z + 4 * c) / 6) / 2,
    "deaf": lambda z, c: z / 2,
    "flipped sign": lambda z, c: (z - 4 * c) / 6,
}
for name, denoiser in listeners.items():
    mean, error = swap_test(denoiser, clean, state, heard)
    print(f"{name:15} {mean:6.3f} +- {1.96 * error:.3f}")

# %% [markdown] tags=["solution"]
# Zero means deaf, less than zero that the condition is misread: a stranger's does less harm than its own. A test that only asks whether the answer *changes* would have praised the one with the flipped sign.

# %% [markdown]
# Now a network: `faces-sr3-x4`, SR3 for faces from 8 × 8 to 32 × 32. At which noise levels does it listen?

# %% tags=["solution"]
some = faces(48, size=32, seed=5)
hr = 2 * some.images - 1
known, sr3 = resize(2 * resize(some.images, 1 / 4) - 1, 4), shifted_cosine(SPREADS["faces-sr3-x4"])
network = NetworkDenoiser(load_pretrained("faces-sr3-x4"), "eps", sr3)
levels, found = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]), []
drawn = noise(hr)
for t in levels:
    state = sr3.alpha(t).float() * hr + sr3.sigma(t).float() * drawn
    with torch.inference_mode():
        found.append(torch.stack(swap_test(lambda z, cond, t=t: network(z, t, cond), hr, state, known)))
gain, error = torch.stack(found).T
plots.scatter(
    {"SR3": (levels, gain)},
    errors={"SR3": (None, 1.96 * error)},
    joined=("SR3",),
    title="The noisier the state, the more a foreign condition hurts",
    alt="Increase of the squared error after the swap against the time from 0.1 to 0.9, with 95 percent intervals. It is nearly zero at 0.1 and rises steadily to about 0.3 at 0.9, always above zero.",
    xlabel="time $t$",
    ylabel="increase of the squared error",
    height=320,
)

# %% [markdown] tags=["solution"]
# With little noise the state itself shows the face, and the condition is hardly needed; with much noise nearly everything comes from it. So test at a *high* noise level. And pair: faces differ in how hard they are, and a difference within one face does not.
#
# Going further: repeat it with the network of chapter 10 that knows several ways of being told. Which way does it listen to most closely, and does it still hear words when the LR image is clear?
