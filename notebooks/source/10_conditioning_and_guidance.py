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
# # 10 Conditioning and guidance: what a model is told, and how hard it listens
#
# Sixteen pixels of a face say little: some skin, some hair, a wall. "A smiling face with sunglasses and a red hat" says the rest. A diffusion model can be told both, and many other things; and there is a dial that makes it listen harder than the evidence warrants. In this chapter you tell one network the same blurred face in six ways and measure what each is worth,
# and you work out what the dial really samples. It is not what its formula seems to say.
#
# ## What you will be able to do
#
# 1. **Derive** classifier guidance from Bayes' rule, and say why the classifier must know noise.
# 2. **Guide** without a classifier, and translate between the two scales $s$ and $w$.
# 3. **Predict** what a guided sampler samples, where that can be known.
# 4. **Detect** a condition that is silently ignored.
# 5. **Compare** ways of telling a network its LR image (concatenation, FiLM, references, features), with error bars.
# 6. **Weigh** fidelity against diversity with scale, words and an adapter's knob.
#
# **Prerequisites**: [chapter 09](09_sr3.ipynb) (SR3, and how a condition enters); [chapter 05](05_score_based_models.ipynb) (the score).
#
# **Reading time**: 75 minutes. Running time: about 35 s on two cores.
# **Survey section**: "Guidance in Training" and "Conditioning" (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/10_conditioning_and_guidance.ipynb), worked in [solutions](../solutions/10_conditioning_and_guidance.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | elsewhere | meaning |
# > |---|---|---|
# > | $c$, `cond` | $y$ in class-conditional papers; $x$ in the survey when it is the LR image | what the model is told |
# > | $D_c(z_t)$, $D_\varnothing(z_t)$ | $\epsilon_\theta(z_t, c)$, $\epsilon_\theta(z_t)$ | the denoiser told $c$, and told nothing: $\mathbb E[z_0 \mid z_t, c]$ and $\mathbb E[z_0 \mid z_t]$ |
# > | $s$, `scale` | $\lambda$ in the survey; `guidance_scale` in GLIDE, Stable Diffusion, diffusers | 0: the prior, 1: no guidance, more: exaggeration |
# > | $w = s - 1$ | $w$ in the paper of classifier-free guidance | 0: no guidance |
# > | `null` | $\varnothing$ | what the network is shown when it is told nothing |

# %%
import math

import ipywidgets
import torch
from torch.testing import assert_close

from tutorial_lib import guidance, plots, widgets
from tutorial_lib.conditioning import adapted_denoiser, face_log_prob, read_attribute, sample_faces, way_image
from tutorial_lib.data import faces
from tutorial_lib.data.captions import PHRASES, caption_phrases, words
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.guidance import classifier_free, guided_gaussian, scale_from_w
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr, sharpness, sliced_wasserstein
from tutorial_lib.networks.conditioning import FACE_WAYS, face_condition
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, ddpm, heun, last
from tutorial_lib.schedules import edm, log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.sr3 import with_condition
from tutorial_lib.super_resolution import super_resolve

double = torch.float64

# %% [markdown]
# ## 1. Sixteen pixels and a sentence
#
# Six invented people, shrunk to 4×4 pixels. The same network enlarges them twice to 32×32, starting from the same noise: once told the LR image only; once told a caption as well, and made to listen to it hard.


# %%
def shrunk(hr, pixels):
    """The LR faces, rounded to 8 bits, and their bicubic enlargement back to 32 x 32."""
    lr = to_uint8(resize(hr, pixels / 32)).float() / 255
    return lr, resize(lr, 32 / pixels)


people = faces(6, seed=123)
tiny, blurred = shrunk(people.images, 4)
pixels = face_condition("concat", blurred)
both_told = face_condition("concat", blurred, words(people.captions))
alone = sample_faces(pixels, steps=12)
with_words = sample_faces(both_told, steps=12, scale=3.0, null=pixels)  # listening hard to the words: section 8
plots.image_grid(
    torch.cat([blurred.clamp(0, 1), alone, with_words, people.images]),
    [name if i == 0 else "" for name in ("4x4 pixels", "told these", "and a caption", "original") for i in range(6)],
    title="A sentence, insisted on, settles what sixteen pixels leave open",
    alt="Four rows of six drawn faces. Enlarged from 4x4 pixels: coloured fog. Told only those pixels: plausible faces, often with other eyewear, hats or hair than the originals. Told a caption as well: closer to the originals in the last row, with their glasses and hats.",
    zoom=3,
    columns=6,
)

# %%
for caption in people.captions:
    print("-", caption)

# %% [markdown]
# The second row invents: every face in it would shrink to nearly the same sixteen pixels. It aims at the **conditional** law $p(z_0 \mid c)$ with $c$ the pixels. The third row was told more, so it has less to invent; and it was asked to insist on the words, with a dial at 3 where 1 would be plain obedience. (`sample_faces` is the DDIM loop of chapter 07 around a denoiser, with $\eta = 1$: the step with noise.)
#
# How does a condition get into a sampler? And what is sampled when the dial is turned up? We go back to one number, where all answers are known.
#
# ## 2. Bayes' rule for denoisers
#
# Let $z_0$ be one number of one of two kinds: with probability 0.4 of kind $a$, $N(0.8, 0.3^2)$, else of kind $b$, $N(-0.4, 0.6^2)$. Suppose somebody gives us the denoiser of the whole mixture, which has never heard of kinds, and we want to sample kind $a$ only. Bayes' rule for the noisy state is $p(z_t \mid a) = p(z_t)\, p(a \mid z_t) / p(a)$. Take logarithms and the gradient in $z_t$; the constant $p(a)$ is gone:
#
# $$\nabla \log p(z_t \mid a) = \nabla \log p(z_t) + \nabla \log p(a \mid z_t) .$$
#
# The second term belongs to a **classifier**: how likely is kind $a$, given the *noisy* number? Denoisers and scores are two names for one thing, $D(z_t) = (z_t + \sigma_t^2 \nabla \log p(z_t))/\alpha_t$ (chapter 05). So in our units
#
# $$D_a(z_t) = D_\varnothing(z_t) + s\,\frac{\sigma_t^2}{\alpha_t}\,\nabla \log p(a \mid z_t), \qquad s = 1 .$$
#
# For a network that predicts noise the same term reads $\hat\epsilon - s\,\sigma_t \nabla\log p$, with $\sigma_t = \sqrt{1-\bar\alpha_t}$. (→ Exercise 10.5)

# %% tags=["nbval-check-output"]
linear = vp_linear()
kind_a = Gaussian(torch.tensor([0.8], dtype=double), 0.3**2 * torch.ones(1, 1))
numbers = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[0.8], [-0.4]]).double(), torch.tensor([0.3, 0.6]).view(2, 1, 1) ** 2
)


def log_p_of_a(z, t):
    """The classifier that cannot be bettered: log p(a | z_t), (B,)."""
    alpha, sigma = linear.alpha(t), linear.sigma(t)
    return math.log(0.4) + kind_a.log_prob(z, alpha, sigma) - numbers.log_prob(z, alpha, sigma)


def my_classifier_guidance(denoiser, log_prob, schedule, scale=1.0):
    def guided(z, t):
        state = z.detach().requires_grad_()
        gradient = torch.autograd.grad(log_prob(state, t).sum(), state)[0]  # one row per sample: the sum separates
        return denoiser(z, t) + scale * schedule.sigma(t) ** 2 / schedule.alpha(t) * gradient

    return guided


plain, told_a = denoiser_for(numbers, linear), denoiser_for(kind_a, linear)
mine = my_classifier_guidance(plain, log_p_of_a, linear)
library = guidance.classifier(plain, log_p_of_a, linear)
z = torch.linspace(-2, 2, 81, dtype=double)[:, None]
for t in (0.05, 0.3, 0.9):
    assert_close(mine(z, t), told_a(z, t))
    assert_close(mine(z, t), library(z, t))
print(f"largest difference from the denoiser of kind a: {(mine(z, 0.3) - told_a(z, 0.3)).abs().max():.0e}")

# %%
t = 0.3
plots.curves(
    z[:, 0],
    {
        "knows the mixture": plain(z, t)[:, 0],
        "knows kind a only": told_a(z, t)[:, 0],
        "mixture + classifier": (z[::5, 0], mine(z[::5], t)[:, 0]),
    },
    title="The mixture's denoiser plus a classifier's gradient is the denoiser of one kind",
    alt="Estimated z_0 against the noisy state from -2 to 2 at t = 0.3. The mixture's denoiser rises from about -0.9 to about 0.8 in a gentle S; the denoiser of kind a is a straight line from about 0.6 to 0.9; dots of mixture plus classifier lie on that line.",
    xlabel="noisy state $z_t$",
    ylabel="estimate of $z_0$",
    height=330,
)

# %% [markdown]
# The dots lie on the line: to rounding, a classifier turns a prior into a conditional model, and nothing was trained again. (The library's version also works when gradients are switched off around it, as they are while sampling.)
#
# ## 3. The classifier must know noise
#
# Classifiers are everywhere; why not take one off the shelf? Because it has only seen *clean* numbers. Asked about a noisy state it answers as if that were an image. We give it its best chance and ask it about $z_t$ as it is.

