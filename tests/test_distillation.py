"""Distillation against what is known on Gaussian data: targets, students and consistency maps are affine there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_schedules import BUILT, ends_in_pure_noise, every_schedule
from torch import Generator, nn

from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.distillation import (
    best_times,
    consistency_loss,
    consistency_sample,
    consistency_target,
    elbo_costs,
    flow_step,
    progressive_loss,
    progressive_target,
    pseudo_huber,
    solved_paths,
    trainable,
    truncated_start,
)
from tutorial_lib.metrics import sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, convergence_order, denoiser_for
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, ddpm, dpm_solver_pp_2m, last, trajectory
from tutorial_lib.schedules import edm, flow, trailing_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, posterior_std

MU, V = 0.7, 0.3
GAUSSIAN = Gaussian(torch.full((2,), MU, dtype=torch.float64), V * torch.eye(2, dtype=torch.float64))
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[-1.0, 0.4], [0.8, -0.2]], dtype=torch.float64),
    torch.stack([0.1 * torch.eye(2), 0.3 * torch.eye(2)]).double(),
)


def draw(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def squares(error):
    return error.square().flatten(1).mean(1)


def gaussian_answer(schedule, t):
    """(slope, offset) of E[z_0 | z] for N(MU, V), typed here."""
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    gain = alpha * V / (alpha**2 * V + sigma**2)
    return gain, MU - gain * alpha * MU


def then(first, second):
    """The affine map `second` after `first`."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def ddim_map(schedule, answer, t, s):
    """(slope, offset) of a DDIM step from t to s with the answer (slope, offset): alpha_s z_0 + sigma_s eps."""
    (a_t, s_t), (a_s, s_s) = ((schedule.alpha(x).item(), schedule.sigma(x).item()) for x in (t, s))
    return (
        a_s * answer[0] + s_s * (1 - a_t * answer[0]) / s_t,
        a_s * answer[1] - s_s * a_t * answer[1] / s_t,
    )


def end_of_flow(schedule, z, t):
    """The consistency function of N(MU, V): mu + sqrt(v / (v + S^2)) (z / alpha - mu) with S = sigma / alpha.

    Written with alpha times everything, so that it also holds in pure noise.
    """
    alpha, sigma = (torch.as_tensor(f(t)).reshape(-1, 1) for f in (schedule.alpha, schedule.sigma))
    return MU + math.sqrt(V) * (z - alpha * MU) / (alpha**2 * V + sigma**2).sqrt()


def fitted(target, z):
    """(slope, offset) of the least-squares affine student of target(z), one number to one number."""
    points = torch.stack([z.flatten(), torch.ones_like(z.flatten())], 1)
    found = torch.linalg.lstsq(points, target.flatten()[:, None]).solution
    return found[0, 0].item(), found[1, 0].item()


# ------------------------------------------------------------------------------------------------- trainable students


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z, level, cond=None):
        return self.layer(z) * level.view(-1, 1, 1, 1).tanh()


@every_schedule
def test_a_trainable_student_is_the_network_denoiser_and_learns(schedule):
    network = Small()
    z = draw(3, 3, 5, 6).float()
    for t in (1.0, torch.tensor([0.2, 0.5, 0.9])):
        answer = trainable(network, schedule)(z, t)
        torch.testing.assert_close(answer, NetworkDenoiser(network, "v", schedule)(z, t))
    answer.sum().backward()
    assert network.layer.weight.grad.abs().max() > 0
    assert not NetworkDenoiser(network, "v", schedule)(z, 0.5).requires_grad


@every_schedule
def test_the_boundary_holds_whatever_the_network_says(schedule):
    z = draw(3, 3, 5, 6)
    torch.testing.assert_close(trainable(Small(), schedule)(z, 0.0), z / schedule.alpha(0.0), atol=1e-12, rtol=0)


def test_pseudo_huber_is_a_square_near_zero_and_an_absolute_value_far_from_it():
    error = draw(4, 1, 3, 5)
    small, large = pseudo_huber(1e-4 * error, 0.1), pseudo_huber(1e4 * error, 0.1)
    torch.testing.assert_close(small, 1e-8 * error.square().mean((1, 2, 3)) / 0.2, rtol=1e-5, atol=0)
    torch.testing.assert_close(large, 1e4 * error.abs().mean((1, 2, 3)), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="c must be a positive number"):
        pseudo_huber(error, 0.0)


