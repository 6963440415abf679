"""Conversions between predictions, checked on states whose z_0 and eps are known."""

from __future__ import annotations

import pytest
import torch
from test_schedules import BUILT, every_schedule

from tutorial_lib.denoisers import KINDS, NetworkDenoiser, count_calls, from_z_0, pullback, to_z_0
from tutorial_lib.noise import standard_normal

every_kind = pytest.mark.parametrize("kind", KINDS)


def known(schedule, t, shape=(3, 2, 4, 5), dtype=torch.float64):
    """z_0, eps, z and the true answer of every kind, from the definitions."""
    noise = standard_normal(0)
    z_0, eps = noise(torch.empty(shape, dtype=dtype)), noise(torch.empty(shape, dtype=dtype))
    alpha, sigma = (torch.as_tensor(c).reshape(-1, 1, 1, 1).to(dtype) for c in (schedule.alpha(t), schedule.sigma(t)))
    answers = {"z_0": z_0, "eps": eps, "v": alpha * eps - sigma * z_0, "score": -eps / sigma}
    return z_0, eps, alpha * z_0 + sigma * eps, answers


@every_schedule
@every_kind
@pytest.mark.parametrize(
    "t", [0.02, torch.tensor(0.5), torch.tensor([0.1, 0.5, 0.9])], ids=["float", "0-d", "per sample"]
)
def test_every_kind_leads_to_z_0_and_back(schedule, kind, t):
    z_0, _, z, answers = known(schedule, t)
    torch.testing.assert_close(to_z_0(answers[kind], kind, z, t, schedule), z_0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(from_z_0(z_0, kind, z, t, schedule), answers[kind], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["flow", "vp_cosine", "zero_terminal_snr"])
def test_pure_noise_takes_v_and_z_0_only(name):
    z_0, _, z, answers = known(BUILT[name], 1.0)
    for kind in ("v", "z_0"):
        torch.testing.assert_close(to_z_0(answers[kind], kind, z, 1.0, BUILT[name]), z_0)
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match=f"kind '{kind}' cannot give z_0 where alpha is 0"):
            to_z_0(answers[kind], kind, z, 1.0, BUILT[name])


def test_what_cannot_be_converted_is_refused():
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="kind must be one of .* but 'epsilon' came; did you mean 'eps'"):
        to_z_0(z, "epsilon", z, 0.5, BUILT["flow"])
    with pytest.raises(ValueError, match="output and z must have the same shape"):
        to_z_0(z[:1], "v", z, 0.5, BUILT["flow"])
    with pytest.raises(ValueError, match="does not exist where sigma is 0"):
        from_z_0(z, "eps", z, 0.0, BUILT["flow"])
    with pytest.raises(ValueError, match=r"one number or one per sample, but the shape \(3,\) came for 2 samples"):
        to_z_0(z, "v", z, torch.full((3,), 0.5), BUILT["flow"])