# %%
times = uniform_times(100)
start = standard_normal(0)(torch.empty(4000, 1, dtype=double))


def log_p_clean(z, t):
    """The exact classifier of clean numbers; it ignores t."""
    return math.log(0.4) + kind_a.log_prob(z) - numbers.log_prob(z)


drawn = {
    "noise-aware": last(ddim(guidance.classifier(plain, log_p_of_a, linear), linear, start, times)),
    "clean": last(ddim(guidance.classifier(plain, log_p_clean, linear), linear, start, times)),
}
for name, sample in drawn.items():
    believed = log_p_clean(sample, 0).exp().mean()
    print(f"{name:12} mean {sample.mean():.2f}, spread {sample.std():.3f}, 'this is kind a': {believed:.0%}")
print(
    f"{'kind a':12} mean 0.80, spread 0.300, 'this is kind a': {log_p_clean(kind_a.sample(20_000), 0).exp().mean():.0%}"
)
print(f"the clean classifier is surest at {z[log_p_clean(z, 0).argmax()].item():.1f}")

# %%
axis = torch.linspace(-0.4, 2, 241, dtype=double)
plots.histogram(
    {"noise-aware classifier": drawn["noise-aware"]},
    exact={"kind a": (axis, kind_a.log_prob(axis[:, None]).exp())},
    vertical={"clean classifier: all 4000": drawn["clean"].mean().item()},
    title="A classifier that only knows clean numbers piles all samples on one spot",
    alt=f"Histogram of samples and the exact bell of kind a around 0.8. With the noise-aware classifier the samples follow the bell. A vertical line at {drawn['clean'].mean():.2f} shows where all samples of the clean classifier lie, within {drawn['clean'].std():.3f}.",
    xlabel="$z_0$",
    bins=40,
    height=320,
)

# %% [markdown]
# The noise-aware classifier gives the law of kind $a$ (100 DDIM steps narrow it a little). The clean one gives a spike: at high noise it is far too sure, and its gradient, multiplied by a large $\sigma_t^2/\alpha_t$, drags every state towards the place it likes best (1.2), as far as the prior lets it. The spike's members *please that classifier more* than real members of kind $a$ do (last column), so its own confidence cannot show the failure. The spread does.
#
# <details><summary><b>Question.</b> Why is it harmless to be unsure, for a classifier that guides?</summary>
#
# Where it says the same probability for every $z_t$ its gradient is 0, and the prior's denoiser decides alone. In nearly pure noise that is the truth: $p(a \mid z_t) \approx p(a)$. A clean classifier does not know how to be unsure about a noisy image.
# </details>
#
# ## 4. Guidance without a classifier
#
# Training a second network on noisy images is a nuisance, and a classifier's gradient can be pleased without painting anything sensible. Ho and Salimans asked for the classifier's gradient from the diffusion model itself: it is the difference of two scores, $\nabla\log p(c \mid z_t) = \nabla\log p(z_t \mid c) - \nabla\log p(z_t)$. So train *one* network that is sometimes told $c$ and sometimes nothing (leave out the condition of every tenth sample, say, and show it a `null` instead; → Exercise 10.4), and combine its two answers:
#
# $$D_s(z_t) = D_\varnothing(z_t) + s\,\big(D_c(z_t) - D_\varnothing(z_t)\big) .$$
#
# At $s = 1$ it is the conditional model. Beyond it lies on the same straight line, past $D_c$: *more* like $c$ than $c$ itself.
#
# Now beware. The paper writes $(1+w)\,\hat\epsilon_c - w\,\hat\epsilon_\varnothing$, where $w = 0$ switches guidance off. GLIDE, Stable Diffusion and most code since use $s = 1 + w$, where 1 does. A number copied from one to the other runs without a word (→ Exercise 10.1). This package uses $s$ everywhere.

# %% tags=["nbval-check-output"]
halves = {}
for s in (0.0, 1.0, 3.0, -1.0):
    by_difference = plain(z, t) + s * (told_a(z, t) - plain(z, t))
    w = s - 1
    assert_close(by_difference, (1 + w) * told_a(z, t) - w * plain(z, t))
    assert_close(by_difference, classifier_free(told_a, scale_from_w(w), unconditional=plain)(z, t))
    assert_close(by_difference, guidance.classifier(plain, log_p_of_a, linear, s)(z, t))
    halves[s] = by_difference[50].item()
print("estimate at z_t = 0.5, t = 0.3:", ", ".join(f"s = {s:g}: {value:.3f}" for s, value in halves.items()))

# %% [markdown]
# The last assertion says: under an exact classifier both kinds of guidance are *one denoiser at every scale*. What they differ in is what was learned, and how wrongly.
#
# ## 5. What does a guided sampler sample?
#
# With $s = 1$: the conditional law. And with $s = 3$? Read the formula as a score:
#
# $$(1-s)\,\nabla\log p(z_t) + s\,\nabla\log p(z_t \mid c) = \nabla \log \Big[ p(z_t)^{1-s}\, p(z_t \mid c)^{s} \Big] .$$
#
# That looks like the score of a **tempered** law, $p(z_0)^{1-s}\,p(z_0 \mid c)^s \propto p(z_0)\,p(c \mid z_0)^s$: the prior, with the evidence counted $s$ times. Many texts stop here. But a sampler needs the scores of *noised* laws, and noising does not commute with taking powers: the tempered law, noised, is something else than the noised laws, tempered. So what comes out? For two Gaussians we can solve the sampler.
#
# Let $p(z_0 \mid c) = N(m, v)$ and $p(z_0) = N(0, u)$. Follow the probability flow (DDIM with tiny steps; chapter 06) for $y = z_t/\alpha_t$, with $r = \sigma_t^2/\alpha_t^2$ as the clock:
#
# $$\frac{dy}{dr} = -\frac12 \times \text{score} = \frac{1-s}{2}\,\frac{y}{u + r} + \frac{s}{2}\,\frac{y - m}{v + r} .$$
#
# A difference of two solutions obeys the equation without $m$. It has $d \log \delta y = \frac{1-s}{2}\, d\log(u+r) + \frac{s}{2}\, d\log(v+r)$, so $\delta y$ is proportional to $(u+r)^{(1-s)/2}(v+r)^{s/2}$. Starting at huge $r$, where $\delta y \propto \sqrt r$ has variance $r$, and arriving at $r = 0$:
#
# $$\boxed{\;\operatorname{Var} = v^{s}\, u^{1-s}\;} \qquad\text{against the tempered law's}\qquad \frac{1}{s/v + (1-s)/u} .$$
#
# The variance falls *exponentially* with the scale, not like $1/s$. The mean follows in the same way (its integral is a hypergeometric function; `guided_gaussian` has it): for $v = u$ it is $s\,m$, beyond the condition; for a narrow condition, $v \ll u$, it stays near $m$. (→ Exercise 10.6)

# %% tags=["nbval-check-output"]
c_law = Gaussian(torch.ones(1, dtype=double), 0.1 * torch.ones(1, 1))
free_law = Gaussian(torch.zeros(1, dtype=double), torch.ones(1, 1))
far = edm(1000.0)  # alpha = 1, noise from 1000 down to 0
fine = log_snr_times(far, 250, t_min=1e-6)
pair = denoiser_for(c_law, far), denoiser_for(free_law, far)


def flowed(s):
    """Exact mean and variance of what 250 steps of Heun's solver put out."""
    guided = classifier_free(pair[0], s, unconditional=pair[1])
    law = affine_law(lambda noise: last(heun(guided, far, 1000 * noise(torch.empty(1, 1, dtype=double)), fine)), 1)
    return law[0].item(), law[1].item()


def tempered(s, m=1.0, v=0.1, u=1.0):
    precision = s / v + (1 - s) / u
    return s * m / v / precision, 1 / precision


for s in (1.0, 2.0, 4.0):
    closed, solver = guided_gaussian(s, 1.0, 0.1), flowed(s)
    assert_close(closed[0], solver[0], rtol=5e-3, atol=0)
    assert_close(closed[1], solver[1], rtol=2e-2, atol=0)
    print(
        f"s = {s:g}: variance {closed[1]:.4f} (tempered {tempered(s)[1]:.4f}), mean {closed[0]:.3f} (tempered {tempered(s)[0]:.3f})"
    )

# %% [markdown]
# And a sampler with noise? DDPM's steps do not only move the state along, they also let it settle a little at every level, and what it settles in is the tempered law *of that level*. Its output is a third law:

# %%
scales = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
steps_60 = uniform_times(60)
on_vp = denoiser_for(c_law, linear), denoiser_for(free_law, linear)


def variance_by(sampler, s, times=steps_60, **options):
    guided = classifier_free(on_vp[0], s, unconditional=on_vp[1])

    def run(noise):
        z = noise(torch.empty(1, 1, dtype=double))
        return last(sampler(guided, linear, z, times, noise=noise, **options))

    return affine_law(run, 1)[1].item()