# ------------------------------------------------------------------------------------------- progressive distillation


def landing(target, schedule, t, s, middle=None):
    """How far one DDIM step with target(...) ends from the teacher's two."""
    teacher, z = denoiser_for(MIXTURE, schedule), draw(6, 2)
    m = (t + s) / 2 if middle is None else middle
    halfway = ddim_step(z, teacher(z, t), schedule, t, m)
    two = ddim_step(halfway, teacher(halfway, m), schedule, m, s)
    one = ddim_step(z, target(teacher, schedule, z, t, s, middle), schedule, t, s)
    return (one - two).abs().max().item()


@every_schedule
@pytest.mark.parametrize(("t", "s", "middle"), [(0.8, 0.4, None), (0.5, 0.0, None), (0.9, 0.2, 0.3), (1.0, 0.5, None)])
def test_one_step_with_the_target_lands_where_two_steps_do(schedule, t, s, middle):
    assert landing(progressive_target, schedule, t, s, middle) < 1e-11


def swapped(teacher, schedule, z, t, s, middle):
    """The public bug: t - 1/N and t - 1/(2 N) the wrong way round."""
    m = (t + s) / 2
    z_m = ddim_step(z, teacher(z, t), schedule, t, s)
    z_s = ddim_step(z_m, teacher(z_m, s), schedule, s, m)
    ratio = schedule.sigma(s) / schedule.sigma(t)
    return (z_s - ratio * z) / (schedule.alpha(s) - ratio * schedule.alpha(t))


def transposed(teacher, schedule, z, t, s, middle):
    """The long step's two times the wrong way round in the coefficients."""
    m = (t + s) / 2
    z_m = ddim_step(z, teacher(z, t), schedule, t, m)
    z_s = ddim_step(z_m, teacher(z_m, m), schedule, m, s)
    ratio = schedule.sigma(t) / schedule.sigma(s)
    return (z_s - ratio * z) / (schedule.alpha(t) - ratio * schedule.alpha(s))


def asked_at_the_old_time(teacher, schedule, z, t, s, middle):
    m = (t + s) / 2
    return progressive_target(lambda z, time: teacher(z, t), schedule, z, t, s, m)


@pytest.mark.parametrize("mutant", [swapped, transposed, asked_at_the_old_time])
def test_mutants_of_the_target_land_elsewhere(mutant):
    assert landing(mutant, vp_cosine(), 0.8, 0.4) > 1e-2


def test_times_may_differ_between_samples():
    schedule = vp_cosine()
    teacher, z = denoiser_for(MIXTURE, schedule), draw(3, 2)
    t, s = torch.tensor([1.0, 0.6, 0.3]), torch.tensor([0.5, 0.4, 0.0])
    together = progressive_target(teacher, schedule, z, t, s)
    for i in range(3):
        alone = progressive_target(teacher, schedule, z[i : i + 1], t[i].item(), s[i].item())
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", [vp_cosine(), vp_linear(), flow(), edm(20.0)])
def test_the_target_of_gaussian_data_is_two_ddim_maps_in_one(schedule):
    t, m, s = 0.9, 0.6, 0.3
    z = draw(50, 2)
    slope, offset = fitted(progressive_target(denoiser_for(GAUSSIAN, schedule), schedule, z, t, s), z)
    both = then(
        ddim_map(schedule, gaussian_answer(schedule, t), t, m), ddim_map(schedule, gaussian_answer(schedule, m), m, s)
    )
    assert ddim_map(schedule, (slope, offset), t, s) == pytest.approx(both, abs=1e-10)