@every_schedule
@every_kind
def test_a_perfect_network_is_a_perfect_denoiser(schedule, kind):
    """inputs, target and the conversion of the output fit together."""
    t = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    z_0, eps, z, _ = known(schedule, t)
    target = NetworkDenoiser(None, kind, schedule).target(z_0, eps, t)
    found = NetworkDenoiser(lambda u, level, cond: target, kind, schedule)(z, t)
    torch.testing.assert_close(found, z_0, rtol=1e-8, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("t", [1e-3, 0.5, 1.0])
def test_unit_variance_data_give_unit_variance_inputs_and_v_targets(schedule, t):
    z_0, eps, z, _ = known(schedule, t, shape=(1, 1, 300, 300))
    denoiser = NetworkDenoiser(None, schedule=schedule)
    five_standard_errors = 5 * (2 / 90_000) ** 0.5
    assert denoiser.kind == "v"
    assert denoiser.inputs(z, t)[0].var().item() == pytest.approx(1, abs=five_standard_errors)
    assert denoiser.target(z_0, eps, t).var().item() == pytest.approx(1, abs=five_standard_errors)


def test_on_alpha_1_it_is_edms_preconditioning():
    schedule, t = BUILT["edm"], 0.01
    sigma = schedule.sigma(t).item()
    z = standard_normal(0)(torch.empty(2, 3, 4, 4, dtype=torch.float64))
    found = NetworkDenoiser(lambda u, level, cond: -torch.tanh(u), "v", schedule)(z, t)
    c_in, c_skip, c_out = (1 + sigma**2) ** -0.5, 1 / (1 + sigma**2), sigma * (1 + sigma**2) ** -0.5
    torch.testing.assert_close(found, c_skip * z + c_out * torch.tanh(c_in * z), rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [0.3, torch.tensor(0.3), torch.tensor([0.3, 0.3])], ids=["float", "0-d", "per sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_gets_float32_a_level_per_sample_and_the_condition(t, dtype):
    seen = []

    def network(u, level, cond):
        seen.append((u, level, cond))
        return u

    z, cond = torch.ones(2, 5, 3, 4, dtype=dtype), torch.ones(2, 1)
    assert NetworkDenoiser(network)(z, t, cond).dtype == dtype
    u, level, given = seen[0]
    assert u.dtype == level.dtype == torch.float32 and level.shape == (2,) and given is cond
    torch.testing.assert_close(level, (BUILT["vp_cosine"].log_snr(t) / 8).float().expand(2))
    NetworkDenoiser(network)(z, 1.0)
    assert seen[1][1].tolist() == [-2.5, -2.5] and seen[1][2] is None


def test_gradients_reach_the_state_and_never_the_weights():
    network = torch.nn.Linear(3, 3)
    denoiser = NetworkDenoiser(lambda u, level, cond: network(u))
    z = torch.ones(2, 3)
    assert not denoiser(z, 0.5).requires_grad
    z.requires_grad_()
    (slope,) = torch.autograd.grad(denoiser(z, 0.5).sum(), z)
    alpha, sigma = BUILT["vp_cosine"].alpha(0.5).float(), BUILT["vp_cosine"].sigma(0.5).float()
    torch.testing.assert_close(slope, (alpha - sigma * network.weight.detach().sum(0)).expand(2, 3))
    with torch.inference_mode():
        assert not denoiser(torch.ones(2, 3), 0.5).requires_grad


def test_a_network_of_the_wrong_shape_or_schedule_is_refused():
    with pytest.raises(ValueError, match="the network's output and z must have the same shape"):
        NetworkDenoiser(lambda u, level, cond: u[:, :1])(torch.ones(2, 3), 0.5)
    with pytest.raises(TypeError, match="schedule must be a Schedule, but a str came"):
        NetworkDenoiser(torch.nn.Identity(), "v", "vp_cosine")
    with pytest.raises(ValueError, match="kind must be one of"):
        NetworkDenoiser(torch.nn.Identity(), "noise")


def bent(z, t, cond=None):
    """A denoiser whose Jacobian is not symmetric: z_0[i] = sin(z[i] + t) + z[i - 1]^2."""
    return (z + torch.as_tensor(t, dtype=z.dtype).view(-1, 1)).sin() + z.roll(1, 1) ** 2


def jacobian(z, t):
    """By hand, (B, D, D)."""
    size = z.shape[1]
    return torch.diag_embed((z + torch.as_tensor(t, dtype=z.dtype).view(-1, 1)).cos()) + 2 * z.roll(1, 1)[
        ..., None
    ] * torch.eye(size, dtype=z.dtype).roll(-1, 1)


@pytest.mark.parametrize("t", [0.3, torch.tensor(0.3), torch.tensor([0.1, 0.8])], ids=["float", "0-d", "per sample"])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_pullback_is_the_transposed_jacobian_of_each_sample(t, context):
    """Asked as often as one likes, and never carrying a graph on."""
    with context():
        z, w = (standard_normal(seed)(torch.empty(2, 4, dtype=torch.float64)) for seed in (0, 1))
        calls = count_calls(bent)
        z_0, back = pullback(calls, z, t.clone() if isinstance(t, torch.Tensor) else t)
        found = [back(w), back(z), back(w)]
    slopes = jacobian(z.clone(), t)
    assert calls.calls == 1 and not z_0.requires_grad and not any(f.requires_grad for f in found)
    torch.testing.assert_close(z_0.clone(), bent(z.clone(), t))
    for answer, given in zip(found, (w, z, w), strict=True):
        expected = torch.einsum("bij,bi->bj", slopes, given.clone())
        torch.testing.assert_close(answer.clone(), expected, rtol=0, atol=1e-13)
        assert (expected - torch.einsum("bij,bj->bi", slopes, given.clone())).abs().max() > 0.1


def test_pullback_takes_a_time_made_under_inference_mode():
    """A denoiser that multiplies by t keeps it for its backward pass, which torch refuses for inference tensors."""
    with torch.inference_mode():
        z, t = torch.ones(2, 3), torch.tensor([0.5, 0.25])
        _, back = pullback(lambda z, t: z * t.view(-1, 1), z, t)
        found = back(2 * z)
    torch.testing.assert_close(found.clone(), torch.tensor([[1.0] * 3, [0.5] * 3]))


def test_pullback_keeps_the_graph_of_a_state_that_has_one():
    """Then J^T w can be differentiated on, its w included; under no_grad nothing is kept even so."""
    z = standard_normal(0)(torch.empty(1, 3, dtype=torch.float64)).requires_grad_()

    def chain(z):
        z_0, back = pullback(bent, z, 0.3)
        return back(z_0)

    torch.testing.assert_close(
        torch.autograd.functional.jacobian(chain, z).flatten(),
        torch.autograd.functional.jacobian(lambda z: (jacobian(z, 0.3)[0].T @ bent(z, 0.3)[0])[None], z).flatten(),
    )
    with torch.no_grad():
        z_0, back = pullback(bent, z, 0.3)
        assert not z_0.requires_grad and not back(z).requires_grad
    assert not z_0.requires_grad and not back(z.detach()).requires_grad


def test_pullback_of_what_has_no_gradient_is_refused():
    weight, z = torch.ones(3, requires_grad=True), torch.ones(2, 3)
    with pytest.raises(ValueError, match="denoiser must be differentiable in z, but its answer carries no gradient"):
        pullback(lambda z, t: z.detach(), z, 0.5)
    with pytest.raises(ValueError, match="denoiser must be differentiable in z, but its answer does not depend on z"):
        pullback(lambda z, t: weight * z.detach(), z, 0.5)[1](z)
    with pytest.raises(ValueError, match="the denoiser's answer and z must have the same shape"):
        pullback(lambda z, t: z[:1], z, 0.5)
    z_0, back = pullback(lambda z, t: weight * z, z, 0.5)
    back(z)
    assert weight.grad is None and not z_0.requires_grad


def test_calls_are_counted_and_the_condition_is_passed_on():
    counted = count_calls(lambda z, t, cond=None: z if cond is None else z + cond)
    assert counted.calls == 0
    z = torch.ones(2, 3)
    assert torch.equal(counted(z, 0.5), z) and torch.equal(counted(z, 0.5, 1), z + 1)
    assert counted.calls == 2
    assert torch.equal(count_calls(lambda z, t: z)(z, 0.5), z)