laws = {
    "probability flow, closed form": [guided_gaussian(s, 1.0, 0.1)[1] for s in scales],
    "DDIM, 60 steps": [variance_by(ddim, s) for s in scales],
    "DDPM, 60 steps": [variance_by(ddpm, s, variance="beta") for s in scales],
    "tempered law": [tempered(s)[1] for s in scales],
}
for name, row in laws.items():
    print(f"s = 5: {name:29} variance {row[-1]:.1e}")
print(f"s = 5: {'DDIM, 240 steps':29} variance {variance_by(ddim, 5.0, uniform_times(240)):.1e}")
plots.curves(
    scales,
    laws,
    title="The flow narrows far more than the formula suggests; a sampler with noise hardly more",
    alt="Variance of the samples, logarithmic, against guidance scale 0 to 5. All start at 1 for scale 0 and meet near 0.1 at scale 1. At scale 5: "
    + "; ".join(f"{name} {row[-1]:.2g}" for name, row in laws.items())
    + ".",
    xlabel="guidance scale $s$",
    ylabel="variance",
    logy=True,
    height=360,
)

# %% [markdown]
# Three answers to one question, and neither sampler's law is the tempered one, though DDPM's comes close. (60 DDIM steps overshoot the flow; the gap is step size, as 240 steps show.) That guidance interacts differently with DDPM and DDIM, and samples the tempered law with neither, was pointed out for the general case by Bradley and Nakkiran (arXiv:2408.09000).
#
# <details><summary><b>Question.</b> What would happen at s = 2 if the condition were <i>less</i> certain than the prior, $v > u$?</summary>
#
# $v^2/u > v$: guidance would widen the law. Extrapolating past $D_c$ exaggerates whatever distinguishes it from $D_\varnothing$, and here that is its width. For a conditional law that comes from Bayes' rule $v \le u$ on average, so guidance mostly narrows.
# </details>
#
# ### More than one peak
#
# Conditional laws of images have many peaks: many faces wear sunglasses. Let the wanted class $c$ have two equally likely peaks, at 1.0 and at −0.2, the second in the middle of everybody else. In one dimension the flow keeps order: the number that starts at the $q$-quantile of the noise ends at the $q$-quantile of the output. So the exact law of a guided sampler is found by pushing quantiles through it.

# %%
width = 0.18**2 * torch.ones(2, 1, 1)
wanted = GaussianMixture(torch.ones(2), torch.tensor([[1.0], [-0.2]], dtype=double), width)
crowd = GaussianMixture(
    torch.tensor([0.15, 0.15, 0.7]),
    torch.tensor([[1.0], [-0.2], [-0.4]], dtype=double),
    torch.tensor([0.18, 0.18, 0.4]).view(3, 1, 1) ** 2,
)
noisy = edm(20.0)
grid = log_snr_times(noisy, 40)
peaks = denoiser_for(wanted, noisy), denoiser_for(crowd, noisy)
quantiles = (torch.arange(600, dtype=double)[:, None] + 0.5) / 600
line = torch.linspace(-2, 2, 401, dtype=double)
p_c, p = wanted.log_prob(line[:, None]), crowd.log_prob(line[:, None])


def guided_numbers(z, s, interval=None):
    """The ends of the guided flow from the states z / 20 of unit variance."""
    guided = classifier_free(peaks[0], s, unconditional=peaks[1], interval=interval)
    return last(heun(guided, noisy, 20 * z, grid))


def exact_law(s, interval=None, blur=0.02):
    """The density of the guided flow's output on `line`, from 600 quantiles; each is drawn `blur` wide."""
    ends = guided_numbers(torch.special.ndtri(quantiles), s, interval)
    return (
        Gaussian(torch.zeros(1, dtype=double), blur**2 * torch.ones(1, 1))
        .log_prob((line[:, None] - ends.T).reshape(-1, 1))
        .exp()
        .reshape(len(line), -1)
        .mean(1)
    )


def tempered_law(s):
    density = (s * p_c + (1 - s) * p).exp()
    return density / (density.sum() * (line[1] - line[0]))


# %%
def draw_guidance(scale=3.0, only_middle=False, seed=0):
    """Samples of the guided flow beside its exact law, the conditional law and the tempered law."""
    interval = (0.003, 0.03) if only_middle else None  # times
    z = standard_normal(seed)(torch.empty(1500, 1, dtype=double))
    ends = guided_numbers(z, scale, interval)
    right = (ends > 0.4).double().mean()
    levels = [noisy.sigma(t).item() for t in interval or ()]
    what = f"scale {scale:g}" + (" at noise {:.2f} to {:.2f} only".format(*levels) if only_middle else "")
    return plots.histogram(
        {"samples": ends},
        exact={
            "their exact law": (line, exact_law(scale, interval)),
            "p(z|c)": (line, p_c.exp()),
            "tempered": (line, tempered_law(scale)),
        },
        title=f"{what}: right peak {right:.0%}",
        alt=f"Histogram of guided samples at {what}, their exact law, the conditional law with two equal peaks at -0.2 and 1, and the tempered law. {right:.0%} of the samples belong to the right peak.",
        xlabel="$z_0$",
        width=460,
        height=320,
    )


widgets.frames(
    draw_guidance,
    [{"scale": 1.0}, {"scale": 2.0}, {"scale": 4.0}, {"scale": 4.0, "only_middle": True}],
    title="Turned up, guidance drops the peak that looks like everybody else",
    alt="Four histograms with exact laws. Scale 1: two equal peaks, as in p(z|c). Scale 2 and 4: the left peak, which lies among the other classes, loses more and more of its samples; the right one grows, narrows and moves to the right. Scale 4 at middle noise levels only: the left peak keeps a third of the samples, in a narrow spike.",
    columns=2,
)

# %% [markdown]
# The left peak is as legitimate a member of $c$ as the right one, but it looks like everybody else, so turning guidance up empties it. This is the famous trade: samples become more *typical of the class* and less diverse. The tempered law loses that peak as well: losing it is what the formula asks for. But the right peak also moves outward, away from the crowd, to where few members of $c$ ever were, and the tempered law's stays at 1: the shift outward is the flow's own doing. In images that is over-saturated colour and contrast.
#
# The last panel applies guidance only at middle noise levels (`interval` takes times; here noise from 0.06 to 0.6). Which peak a sample goes to is mostly decided at high noise; leave that phase alone, and the left peak keeps a good part of its samples (though guidance then narrows it to a spike). Kynkäänniemi et al. (arXiv:2404.07724) found guidance harmful at high noise, largely unnecessary at low noise and useful between, and improved the record FID on ImageNet at 512×512 from 1.81 to 1.40 with such an interval.
#
# ### Play
#
# Compare the samples with the three laws. Below 1 guidance mixes the prior back in.

# %%
widgets.explorer(draw_guidance, scale=(0.0, 6.0, 0.25, 3.0), only_middle=False, seed=(0, 9, 1))

# %% [markdown]
# ### In the plane
#
# Three classes with two peaks each, and guidance towards one of them. Diversity and fidelity are now two numbers: how far the samples of the class lie from each other, and how sure the exact classifier is of them. A third one tells what neither shows: how many samples lie where there are *no data of any class*, beyond all but 1 % of them.

# %%
angle = torch.tensor([90, 20, 210, 330, 150, 270]) * math.pi / 180  # classes a, a, b, b, c, c
centres = torch.stack([angle.cos(), angle.sin()], 1).double()
round_ = 0.35**2 * torch.eye(2, dtype=double).expand(6, 2, 2)
plane = GaussianMixture(torch.ones(6), centres, round_)
class_a = GaussianMixture(torch.ones(2), centres[:2], round_[:2])
both = denoiser_for(class_a, noisy), denoiser_for(plane, noisy)
begin = 20 * standard_normal(0)(torch.empty(600, 2, dtype=double))
known = plane.log_prob(plane.sample(20_000))
outside = known.quantile(0.01)
side = torch.linspace(-2.4, 2.4, 97, dtype=double)
field = plane.log_prob(torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)).exp().reshape(97, 97)
panels, found = [], {}
for s in (1.0, 3.0, 8.0):
    guided = classifier_free(both[0], s, unconditional=both[1])
    ends = last(heun(guided, noisy, begin, grid))
    belongs = (class_a.log_prob(ends) - plane.log_prob(ends)).exp().mean() / 3
    spread, off = ends.std(0).square().sum().sqrt(), (plane.log_prob(ends) < outside).double().mean()
    found[s] = f"sure it is the class {belongs:.0%}, spread {spread:.2f}, outside the data {off:.0%}"
    panels.append(
        plots.density_2d(
            side,
            side,
            {"": field},
            points={"samples": ends[:200], "the class's centres": centres[:2]},
            title=f"scale {s:g}",
            alt=f"Scale {s:g}: {found[s]}.",
            width=310,
            height=320,
        )
    )
    print(f"scale {s:g}: {found[s]}")