def test_three_rounds_of_students_walk_in_one_step_where_the_teacher_takes_eight():
    """Every student is the least-squares affine map at each of its times; each round halves the steps."""
    schedule = vp_cosine()
    teacher, z = denoiser_for(GAUSSIAN, schedule), draw(40, 2)
    expected = last(ddim(teacher, schedule, z, torch.linspace(1, 0, 9, dtype=torch.float64)))
    walker = teacher
    for n in (4, 2, 1):
        times = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        table = {}
        for t, s in itertools.pairwise(times.tolist()):
            probes = draw(20, 2, seed=n)
            table[t] = fitted(progressive_target(walker, schedule, probes, t, s), probes)
        walker = lambda z, t, table=table: table[float(t)][0] * z + table[float(t)][1]  # noqa: E731
        torch.testing.assert_close(last(ddim(walker, schedule, z, times)), expected, atol=1e-10, rtol=0)


def test_the_loss_weighs_by_the_truncated_snr_and_averages_over_each_sample():
    schedule = vp_cosine()
    teacher, z_0 = denoiser_for(MIXTURE, schedule), draw(2, 2)
    t, s = torch.tensor([0.9, 0.2], dtype=torch.float64), torch.tensor([0.5, 0.1], dtype=torch.float64)
    noise = draw(2, 2, seed=1)
    z = schedule.alpha(t)[:, None] * z_0 + schedule.sigma(t)[:, None] * noise
    error = progressive_target(teacher, schedule, z, t, s)
    found = progressive_loss(lambda z, t: 0 * z, teacher, schedule, z_0, t, s, lambda like: noise)
    snr = (schedule.alpha(0.2) / schedule.sigma(0.2)) ** 2
    assert snr > 2
    torch.testing.assert_close(found, torch.stack([torch.ones_like(snr), snr]) * squares(error))


def test_the_progressive_loss_is_least_at_the_composed_map():
    schedule, (t, s) = vp_cosine(), (0.8, 0.4)
    teacher, z_0 = denoiser_for(GAUSSIAN, schedule), GAUSSIAN.sample(200)
    probes = draw(20, 2)
    slope, offset = fitted(progressive_target(teacher, schedule, probes, t, s), probes)

    def loss(a, b):
        student = lambda z, time: a * z + b  # noqa: E731
        return progressive_loss(student, teacher, schedule, z_0, t, s, standard_normal(0)).mean().item()

    assert loss(slope, offset) < 1e-20
    assert all(loss(slope + a, offset + b) > 1e-5 for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)))


# ------------------------------------------------------------------------------------------- consistency distillation


@every_schedule
def test_the_closed_form_is_where_the_flow_of_gaussian_data_ends(schedule):
    """The tests' own oracle: it must agree with a fine numerical walk, from pure noise too."""
    t = 1.0
    z = draw(5, 2) * schedule.sigma(t)
    times = torch.linspace(0, 1, 401, dtype=torch.float64).flip(0)
    times = times.square() if schedule.alpha(1.0) == 1 else times
    walked = last(dpm_solver_pp_2m(denoiser_for(GAUSSIAN, schedule), schedule, z, times))
    torch.testing.assert_close(end_of_flow(schedule, z, t), walked, atol=2e-2, rtol=0)


@pytest.mark.parametrize("schedule", [vp_cosine(), vp_linear(), flow(), edm(20.0)])
@pytest.mark.parametrize(("order", "local"), [(1, 2), (2, 3)])
def test_one_step_of_the_flow_errs_with_its_order(schedule, order, local):
    """From the closed form's own points: an error per step of h^2 with DDIM, h^3 with the mean of both ends."""
    z = draw(5, 2) * schedule.sigma(0.6)
    truth = end_of_flow(schedule, z, 0.6)

    def error(n):
        z_s = flow_step(denoiser_for(GAUSSIAN, schedule), schedule, z, 0.6, 0.6 - 0.6 / n, order)
        return (end_of_flow(schedule, z_s, 0.6 - 0.6 / n) - truth).abs().max().item()

    assert convergence_order(error, (80, 160, 320)) == pytest.approx(local, abs=0.15)


@every_schedule
@pytest.mark.parametrize("order", [1, 2])
def test_the_exact_map_agrees_with_its_own_target(schedule, order):
    n = 400
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    z = draw(7, 2) * schedule.sigma(t)[:, None] + schedule.alpha(t)[:, None] * MU
    exact = lambda z, t: end_of_flow(schedule, z, t)  # noqa: E731
    target = consistency_target(exact, denoiser_for(GAUSSIAN, schedule), schedule, z, t, t - 1 / n, order)
    torch.testing.assert_close(target, exact(z, t), atol=2e-3 if order == 1 else 5e-5, rtol=0)


