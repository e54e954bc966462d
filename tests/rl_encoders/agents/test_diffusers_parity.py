"""The diffusion policy beside Hugging Face's diffusers, where the options meet.

Its scheduler brings the predicted clean action into its range, ours (as PA-RL) what every step gives; its variance is
by default the posterior's ("fixed_small"), ours that of the step ("fixed_large").
"""

import pytest
import torch

from rl_encoders.agents.diffusion import DiffusionHead, cosine_betas

pytest.importorskip("diffusers")

from diffusers import DDPMScheduler

Z, A, B, N = 4, 3, 6, 7


def scheduler(steps):
    return DDPMScheduler(
        steps,
        beta_schedule="squaredcos_cap_v2",
        variance_type="fixed_large",
        clip_sample=False,
        prediction_type="epsilon",
    )


@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_schedule(steps):
    torch.testing.assert_close(cosine_betas(steps).float(), scheduler(steps).betas)


def test_the_loss():
    torch.manual_seed(0)
    policy, theirs = DiffusionHead(Z, A).eval(), scheduler(5)
    state, action, noise, time = torch.randn(B, Z), torch.rand(B, A), torch.randn(B, A), torch.arange(B) % 5
    noisy = theirs.add_noise(action, noise, time)
    found = policy.denoiser(noisy[:, None], time[:, None], state)[:, 0]
    wanted = torch.nn.functional.mse_loss(found, noise) * A  # a sum over components, not a mean
    torch.testing.assert_close(policy.loss_at(state, action, time, noise), wanted)


def test_all_steps_of_sampling():
    policy, theirs = DiffusionHead(Z, A, low=-torch.inf, high=torch.inf).eval(), scheduler(5)
    theirs.set_timesteps(5)
    state = torch.randn(B, Z)
    torch.manual_seed(1)
    action = torch.randn(B, N, A)
    for step in theirs.timesteps.tolist():
        with torch.no_grad():
            noise = policy.denoiser(action, torch.full((B, N), step), state)
        action = theirs.step(noise, step, action).prev_sample
    torch.manual_seed(1)
    torch.testing.assert_close(policy.sample(state, N), action, rtol=1e-4, atol=1e-4)