plots.strip(
    panels,
    title="Fidelity rises, diversity falls, and at last the samples leave the data",
    alt="Three pictures of a grey ring of six blobs with samples of the class at the top and at the right. "
    + " ".join(f"Scale {s:g}: {what}." for s, what in found.items())
    + " With growing scale the points move outward and together.",
    columns=3,
)

# %% [markdown]
# A classifier alone would choose the largest scale, for it is only asked which class is likeliest, and outside of all data that can still be answered with confidence. So never judge guidance by how well the condition is met. Ask also how diverse samples are, and whether they still look like data.
#
# ## 6. Break it: the dial off by one, the condition that is not there
#
# Two mistakes leave no trace in the pictures of one lucky sample. The first copies a number across conventions. The second passes the condition to a function that forgets to pass it on, and every answer still looks fine: the sampler now draws from the prior.


# %%
def class_or_anybody(z, t, cond):
    """Told +1 it denoises the wanted class, told -1 the whole crowd."""
    return torch.where(cond > 0, peaks[0](z, t), peaks[1](z, t))


class_c = torch.ones(1, 1, dtype=double)


def as_meant(z, t, cond=class_c, w=2.0):
    return classifier_free(class_or_anybody, scale_from_w(w), null=-class_c)(z, t, cond)


def off_by_one(z, t, cond=class_c, w=2.0):
    """The paper's w, typed where s is meant."""
    return classifier_free(class_or_anybody, w, null=-class_c)(z, t, cond)


def forgetful(z, t, cond=class_c, w=2.0):
    """A wrapper that takes a condition and forgets to hand it on."""
    return as_meant(z, t, -class_c, w)


suspects = {"as meant": as_meant, "off by one": off_by_one, "forgetful": forgetful}
common = 20 * standard_normal(5)(torch.empty(2000, 1, dtype=double))
for name, denoiser in suspects.items():
    ends = last(heun(denoiser, noisy, common, grid))
    print(f"{name:10} right peak {(ends > 0.4).double().mean():.0%}, spread {ends.std():.2f}")

# %% [markdown]
# Off by one is merely too tame; without its condition the sampler draws the crowd, of which few belong to the right peak.
#
# **Recognise the first** with a check that costs one call: at the scale that should switch guidance off ($w = 0$), the guided denoiser must equal the conditional one to the last digit; at the scale that should leave the prior ($w = -1$), the unconditional one. Below, off by one fails both, the forgetful wrapper the first.
#
# **Recognise the second** with a paired test: same state, same noise level, *another* condition. If the answer does not change, nobody listens. For a network the change is never exactly what it should be, so attach a standard error, and compare with what a deaf one shows: exactly zero. (The test says that somebody listens, not whether rightly; → Exercise 10.8.)


# %%
def listens(denoiser, z, t, cond):
    """Mean change of the answer (rms per sample) when conditions are swapped between samples, and its standard error."""
    with torch.inference_mode():
        change = denoiser(z, t, cond) - denoiser(z, t, cond.roll(1, 0))
    sizes = change.flatten(1).square().mean(1).sqrt()
    return sizes.mean().item(), (sizes.std() / len(sizes) ** 0.5).item()


told = torch.tensor([[1.0], [-1.0]]).repeat(200, 1)
z, t = crowd.sample(400), 0.02
z = z + noisy.sigma(t) * standard_normal(6)(z)
for name, denoiser in suspects.items():
    off = (denoiser(z, t, w=0.0) - peaks[0](z, t)).abs().max().item() < 1e-12
    prior_left = (denoiser(z, t, w=-1.0) - peaks[1](z, t)).abs().max().item() < 1e-12
    mean, error = listens(denoiser, z, t, told)
    print(f"{name:10} off is off: {off!s:5}  -1 is the prior: {prior_left!s:5}  swapped: {mean:.3f} +- {error:.3f}")

# %% [markdown]
# ## 7. The same face, told in six ways
#
# Now a network. What can an LR image be turned into before a denoiser sees it? The literature's answers differ more in plumbing than in kind, and our network `faces-conditions-x4` learned them side by side; a one-hot part of the condition (zeros, and a single 1) says which way is in use.
#
# | way | what the denoiser sees | after |
# |---|---|---|
# | `concat` | the bicubic enlargement, stacked onto the noisy face | SR3 |
# | `film` | the enlargement, turned into a gain $\gamma$ and a shift $\beta$ for every feature: $h \mapsto h\,(1+\gamma) + \beta$ | FiLM (→ Exercise 10.3); StableSR's gains depend on the place, as ours do |
# | `reference` | the answer of a regression network, stacked | CDPMSR |
# | `vae` | a *sample* of a variational autoencoder, stacked | DiffuseVAE |
# | `features` | the features of an RRDB encoder (residual blocks in which every convolution sees all before it), stacked | SRDiff |
# | words | a 0 or 1 for each known phrase (→ Exercise 10.2), beside any way above or alone (`none`) | text-to-image models |
#
# Two things to notice before measuring. A regression and a VAE are functions of the LR image (the VAE's with a coin toss inside), so by themselves these references hold *no evidence that the LR image does not hold*. They can make it easier to use. And the network always knows which way it is being told; with the way `none` and no words, it is its own unconditional model, which classifier-free guidance needs.

# %%
crew = faces(20, seed=321)
small, enlarged = shrunk(crew.images, 8)


def told_by(way, said=None, seed=0):
    """The condition of the whole crew, told in one way; the VAE draws anew for another seed."""
    return face_condition(way, way_image(way, small, standard_normal(seed)), said, count=len(small))


said = words(crew.captions)
conditions = {way: (lambda seed, way=way: told_by(way, None, seed)) for way in FACE_WAYS[1:]}
conditions["concat, words"] = lambda seed: told_by("concat", said, seed)
seeds = (0, 500)
answers = {
    name: torch.stack([sample_faces(told(seed), seed=seed, steps=8) for seed in seeds])
    for name, told in conditions.items()
}
rows = {
    "8x8 pixels": enlarged.clamp(0, 1),
    **{name: drawn[0] for name, drawn in answers.items()},
    "original": crew.images,
}
plots.image_grid(
    torch.cat([row[:5] for row in rows.values()]),
    [name if i == 0 else "" for name in rows for i in range(5)],
    title="One network, one blurred face, six ways of being told",
    alt="Eight rows of five drawn faces: bicubic enlargements of 8x8 pixels, blurred; then samples told by concatenation, FiLM, a regression's reference, a VAE's reference, encoder features, and by concatenation with a caption; last the originals. All samples show the right poses, skin and hair; they differ in small things such as eyes, mouths and glasses.",
    zoom=3,
    columns=5,
)

# %% [markdown]
# By eye they are hard to tell apart. So measure, and carefully: faces differ from each other far more than the ways do. With its own error bar per way, `film`, `features` and words could not be told from `concat`. But every way painted *the same faces from the same noise*. Take differences face by face, and the faces' own difficulty cancels:
#
# $$\Delta_i = \text{score}_i(\text{way}) - \text{score}_i(\text{concat}), \qquad \bar\Delta \pm \frac{\operatorname{std}(\Delta_i)}{\sqrt{20}} ,$$
#
# where each $\Delta_i$ is first averaged over the seeds: two seeds of one face are not two independent faces. (Textures: chapter 02's sliced Wasserstein distance, lower is nearer.)


# %%
def scores(drawn):
    """PSNR (dB), LR-PSNR (dB) and texture distance (x 1000) per face, averaged over the seeds: (faces, 3)."""
    rows = [
        torch.stack(
            [
                psnr(sr, crew.images, channel="rgb"),
                lr_consistency(sr, small, 4),
                1000 * sliced_wasserstein(sr, crew.images, projections=32),
            ],
            1,
        )
        for sr in drawn
    ]
    return torch.stack(rows).mean(0)


table = {name: scores(drawn) for name, drawn in answers.items()}
base, many = table["concat"], len(crew.images) ** 0.5
print(f"{'':14} {'PSNR':>15} {'LR-PSNR':>15} {'textures':>15}")
print(
    f"{'concat':14}"
    + "".join(f" {mean:7.2f} +- {error:4.2f}" for mean, error in zip(base.mean(0), base.std(0) / many, strict=True))
)
print("minus concat, face by face:")
paired = {}
for name in list(table)[1:]:
    difference = table[name] - base
    paired[name] = difference.mean(0), difference.std(0) / many
    print(f"{name:14}" + "".join(f" {mean:+7.2f} +- {error:4.2f}" for mean, error in zip(*paired[name], strict=True)))
apart = {name: (drawn[0] - drawn[1]).flatten(1).square().mean(1).sqrt().mean() for name, drawn in answers.items()}
print("rms between two seeds:", ", ".join(f"{name} {rms:.3f}" for name, rms in apart.items()))