def learned_map(schedule, n, order, boundary=True):
    """A consistency student on n even steps, one least-squares affine map per time, learned from 0 upwards: each target
    is made of the map one step below it. Returns the map at the noisiest time."""
    times = torch.linspace(0, 0.9, n + 1, dtype=torch.float64).tolist()
    table = {0.0: (1.0, 0.0) if boundary else (0.9, 0.2)}
    teacher, probes = denoiser_for(GAUSSIAN, schedule), draw(20, 2)
    for s, t in itertools.pairwise(times):
        student = lambda z, time: table[float(time)][0] * z + table[float(time)][1]  # noqa: E731
        table[t] = fitted(consistency_target(student, teacher, schedule, probes, t, s, order), probes)
    return table[times[-1]], times


def test_a_student_learned_with_ddim_is_the_product_of_the_ddim_maps():
    schedule = vp_cosine()
    found, times = learned_map(schedule, 12, 1)
    product = (1.0, 0.0)
    for s, t in reversed(list(itertools.pairwise(times))):
        product = then(product, ddim_map(schedule, gaussian_answer(schedule, t), t, s))
    assert found == pytest.approx(product, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_finer_grids_learn_the_closed_form(order):
    schedule = vp_cosine()
    alpha, sigma = schedule.alpha(0.9).item(), schedule.sigma(0.9).item()
    slope = math.sqrt(V / (alpha**2 * V + sigma**2))

    def error(n):
        return abs(learned_map(schedule, n, order)[0][0] - slope)

    assert error(160) < (2e-2 if order == 1 else 2e-3)
    assert error(160) < 0.6 * error(80)


def test_a_student_that_is_wrong_at_0_does_no_harm():
    """The boundary: at sigma = 0 the target is the state itself, whoever the target student is."""
    schedule = vp_cosine()
    assert learned_map(schedule, 6, 2)[0] == pytest.approx(learned_map(schedule, 6, 2, boundary=False)[0], abs=1e-12)
    z, t, s = draw(3, 2), torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.0, 0.2, 0.0])
    teacher = denoiser_for(GAUSSIAN, schedule)
    target = consistency_target(lambda z, t: torch.full_like(z, 9.0), teacher, schedule, z, t, s, 1)
    assert (target[1] == 9).all()
    torch.testing.assert_close(target[[0, 2]], ddim_step(z, teacher(z, t), schedule, t, s)[[0, 2]])


def test_at_0_the_target_student_is_not_asked():
    schedule = vp_cosine()
    student, teacher = count_calls(torch.zeros_like), count_calls(denoiser_for(GAUSSIAN, schedule))
    consistency_target(student, teacher, schedule, draw(3, 2), 0.5, 0.0)
    assert (student.calls, teacher.calls) == (0, 1)


def consistency_gradient(target):
    """d loss / d slope of an affine student that is its own target student."""
    schedule = vp_cosine()
    slope = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    student = lambda z, t: slope * z  # noqa: E731
    teacher, z_0 = denoiser_for(GAUSSIAN, schedule), draw(8, 2)
    z = schedule.alpha(0.7) * z_0 + schedule.sigma(0.7) * draw(8, 2, seed=1)
    loss = squares(student(z, 0.7) - target(student, teacher, schedule, z, 0.7, 0.5)).mean()
    return torch.autograd.grad(loss, slope)[0].item(), (teacher, schedule, z_0, student)


def test_no_gradient_flows_through_the_target():
    found, (teacher, schedule, z_0, student) = consistency_gradient(consistency_target)
    frozen, _ = consistency_gradient(lambda _, *rest: consistency_target(lambda z, t: 0.4 * z, *rest))

    def unstopped(student, teacher, schedule, z, t, s):
        return student(flow_step(teacher, schedule, z, t, s), s)

    assert found == pytest.approx(frozen, rel=1e-9)
    assert abs(consistency_gradient(unstopped)[0] - frozen) > 0.1 * abs(frozen)
    noise = draw(8, 2, seed=1)
    loss = consistency_loss(student, student, teacher, schedule, z_0, 0.7, 0.5, lambda like: noise, distance=squares)
    slope = student(torch.ones(1, dtype=torch.float64), 0.0)
    assert loss.shape == (8,) and slope.requires_grad
    loss.mean().backward()