# %%
share = 100 / base[:, 2].mean()  # textures: per cent of concat's distance
unit = torch.tensor([1.0, 1.0, share])
plots.bars(
    ["PSNR (dB)", "LR-PSNR (dB)", "texture distance (%)"],
    {name: mean * unit for name, (mean, _) in paired.items()},
    errors={name: 2 * error * unit for name, (_, error) in paired.items()},
    title="What each way is worth against concatenation, face by face (bars of two standard errors)",
    alt="Differences from concatenation, with two standard errors. "
    + " ".join(
        f"{name}: PSNR {mean[0]:+.2f} +- {2 * error[0]:.2f} dB, LR-PSNR {mean[1]:+.2f} +- {2 * error[1]:.2f} dB, texture distance {mean[2] * share:+.1f} +- {2 * error[2] * share:.1f} per cent."
        for name, (mean, error) in paired.items()
    ),
    ylabel="difference",
    width=820,
    height=360,
)

# %%
levels = {"mostly noise, t = 0.9": 0.9, "mostly face, t = 0.3": 0.3}
cosine, shared = vp_cosine(), standard_normal(8)(crew.images)
painter = NetworkDenoiser(load_pretrained("faces-conditions-x4"))
changes = {}
for label, t in levels.items():
    state = cosine.alpha(t).float() * (2 * crew.images - 1) + cosine.sigma(t).float() * shared
    changes[label] = [listens(painter, state, t, told_by(way)) for way in FACE_WAYS[1:]]
    changes[label].append(listens(painter, state, t, told_by("none", said)))
plots.bars(
    [*FACE_WAYS[1:], "words only"],
    {label: [mean for mean, _ in row] for label, row in changes.items()},
    errors={label: [2 * error for _, error in row] for label, row in changes.items()},
    title="The swap test: how much the answer changes with another person's condition",
    alt="Bars for five ways of telling the LR image and for words only, at two noise levels. "
    + " ".join(
        f"{label}: "
        + ", ".join(f"{name} {mean:.2f}" for name, (mean, _) in zip([*FACE_WAYS[1:], "words only"], row, strict=True))
        + "."
        for label, row in changes.items()
    ),
    ylabel="rms change",
    width=820,
    height=340,
)

# %% [markdown]
# Read the paired differences. Two ways stand out in every score, by many standard errors: `reference` and `vae`. Both hand over the regression network's answer (our VAE draws around it): no new evidence, but *work already done*. The VAE's coin toss costs a little and changes little here: two seeds of one face lie hardly further apart than with the reference, and closer than with `concat` (last line of the table). FiLM, features and plain concatenation
# lie close together (SR3's authors, too, found that more elaborate conditioning changed little). Words add little to 8×8 pixels, which show most of what captions say. All ways share one small network and one short training, so the table compares ways *here*.
#
# The swap test agrees: every way is listened to, most of all in noise, where nothing else is known. It also says that words alone change the answer much less than an LR image does, and least when the face is nearly finished. Remember that for the next section.
#
# <details><summary><b>Question.</b> What would the paired differences show if a bug dropped the reference and passed on the bicubic image in its place, still saying "reference" in the one-hot part? Decide, then look below.</summary>
#
# Not zero: the network is told that a reference comes, trusts its blur as a decision, and gets *worse* than with `concat`, by many standard errors. A dropped condition shows as equality only if the network cannot tell; a wrong one shows as a loss. The swap test would not notice, for the image still changes the answer. Each check sees its own mistake.
# </details>

# %%
deceived = sample_faces(face_condition("reference", enlarged), steps=8)
lost = scores([deceived]) - scores(answers["concat"][:1])
for name, values in zip(("PSNR (dB)", "LR-PSNR (dB)", "textures"), lost.T, strict=True):
    print(f"{name:12} minus concat: {values.mean():+.2f} +- {values.std() / many:.2f}")

# %% [markdown]
# ## 8. Words, and the dial
#
# The prior of faces knows captions. Told nothing but "a smiling face with sunglasses", and guided against being told nothing, what does the scale do? Fidelity: how sure a classifier of faces is that it sees sunglasses. Diversity: how little two of 16 faces have in common. All scales go through the network as one batch, for `scale` may hold one number per sample. With $\eta = 1$ this is section 5's sampler with noise, the gentler one.

# %%
sunglasses = face_log_prob("glasses", 2, cosine)  # (z, t) -> log p(sunglasses | z_t), (B,)
dial = (0.0, 1.0, 2.0, 4.0, 8.0)
sentence = "a smiling face with sunglasses"
sixteen = words([sentence] * 16)
nothing, told_words = face_condition("none", count=80), face_condition("none", words=sixteen.repeat(5, 1))
strength = torch.tensor(dial).repeat_interleave(16)
seeds_again = [i % 16 for i in range(80)]


def dialled(count, scale, **options):
    """The first `count` of the 80 faces, each with its own scale; not cut to [0, 1], to see what leaves it."""
    guided = classifier_free(painter, scale, nothing[:count], **options)
    noise = standard_normal([torch.Generator().manual_seed(seed) for seed in seeds_again[:count]])
    with torch.inference_mode():
        z = noise(torch.empty(count, 3, 32, 32))
        states = ddim(with_condition(guided, told_words[:count]), cosine, z, uniform_times(10), eta=1.0, noise=noise)
        return (last(states) + 1) / 2


swept = dialled(80, strength).view(5, 16, 3, 32, 32)
plots.image_grid(
    swept[:, :5].reshape(-1, 3, 32, 32).clamp(0, 1),
    [f"scale {s:g}" if i == 0 else "" for s in dial for i in range(5)],
    title=f"'{sentence}', at five scales, from the same five noises",
    alt="Five rows of five drawn faces. Scale 0 and 1: all kinds of faces, hardly any with sunglasses. With scale 2 and 4 more and more wear dark glasses; at scale 8 nearly all do, with black lenses, garish colours and hard contrasts.",
    zoom=3,
    columns=5,
)


# %%
def unlike(images):
    """Diversity: 1 - mean correlation between two of the faces (B, 3, 32, 32), so that contrast does not count."""
    rows = (images.clamp(0, 1) - images.clamp(0, 1).mean((2, 3), keepdim=True)).flatten(1)
    correlation = torch.corrcoef(rows)
    return 1 - (correlation.sum().item() - len(rows)) / (len(rows) * (len(rows) - 1))


def of_scale(images):
    """Fidelity (the classifier is told "hardly any noise"), its standard error, diversity, share of values outside [0, 1]."""
    sure = sunglasses(2 * images.clamp(0, 1) - 1, 0.02).exp()
    burnt = ((images < 0) | (images > 1)).float().mean()
    return sure.mean().item(), (sure.std() / len(images) ** 0.5).item(), unlike(images), burnt.item()


measured = {f"{s:g}": of_scale(images) for s, images in zip(dial, swept, strict=True)}
extras = {
    "rescaled": of_scale(dialled(16, 8.0, rescale=0.7)),
    "t = 0.2-0.7": of_scale(dialled(16, 8.0, interval=(0.2, 0.7))),
}
for name, (sure, error, spread, burnt) in {**measured, **{f"8, {k}": v for k, v in extras.items()}}.items():
    print(f"scale {name:17} sunglasses {sure:.2f} +- {error:.2f}, diversity {spread:.2f}, outside [0, 1] {burnt:.1%}")
line_of = {
    label: ([row[2] for row in rows.values()], [row[0] for row in rows.values()], [row[1] for row in rows.values()])
    for label, rows in (("scale", measured), ("scale 8, tamed", extras))
}
plots.scatter(
    {label: (x, y) for label, (x, y, _) in line_of.items()},
    joined=("scale",),
    errors={label: (None, error) for label, (_, _, error) in line_of.items()},
    names={"scale": list(measured), "scale 8, tamed": list(extras)},
    title="The dial trades diversity for fidelity",
    alt="Fidelity (probability of sunglasses) against diversity (1 - mean correlation). "
    + "; ".join(f"scale {name}: fidelity {row[0]:.2f}, diversity {row[2]:.2f}" for name, row in measured.items())
    + ". Scale 8, tamed: "
    + "; ".join(f"{name}: fidelity {row[0]:.2f}, diversity {row[2]:.2f}" for name, row in extras.items())
    + ".",
    xlabel="diversity",
    ylabel="fidelity",
    width=860,
    height=360,
)

# %% [markdown]
# At scale 1 our network should wear sunglasses in every sample, for it was told so. It does so in none of the 16: the training was short, words are a weak signal beside pixels, and the network *underestimates* the condition. This is a second reason for turning up the dial: guidance does not only exaggerate a right conditional model, it also repairs one that listens too little. At 4 most faces wear them, at 8 nearly all.
#
# The price is on the other axis. The faces have more and more in common; colours get harsher; values leave [0, 1]. `rescale` more than halves the values outside [0, 1] and gives no diversity back (→ Exercise 10.7); guiding only at times from 0.2 to 0.7 keeps more of the diversity for nearly the same fidelity, as the toy promised. Diversity has to be measured with care here: guidance stretches contrast, and a plain standard deviation over the faces takes that for variety. Hence the correlation.
#
# ### Is scale 1 right?
#
# Whether a network listens too little can be measured without drawing a single sample. What an exact $D_c$ gets wrong, $z_0 - D_c$, is uncorrelated with everything that can be computed from $z_t$ and $c$, and so with $D_c - D_\varnothing$. Hence among all points on the line through $D_\varnothing$ and $D_c$ the exact $D_c$ has the least error. The scale with the least error is a least-squares slope:
#
# $$s^*(t) = \frac{\mathbb E\,\langle z_0 - D_\varnothing,\ D_c - D_\varnothing\rangle}{\mathbb E\,\|D_c - D_\varnothing\|^2}, \qquad s^* = 1 \text{ for exact denoisers.}$$
#
# Where $s^* > 1$ the network underestimates the condition at that noise level; where $s^* < 1$ it trusts it too much.


# %%
def best_scale(z_0, told, untold):
    """The slope s* and its standard error, from data (B, ...) and the two answers to their noisy states."""
    change = (told - untold).flatten(1)
    top, bottom = ((z_0 - untold).flatten(1) * change).mean(1), change.square().mean(1)
    slope = top.mean() / bottom.mean()
    return slope.item(), ((top - slope * bottom).std() / len(top) ** 0.5 / bottom.mean()).item()


z_0 = kind_a.sample(200_000)
z = linear.alpha(0.3) * z_0 + linear.sigma(0.3) * standard_normal(9)(z_0)
slope, error = best_scale(z_0, told_a(z, 0.3), plain(z, 0.3))
assert abs(slope - 1) < 4 * error
print(f"exact denoisers of section 2: s* = {slope:.3f} +- {error:.3f}")

# %%
fresh, levels_of_noise = faces(32, seed=777), (0.2, 0.4, 0.6, 0.8, 0.95)
spoken, (_, foggy), (_, soft) = words(fresh.captions), shrunk(fresh.images, 4), shrunk(fresh.images, 8)
asked = {
    "nothing": face_condition("none", count=32),
    "words": face_condition("none", words=spoken),
    "4x4": face_condition("concat", foggy),
    "4x4, words": face_condition("concat", foggy, spoken),
    "8x8": face_condition("concat", soft),
}
pairs = {
    "words alone": ("words", "nothing"),
    "words beside 4x4 pixels": ("4x4, words", "4x4"),
    "8x8 pixels": ("8x8", "nothing"),
}
slopes = {label: [] for label in pairs}
for t in levels_of_noise:
    z_0 = 2 * fresh.images - 1
    z = cosine.alpha(t).float() * z_0 + cosine.sigma(t).float() * standard_normal(10)(z_0)
    with torch.inference_mode():
        replies = {name: painter(z, t, cond) for name, cond in asked.items()}
    for label, (told, untold) in pairs.items():
        slopes[label].append(best_scale(z_0, replies[told], replies[untold]))

# %%
plots.curves(
    levels_of_noise,
    {label: [slope for slope, _ in row] for label, row in slopes.items()},
    bands={label: [2 * error for _, error in row] for label, row in slopes.items()},
    horizontal={"exact": 1.0},
    title="The scale with the least denoising error: in noise, our network underestimates words",
    alt="Best scale against time (noise level) with bands of two standard errors. "
    + " ".join(
        f"{label}: "
        + ", ".join(f"{slope:.2f} at t = {t:g}" for t, (slope, _) in zip(levels_of_noise, row, strict=True))
        + "."
        for label, row in slopes.items()
    ),
    xlabel="time $t$ (0 face, 1 noise)",
    ylabel="$s^*$",
    height=340,
)

# %% [markdown]
# Pixels are used as they should be. Words are underestimated where it matters most, at high noise, where the network decides what kind of face it will be; nearer to the face they are used well, or already a little too much. A constant scale cannot be right at all levels. And note what this slope does *not* justify: it asks for less than 2, at high noise. Why then did sunglasses need 4? The slope averages over all captions and counts only the change that is made; a rare word, such as the dial's, can be ignored far more. The rest is taste.
#
# <details><summary><b>Question.</b> Could a network have $s^* = 1$ at every level and still ignore its condition?</summary>
#
# If it ignores $c$ entirely, $D_c = D_\varnothing$, and the slope is 0/0. If it uses a *part* of $c$ (the hat, never the mood) and uses that part rightly, the slope is 1: it compares the change that is made with the change that was earned, and never sees the change that was not made. For that, take the swap test, or a judge.
# </details>
#
# ### Captions as evidence
#
# Back to super-resolution. The LR image and the words are both evidence about the same face. Sixteen pixels show no glasses; does the caption bring back the *right* ones? Ask the classifier of faces whether it reads the true attribute off the answer.

# %%
group = faces(96, seed=556)
_, fog = shrunk(group.images, 4)
truth = {name: group.attributes[name] for name in ("glasses", "hat", "beard", "hair_color", "background")}
lr_only = face_condition("concat", fog)
lr_words = face_condition("concat", fog, words(group.captions))
others = face_condition("concat", fog, words(group.captions[1:] + group.captions[:1]))
variants = {
    "no caption": sample_faces(lr_only, steps=5),
    "own": sample_faces(lr_words, steps=5),
    "own, s = 2": sample_faces(lr_words, steps=5, scale=2.0, null=lr_only),
    "foreign": sample_faces(others, steps=5),
    "foreign, s = 2": sample_faces(others, steps=5, scale=2.0, null=lr_only),
    "original": group.images,
}
right = {
    label: torch.stack([(read_attribute(images, name) == truth[name]).float() for name in truth], 1)
    for label, images in variants.items()
}  # 1 where an attribute is read as it truly is: (faces, attributes)
readings = {
    label: [(hit.mean().item(), (hit.var() / 96).sqrt().item()) for hit in row.T] for label, row in right.items()
}
print("glasses right, difference face by face:")
for first, second in (
    ("own", "no caption"),
    ("own, s = 2", "no caption"),
    ("own, s = 2", "own"),
    ("foreign", "no caption"),
    ("foreign, s = 2", "no caption"),
    ("own", "foreign"),
    ("own, s = 2", "foreign, s = 2"),
):
    gain = (right[first] - right[second])[:, 0]
    print(f"{first:14} minus {second:14} {gain.mean():+.2f} +- {gain.std() / 96**0.5:.2f}")

# %%
plots.bars(
    [name.replace("_", " ") for name in truth],
    {label: [mean for mean, _ in row] for label, row in readings.items()},
    errors={label: [error for _, error in row] for label, row in readings.items()},
    title="Sixteen pixels and a caption: how often an attribute comes out right",
    alt="Share of 96 faces with the right attribute, read by a classifier, told 4x4 pixels and no caption, their own or a foreign one. "
    + " ".join(
        f"{label}: " + ", ".join(f"{name} {mean:.2f}" for name, (mean, _) in zip(truth, row, strict=True)) + "."
        for label, row in readings.items()
    ),
    ylabel="share right",
    ylim=(0, 1.05),
    width=900,
    height=360,
)

# %% [markdown]
# Backgrounds are large: sixteen pixels suffice, and words have nothing to add. Glasses are small, and there the caption is evidence: told it, more glasses come out right, three standard errors from zero. Guidance by the words adds little to that (less than two). Hats and beards move the same way, by less. The error bars in the figure nearly touch, because the faces differ; again the differences face by face decide. (And the judge errs: look at the originals' hair colours.)
#
# Another person's caption ("foreign") is the control, a wrong witness. At scale 1 it neither helps nor hurts; insisted on at scale 2 it does harm, by two standard errors. Own minus foreign is the contrast that tells evidence from a network that likes glasses, and it grows with the scale.
#
# ### Play
#
# Type a sentence under a blurred face. The known phrases are listed below the cell; what you do not mention is left open. Words and pixels may contradict each other: who wins depends on the scale. (Guidance here is for the words only: `null` is the same LR image without words.)

# %%
print("known phrases:", ", ".join(PHRASES))
blurs = {f"face {i + 1}": shrunk(people.images[i : i + 1], 4)[1] for i in range(6)}


def draw_words(sentence="glasses and a beard", scale=3.0, face="face 6", seed=0):
    """Four samples for one blurred face and a sentence."""
    image = blurs[face].repeat(4, 1, 1, 1)
    try:
        said, heard = words([sentence] * 4), ", ".join(caption_phrases(sentence))
    except ValueError as error:  # no known phrase: say so and use the LR image alone
        said, heard = None, str(error)
    cond, null = face_condition("concat", image, said), face_condition("concat", image)
    drawn = sample_faces(cond, seed, steps=8, scale=scale, null=null)
    return plots.image_grid(
        torch.cat([image[:1].clamp(0, 1), drawn]),
        ["4x4 pixels", *[f"sample {i + 1}" for i in range(4)]],
        title=f"{heard} (scale {scale:g})",
        alt=f"A blurred face and four samples told: {heard}; guidance scale {scale:g}.",
        zoom=3,
        columns=5,
    )


widgets.explorer(
    draw_words,
    sentence=ipywidgets.Text(value="glasses and a beard", description="sentence", continuous_update=False),
    scale=(0.0, 8.0, 0.5, 3.0),
    face=ipywidgets.Dropdown(options=list(blurs), value="face 6", description="face"),
    seed=(0, 9, 1),
)