def test_the_consistency_loss_is_least_at_the_learned_map():
    schedule, (t, s) = vp_cosine(), (0.5, 0.45)
    teacher, z_0 = denoiser_for(GAUSSIAN, schedule), GAUSSIAN.sample(200)
    below = lambda z, t: end_of_flow(schedule, z, t)  # noqa: E731
    probes = draw(20, 2)
    slope, offset = fitted(consistency_target(below, teacher, schedule, probes, t, s), probes)

    def loss(a, b):
        student = lambda z, time: a * z + b  # noqa: E731
        return consistency_loss(student, below, teacher, schedule, z_0, t, s, standard_normal(0)).mean().item()

    assert loss(slope, offset) < 1e-15
    assert all(loss(slope + a, offset + b) > 1e-5 for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)))


@pytest.mark.parametrize("name", ends_in_pure_noise)
def test_targets_leave_pure_noise(name):
    schedule = BUILT[name]
    z, teacher = draw(4, 2), denoiser_for(GAUSSIAN, schedule)
    exact = lambda z, t: end_of_flow(schedule, z, t)  # noqa: E731
    for s in (0.5, 0.0):
        assert consistency_target(exact, teacher, schedule, z, 1.0, s).isfinite().all()
        assert progressive_target(teacher, schedule, z, 1.0, s).isfinite().all()


def test_solved_paths_hold_every_state_and_no_graph():
    schedule, times = vp_cosine(), uniform_times(5)
    teacher, z = denoiser_for(MIXTURE, schedule), draw(3, 2).requires_grad_()
    paths = solved_paths(teacher, schedule, z, times)
    assert paths.shape == (3, 6, 2) and not paths.requires_grad
    states = trajectory(dpm_solver_pp_2m(teacher, schedule, z.detach(), times))
    for i, state in enumerate(states):
        assert torch.equal(paths[:, i], state.z)


# ------------------------------------------------------------------------------------------------- sampling by jumps


@every_schedule
@pytest.mark.parametrize("n", [1, 2, 4])
def test_jumps_of_the_exact_map_have_the_law_of_the_data(schedule, n):
    """From the law of z at the start, N(alpha mu, alpha^2 v + sigma^2), every jump ends in N(mu, v) exactly."""
    times = trailing_times(n)
    alpha, sigma = schedule.alpha(1.0), schedule.sigma(1.0)

    def run(noise):
        z = alpha * MU + (alpha**2 * V + sigma**2).sqrt() * noise(torch.zeros(1, 2, dtype=torch.float64))
        return last(consistency_sample(lambda z, t: end_of_flow(schedule, z, t), schedule, z, times, noise))

    mean, covariance = affine_law(run, 2)
    torch.testing.assert_close(mean, torch.full((2,), MU, dtype=mean.dtype), atol=1e-8, rtol=0)
    torch.testing.assert_close(covariance, V * torch.eye(2, dtype=mean.dtype), atol=1e-8, rtol=0)


def test_ddim_steps_with_a_consistency_model_do_not():
    schedule = vp_cosine()

    def run(noise):
        z = noise(torch.zeros(1, 2, dtype=torch.float64))
        return last(ddim(lambda z, t: end_of_flow(schedule, z, t), schedule, z, trailing_times(4)))

    _, covariance = affine_law(run, 2)
    assert abs(covariance[0, 0].item() - V) > 1e-2


def test_one_jump_is_the_students_answer_and_n_steps_are_n_calls():
    schedule = vp_cosine()
    student = count_calls(lambda z, t: 0.5 * z + t)
    z = draw(3, 1, 4, 5)
    assert torch.equal(last(consistency_sample(student, schedule, z, trailing_times(1))), 0.5 * z + 1)
    assert student.calls == 1
    states = trajectory(consistency_sample(student, schedule, z, trailing_times(4)))
    assert student.calls == 5 and [s.t.item() for s in states] == trailing_times(4).tolist()
    again = trajectory(consistency_sample(student, schedule, z, trailing_times(4)))
    assert torch.equal(states[-1].z, again[-1].z)