# %%
widgets.frames(
    draw_words,
    [
        {"sentence": "glasses", "scale": 3.0},
        {"sentence": "a beard", "scale": 3.0},
        {"sentence": "long blond hair", "scale": 3.0},
        {"sentence": "sunglasses", "scale": 7.0},
    ],
    title="Other words under the same sixteen pixels",
    alt="Four strips, each with a blurred face and four samples of a person on an orange background. Told 'glasses': all wear glasses. Told 'a beard': most have one. Told 'long blond hair': a veil of blond hair, against the dark pixels. Told 'sunglasses' at scale 7: dark glasses and hard contrasts.",
    columns=2,
)

# %% [markdown]
# ### A classifier instead of words
#
# `faces-unconditional-32` (chapter 04) has never heard of sunglasses. But the classifier that judged us reads them off *noisy* faces, at any level that it is told. So Bayes' rule of section 2 applies. For comparison it plays the clean classifier of section 3 as well: asked about $z_t$ as if there were no noise.

# %%
prior = NetworkDenoiser(load_pretrained("faces-unconditional-32"))
deaf_to_noise = face_log_prob("glasses", 2, cosine, noise_aware=False)
runs = {
    "prior": prior,
    "noise-aware, scale 1": guidance.classifier(prior, sunglasses, cosine, 1.0),
    "noise-aware, scale 4": guidance.classifier(prior, sunglasses, cosine, 4.0),
    "clean, scale 1": guidance.classifier(prior, deaf_to_noise, cosine, 1.0),
    "clean, scale 4": guidance.classifier(prior, deaf_to_noise, cosine, 4.0),
}
by_classifier = {}
for name, denoiser in runs.items():
    noise = standard_normal(3)
    with torch.inference_mode():
        z = noise(torch.empty(12, 3, 32, 32))
        z_0 = last(ddim(denoiser, cosine, z, uniform_times(12, t_max=0.99), eta=1.0, noise=noise))
    by_classifier[name] = ((z_0 + 1) / 2).clamp(0, 1)
    sure = sunglasses(2 * by_classifier[name] - 1, 0.02).exp()
    spread = unlike(by_classifier[name])
    print(f"{name:22} sunglasses {sure.mean():.2f} +- {sure.std() / 12**0.5:.2f}, diversity {spread:.2f}")
real = faces(400, seed=3)
wearers = real.images[real.attributes["glasses"] == 2]
print(f"{len(wearers)} original faces with sunglasses: diversity {unlike(wearers):.2f}")
plots.image_grid(
    torch.cat([images[:6] for images in by_classifier.values()]),
    [name if i == 0 else "" for name in by_classifier for i in range(6)],
    title="Sunglasses by Bayes' rule: a classifier that knows noise, and one that does not",
    alt="Five rows of six drawn faces from the same noise: the prior, mostly without sunglasses; guided by the noise-aware classifier at scale 1 and 4, with more and more sunglasses; guided by the clean one at scale 1 and 4.",
    zoom=3,
    columns=6,
)

# %% [markdown]
# From the same noise comes a similar person, now in sunglasses: at scale 1 much else stays as it was. At scale 4 everybody wears them, and hair, hats and walls change as well. The clean classifier is just as successful in the eyes of the judge (who is the same network), and that is all it is: hair turns dark, and at scale 4 the faces grow alike.
# The last line is the diversity of original wearers. The noise-aware classifier at scale 1 is close to it; both at scale 4 fall well below, the clean one furthest: section 3's spike, in a mild form. The prior keeps these images from falling apart: it is asked at every step and knows what a face is. (The walk starts at $t = 0.99$, for in pure noise $\sigma_t^2/\alpha_t$ is infinite.)
#
# ## 9. A frozen prior and an adapter
#
# Training a conditional model from nothing is the expensive way. Text-to-image models have seen more pictures than any SR data set holds; could one of them be *taught to look* at an LR image without being trained again? Freeze the prior, add a small encoder that looks at the LR image and is told the noise level, and let it modulate the prior's features, $h \mapsto h\,(1 + f\,\gamma(x)) + f\,\beta(x)$, by convolutions that start at zero: at the beginning of training the adapted model *is* the prior. The factor $f$ stays a knob after training.

# %%
adapter = load_pretrained("faces-adapter-x4")
small_share = sum(p.numel() for p in adapter.parameters()) / sum(p.numel() for p in prior.network.parameters())
print(f"the adapter has {small_share:.0%} of the frozen prior's parameters")
knob = (0.0, 0.25, 0.5, 0.75, 1.0)
shown, eight, told_eight = (0.0, 0.25, 0.5, 1.0), slice(0, 8), 2 * enlarged[:8] - 1
steered = {f: sample_faces(told_eight, steps=10, denoiser=adapted_denoiser(f)) for f in knob}
plots.image_grid(
    torch.cat([enlarged[:5].clamp(0, 1), *(steered[f][:5] for f in shown), crew.images[:5]]),
    [
        name if i == 0 else ""
        for name in ("8x8 pixels", *[f"fidelity {f:g}" for f in shown], "original")
        for i in range(5)
    ],
    title="One knob from 'any face' to 'this face'",
    alt="Six rows of five drawn faces: enlarged from 8x8 pixels; samples of the frozen prior with the adapter at fidelity 0, 0.25, 0.5 and 1; the originals. At 0 the faces have nothing to do with the LR images; with growing fidelity pose, colours and hair become those of the originals.",
    zoom=3,
    columns=5,
)

# %%
agreement = {f: lr_consistency(sr, small[eight], 4) for f, sr in steered.items()}
closeness = {f: psnr(sr, crew.images[eight], channel="rgb") for f, sr in steered.items()}
plots.curves(
    knob,
    {
        "LR-PSNR": [agreement[f].mean().item() for f in knob],
        "PSNR": [closeness[f].mean().item() for f in knob],
    },
    bands={
        "LR-PSNR": [(agreement[f].std() / 8**0.5).item() for f in knob],
        "PSNR": [(closeness[f].std() / 8**0.5).item() for f in knob],
    },
    horizontal={
        "LR-PSNR, concat": table["concat"][eight, 1].mean().item(),
        "PSNR, concat": table["concat"][eight, 0].mean().item(),
    },
    title="What the knob does to fidelity, beside a network trained for the task",
    alt="LR-PSNR and PSNR (dB) of eight faces against the adapter's fidelity 0 to 1. LR-PSNR: "
    + ", ".join(f"{agreement[f].mean():.1f} at {f:g}" for f in knob)
    + ". PSNR: "
    + ", ".join(f"{closeness[f].mean():.1f} at {f:g}" for f in knob)
    + f". Told by concatenation: {table['concat'][eight, 1].mean():.1f} and {table['concat'][eight, 0].mean():.1f}.",
    xlabel="fidelity $f$",
    ylabel="dB",
    height=340,
)

# %% [markdown]
# Look at the rows before the curves. At fidelity 0 the prior paints clean, sharp faces of other people; at 1, nearly the right person, just as clean (the fourth loses the glasses). The adapter has a small fraction of the prior's weights and a short training, and its faces look *better finished* than those of section 7, probably because the prior had its training already. But the curves show what it costs: even at 1 the faces contradict their LR images more than those of the network that was trained to be told (LR-PSNR).
# In between, the knob makes compromises: a face that has the pose and the colours, and somebody else's hat. No value is right; it is a choice between two errors.
#
# > **In the papers: text-to-image models as priors**
# >
# > - **StableSR** (arXiv:2305.07015) freezes Stable Diffusion and trains a time-aware encoder whose features modulate it (as our adapter's do). A second module in the *decoder* of the autoencoder wraps LR features around it, with a coefficient that trades quality for fidelity.
# > - **DiffBIR** (arXiv:2308.15070) works in two stages: a restoration network removes the degradation, then a ControlNet-like branch (a trained copy of half the network that adds to the frozen one's features) conditions frozen Stable Diffusion on its answer (a super-resolved reference, section 7). Its knob is a guidance term during sampling, without training.
# > - **PASD** (arXiv:2308.14469) lets pixel features into the frozen model's cross-attention, and removes degradations from them first.
# > - **SeeSR** (arXiv:2311.16518) trains an extractor of tags and soft prompts (vectors in place of words) that survives degradation, because a caption of a bad image is often a wrong caption; at test time the LR image is also put into the initial noise.
# > - **CoSeR** (arXiv:2311.16512) derives an embedding from the LR image that is meant to understand it, and lets the text-to-image model *generate a reference image* from it.
# >
# > What our toy shares with them: a frozen prior, a small trained encoder, a knob. What it lacks is the point of the family, a prior that has seen the world. And read their tables with care: they lead in no-reference scores (chapter 02), which reward convincing inventions, and can trail far simpler methods in PSNR. A prior that knows the world also knows what to put where the evidence is silent.
#
# ## 10. Photos
#
# Two of these ways for photos. `"srdiff"` is told *features*, and diffuses the residual to the bicubic enlargement (chapter 11 says why); `"sr3"` of chapter 09 is told the enlargement.