def test_a_grid_that_does_not_end_at_0_leaves_noise():
    schedule = vp_cosine()
    z, noise = draw(3, 2), draw(3, 2, seed=1)
    end = last(consistency_sample(lambda z, t: 0.5 * z, schedule, z, torch.tensor([1.0, 0.5]), lambda like: noise))
    torch.testing.assert_close(end, schedule.alpha(0.5) * 0.5 * z + schedule.sigma(0.5) * noise)


def test_the_shipped_student_beats_its_teacher_at_few_calls():
    """Distance of 96 samples to 96 fresh faces: one call of the student against four DDIM calls of the teacher."""
    schedule, z = vp_cosine(), draw(96, 3, 32, 32).float()
    teacher, student = (NetworkDenoiser(load_pretrained(f"faces-{name}-32")) for name in ("unconditional", "distilled"))
    true = faces(96, 32, seed=1).images

    def away(states):
        images = ((states + 1) / 2).clamp(0, 1)
        return sliced_wasserstein(list(images.split(1)), list(true.split(1))).item()

    one = away(last(consistency_sample(student, schedule, z, trailing_times(1))))
    assert one < 0.6 * away(last(ddim(teacher, schedule, z, trailing_times(4))))


# ----------------------------------------------------------------------------------------------------- truncated start


@every_schedule
def test_a_truncated_start_has_the_law_of_the_noised_guess(schedule):
    guess = draw(1, 2)
    mean, covariance = affine_law(lambda noise: truncated_start(guess, schedule, 0.4, noise), 2)
    torch.testing.assert_close(mean, schedule.alpha(0.4) * guess[0])
    torch.testing.assert_close(covariance, schedule.sigma(0.4) ** 2 * torch.eye(2, dtype=mean.dtype))


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_error_of_a_guess_shrinks_by_the_product_of_the_steps(t):
    """With the same noise two guesses end a fixed factor apart: alpha_t times every step's slope, in closed form, and
    less than 1. A later start forgets more of the guess."""
    schedule = vp_cosine()
    teacher, times = denoiser_for(GAUSSIAN, schedule), torch.linspace(t, 0, 51, dtype=torch.float64)
    one, other = draw(1, 2), draw(1, 2, seed=1)

    def end(guess, run):
        return last(run(teacher, schedule, truncated_start(guess, schedule, t, standard_normal(3)), times))

    product = random = schedule.alpha(t).item()
    for a, b in itertools.pairwise(times.tolist()):
        product *= ddim_map(schedule, gaussian_answer(schedule, a), a, b)[0]
        (a_a, s_a), (a_b, s_b) = ((schedule.alpha(x).item(), schedule.sigma(x).item()) for x in (a, b))
        kept = (s_b / s_a) ** 2 * a_a / a_b  # the posterior's weight of z_t
        random *= kept + a_b * (1 - (a_a * s_b / (a_b * s_a)) ** 2) * gaussian_answer(schedule, a)[0]
    torch.testing.assert_close(end(one, ddim) - end(other, ddim), product * (one - other), atol=1e-10, rtol=0)
    noisy = lambda *run: ddpm(*run, noise=standard_normal(4))  # noqa: E731
    torch.testing.assert_close(end(one, noisy) - end(other, noisy), random * (one - other), atol=1e-10, rtol=0)
    exact = schedule.alpha(t) * math.sqrt(V) / (schedule.alpha(t) ** 2 * V + schedule.sigma(t) ** 2).sqrt()
    assert product == pytest.approx(exact.item(), abs=0.02)
    assert random < product < 1


def test_a_truncated_start_refuses_times_outside():
    for t in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="t must be a time above 0"):
            truncated_start(draw(1, 2), vp_cosine(), t, standard_normal(0))


# ------------------------------------------------------------------------------------------------------- the best grid


def brute_force(cost, n):
    ways = itertools.combinations(range(1, len(cost) - 1), n - 1)
    return min(sum(cost[i][j].item() for i, j in itertools.pairwise((0, *inner, len(cost) - 1))) for inner in ways)