# %%
def cut(name, top, left, size=64, scale=4):
    """A square piece of a built-in photo and its LR version, rounded to 8 bits."""
    hr = photo(name)[..., top : top + size, left : left + size]
    return hr, to_uint8(resize(hr, 1 / scale)).float() / 255


pieces = [cut(*place) for place in (("astronaut", 90, 180), ("flower", 150, 250), ("china", 60, 200))]
hrs, lrs = (torch.cat(part) for part in zip(*pieces, strict=True))
enlargements = {name: super_resolve(lrs, method=name) for name in ("regression", "sr3", "srdiff")}
print(f"{'':12} LR-PSNR    PSNR    textures x 1000  sharpness")
for name, sr in enlargements.items():
    print(
        f"{name:12} {lr_consistency(sr, lrs, 4).mean():5.1f} dB {psnr(sr, hrs, crop=4).mean():5.2f} dB  {1000 * sliced_wasserstein(sr, hrs, projections=64).mean():8.1f} {(sharpness(sr) / sharpness(hrs)).mean():14.2f}"
    )
columns = [*enlargements, "original"]
plots.image_grid(
    [sr[i] for i in range(3) for sr in (*enlargements.values(), hrs)],
    [name if i == 0 else "" for i in range(3) for name in columns],
    title="Told pixels or told features",
    alt="Three rows of photo pieces, a face, a flower and a temple roof, each in four versions: regression, smooth; SR3, told the bicubic enlargement; SRDiff, told features of the LR image; the original.",
    zoom=2,
    columns=4,
)

# %% [markdown]
# Look first: regression is smooth and clean, and to our eyes the best of the three; both samplers, small networks with short trainings, leave blotches on skin and sky. Much of the table agrees: regression leads in PSNR and LR-PSNR, as expected (chapter 09), and beats SR3 in textures and sharpness too. SRDiff has the highest sharpness and the textures nearest to the originals',
# and agrees least with the LR image. Do not conclude that features are better than pixels: the two samplers differ in the condition *and* in the state that diffuses, the network and the training. Section 7 changed one thing at a time. `benchmarks/quality.py` compares all methods on three test sets.
#
# ### Any factor
#
# The ways so far put the condition on the grid of the answer, so the factor is fixed when the network is built. IDM (arXiv:2303.16491) builds an **implicit function** into the upsampling layers of the denoiser; the LR image enters beside it, through a conditioning network and a factor that weighs it. Ours is simpler and makes only the condition implicit: a small network of (the LR features around a place, where exactly the place is within its LR pixel, how large the asked-for pixel is). It can be asked about *any* place, so one set of weights serves all factors:
#
# $$c(p) = f_\theta\big(\text{features near } p,\; p - p_{\text{nearest LR pixel}},\; 1/\text{scale}\big).$$

# %%
factors = {2: 112, 2.5: 110, 3.7: 111}  # sizes that the factor divides
rows, labels = [], []
for factor, size in factors.items():
    hr, lr = cut("chelsea", 55, 110, size, factor)
    sr, plain_sr = super_resolve(lr, method="continuous", scale=factor), resize(lr, factor).clamp(0, 1)
    print(f"x{factor:<3} from {lr.shape[-1]} to {sr.shape[-1]} pixels")
    for name, image in {"bicubic": plain_sr, "continuous": sr}.items():
        away = 1000 * sliced_wasserstein(image, hr, projections=64).item()
        print(f"   {name:11} PSNR {psnr(image, hr, crop=4).item():.2f} dB, textures x 1000 {away:.1f}")
    rows += [image[..., 20:92, 20:92] for image in (plain_sr, sr, hr)]
    labels += [f"bicubic, x{factor:g}", f"continuous, x{factor:g}", "original"]
plots.image_grid(
    rows,
    labels,
    title="One set of weights, three factors",
    alt="Three rows for the factors 2, 2.5 and 3.7, each with the bicubic enlargement, the continuous model's sample and the original of a cat's eye. The larger the factor, the softer the bicubic one and the more the model has to invent.",
    zoom=2,
    columns=3,
)

# %% [markdown]
# The continuous model invents at every factor, the more the larger it is, from one set of weights. Like every sampler it pays in PSNR, here against bicubic interpolation, which invents nothing; in return its textures are much nearer to the original's. It saw another random factor in every step of its training, so it should have no favourite; three factors on one photo do not test that.
#
# > **Common mistakes**
# >
# > - The scale off by one: $w$ typed where $s$ is meant (section 6). Check that "off" is off.
# > - A condition dropped on its way through a wrapper. Swap conditions; the answer must change.
# > - A classifier that never saw noise; or one that shares statistics across the batch (batch normalisation in training mode), so that its gradient for one sample depends on the others.
# > - The gradient without its factor $\sigma_t^2/\alpha_t$, or with the wrong sign for $\epsilon$.
# > - Dropping the condition of whole batches in training where it should be dropped sample by sample; or a `null` at sampling that is not the one of training.
# > - Judging the scale by how well the condition is met.
# > - Comparing conditions with unpaired error bars, or treating seeds of one face as independent faces.
#
# > **In the papers**
# >
# > - Dhariwal and Nichol (arXiv:2105.05233): classifiers trained on noisy images; FID 4.59 on ImageNet 256×256, and 3.94 with an upsampling model.
# > - Ho and Salimans (arXiv:2207.12598): one network, its label dropped at random in training; the trade of diversity against fidelity without a classifier.
# > - Lin et al. (arXiv:2305.08891): guidance over-exposes; rescale its standard deviation to that of $D_c$ (ours rescales $z_0$, theirs the network's output).
# > - SR3 (arXiv:2104.07636) concatenates; CDPMSR (arXiv:2302.12831) puts a pretrained SR model's answer in place of bicubic and samples deterministically; DiffuseVAE (arXiv:2201.00308) refines what a VAE drew, with FID 16.47 against 34.36 of DDIM on CelebA-HQ-128 in ten steps; SRDiff (arXiv:2104.14951) conditions on an LR encoder.
#
# > **Going further**
# >
# > - Guide not by a class but by the measurement itself, $\nabla\log p(x \mid z_t)$: that makes *any* prior an SR model, and is chapter 15.
# > - Guide by a worse version of the same model instead of an unconditional one (arXiv:2406.02507). Why might that keep more diversity?
# > - Which of our ways would you choose if the LR images at test time were worse than in training?
#
# Eight [exercises](../exercises/10_conditioning_and_guidance.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Derive:** Bayes' rule turns a prior's denoiser into a conditional one by adding $\frac{\sigma^2}{\alpha}\nabla\log p(c \mid z_t)$; a classifier without noise in its training is sure where nobody can be.
# 2. **Guide:** $D_\varnothing + s\,(D_c - D_\varnothing)$; $s = 1 + w$, and under an exact classifier both guidances are one.
# 3. **Predict:** between Gaussians the flow samples variance $v^s u^{1-s}$; DDPM and the tempered law have others; peaks shared with the crowd are emptied.
# 4. **Detect:** swap conditions and look whether the answer changes, with a standard error; check that "off" is off.
# 5. **Compare:** same faces, same noise, differences face by face.
# 6. **Weigh:** scale, words and an adapter's knob all trade fidelity for diversity; a judge of the condition alone always wants more.
#
# Next: diffusing something other than pixels.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, arXiv:2105.05233.
# - Ho, Salimans, *Classifier-Free Diffusion Guidance*, arXiv:2207.12598.
# - Bradley, Nakkiran, *Classifier-Free Guidance is a Predictor-Corrector*, arXiv:2408.09000.
# - Kynkäänniemi et al., *Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models*, arXiv:2404.07724.
# - Lin, Liu, Li, Yang, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, arXiv:2305.08891.
# - Saharia et al., *Image Super-Resolution via Iterative Refinement*, arXiv:2104.07636.
# - Perez et al., *FiLM: Visual Reasoning with a General Conditioning Layer*, arXiv:1709.07871.
# - Niu et al., *CDPMSR: Conditional Diffusion Probabilistic Models for Single Image Super-Resolution*, arXiv:2302.12831.
# - Pandey, Mukherjee, Rai, Kumar, *DiffuseVAE: Efficient, Controllable and High-Fidelity Generation from Low-Dimensional Latents*, arXiv:2201.00308.
# - Li et al., *SRDiff: Single Image Super-Resolution with Diffusion Probabilistic Models*, arXiv:2104.14951.
# - Gao et al., *Implicit Diffusion Models for Continuous Super-Resolution*, arXiv:2303.16491.
# - Wang et al., *Exploiting Diffusion Prior for Real-World Image Super-Resolution* (StableSR), arXiv:2305.07015.
# - Lin et al., *DiffBIR: Towards Blind Image Restoration with Generative Diffusion Prior*, arXiv:2308.15070.
# - Yang et al., *Pixel-Aware Stable Diffusion for Realistic Image Super-Resolution and Personalized Stylization* (PASD), arXiv:2308.14469.
# - Wu et al., *SeeSR: Towards Semantics-Aware Real-World Image Super-Resolution*, arXiv:2311.16518.
# - Sun et al., *CoSeR: Bridging Image and Language for Cognitive Super-Resolution*, arXiv:2311.16512.