@pytest.mark.parametrize("seed", range(5))
def test_best_times_is_the_best_of_all_ways(seed):
    cost = torch.rand(8, 8, generator=Generator().manual_seed(seed), dtype=torch.float64)
    cost[0, 7] = math.inf if seed % 2 else cost[0, 7]
    for n in range(2 if seed % 2 else 1, 8):
        indices, total = best_times(cost, n)
        assert indices[0] == 0 and indices[-1] == 7 and len(indices) == n + 1 and (indices.diff() > 0).all()
        assert total == pytest.approx(brute_force(cost, n), abs=1e-12)
        assert total == pytest.approx(
            sum(cost[i, j].item() for i, j in itertools.pairwise(indices.tolist())), abs=1e-12
        )


def test_what_is_no_step_forward_is_not_looked_at():
    cost = torch.rand(6, 6, generator=Generator().manual_seed(0))
    spoiled = torch.where(torch.ones(6, 6).triu(1) > 0, cost, torch.nan)
    assert torch.equal(best_times(cost, 3)[0], best_times(spoiled, 3)[0])


def test_known_costs_have_known_grids():
    """The cost (distance)^2 is least for even steps."""
    places = torch.arange(13.0)
    indices, total = best_times((places - places[:, None]) ** 2, 4)
    assert indices.tolist() == [0, 3, 6, 9, 12] and total == 36


def test_elbo_costs_are_the_divergences_between_posteriors():
    """KL(N(m, s^2) || N(m', s^2)) = (m - m')^2 / (2 s^2), with the means of DDPM's step for the truth and the guess."""
    schedule, times = vp_cosine(), torch.tensor([0.95, 0.7, 0.4, 0.1], dtype=torch.float64)
    z_0, z, zero = draw(1, 3), draw(1, 3, seed=2), torch.zeros_like
    guesses = draw(4, 3, seed=1)
    costs = elbo_costs(schedule, times, (z_0 - guesses).square().sum(1))
    for i, j in itertools.combinations(range(4), 2):
        t, s = times[i], times[j]
        right = ddim_step(z, z_0, schedule, t, s, 1.0, zero)
        away = right - ddim_step(z, guesses[i : i + 1], schedule, t, s, 1.0, zero)
        expected = away.square().sum() / (2 * posterior_std(schedule, t, s) ** 2)
        assert costs[i, j].item() == pytest.approx(expected.item(), rel=1e-9)
    assert costs.tril().isinf().sum() == 10


# --------------------------------------------------------------------------------------------------------- clear words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, s, z: progressive_target(d, s, z, 0.4, 0.6), "t > middle > s"),
        (lambda d, s, z: progressive_target(d, s, z, 0.6, 0.4, 0.7), "t > middle > s"),
        (lambda d, s, z: progressive_target(d, s, z, 1.2, 0.4), "1 >= t"),
        (lambda d, s, z: consistency_target(d, d, s, z, 0.4, 0.4), "t > s"),
        (lambda d, s, z: consistency_target(d, d, s, z, 0.4, 0.2, 3), "order must be 1 or 2"),
        (lambda d, s, z: consistency_sample(d, s, z, torch.tensor([0.2, 0.4])), "times must decrease"),
        (lambda d, s, z: elbo_costs(s, torch.tensor([0.5, 0.0]), torch.ones(2)), "stay where sigma > 0"),
        (lambda d, s, z: elbo_costs(s, torch.tensor([0.5, 0.2]), torch.ones(3)), "lists of the same length"),
        (lambda d, s, z: best_times(torch.ones(2, 3), 1), "shape"),
        (lambda d, s, z: best_times(torch.ones(4, 4), 4), "n must be at most 3"),
        (lambda d, s, z: best_times(torch.ones(4, 4), 0), "n must be a whole number"),
        (lambda d, s, z: best_times(torch.full((4, 4), torch.inf), 2), "no way of 2 steps"),
        (lambda d, s, z: best_times(torch.full((4, 4), torch.nan), 2), "NaN"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    schedule = vp_cosine()
    with pytest.raises(ValueError, match=message):
        call(denoiser_for(GAUSSIAN, schedule), schedule, draw(2, 2))
