"""What the critics of all agents share: settings, networks, targets, and what their outputs mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rl_encoders.agents.checks import at_least, one_of, widths
from rl_encoders.agents.draws import draw_members
from rl_encoders.agents.networks import ACTIVATIONS, Activation, Critic
from rl_encoders.agents.values import HLGauss, Scalar
from vie import VieError


@dataclass(frozen=True)
class CriticConfig:
    """Of any agent with critics.

    Attributes:
        gamma: Discount.
        tau: Share of the critics in their targets at every update.
        critic_hidden: Widths of the hidden layers.
        critics: E.
        activation: Of the critics.
        layer_norm: In the critics.
        normalise_features: Whether what enters the critics' last layer has length 1 (OOO).
        action_at_every_layer: Whether the action enters every hidden layer of the critics, not the first alone (PTR).
        critic_lr: Learning rate of the critics and of the encoder that they train.
        bins: Of a histogram of values; None for critics that say the value itself.
        q_low, q_high: Least and largest value there can be: ends of the histogram, bounds of what is learned.
    """

    gamma: float = 0.99
    tau: float = 0.005
    critic_hidden: Sequence[int] = (256, 256)
    critics: int = 2
    activation: Activation = "relu"
    layer_norm: bool = False
    normalise_features: bool = False
    action_at_every_layer: bool = False
    critic_lr: float = 3e-4
    bins: int | None = None
    q_low: float | None = None
    q_high: float | None = None

    def __post_init__(self) -> None:
        """Raises ``VieError`` for values that make no sense."""
        at_least(1, critics=self.critics)
        at_least(2, bins=2 if self.bins is None else self.bins)
        widths(critic_hidden=self.critic_hidden)
        one_of(tuple(ACTIVATIONS), activation=self.activation)
        if self.q_low is not None and self.q_high is not None and self.q_low > self.q_high:
            raise VieError(f"q_low={self.q_low} is above q_high={self.q_high}: give the least value as q_low")


def td_target(reward: Tensor, terminal: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """The target r + gamma (1 - d) V(s'): (B,) of (B,) each; a truncated episode is not terminal."""
    return reward + gamma * (1 - terminal) * next_value


def bounded(value: Tensor, config: CriticConfig) -> Tensor:
    """A value brought between the least and the largest that there can be (OOO)."""
    low, high = config.q_low, config.q_high
    return value if low is None and high is None else value.clamp(low, high)


def some_of(values: Tensor, careful: int | None) -> Tensor:
    """What those critics that count this time say: of (E, ...) drawn anew (careful, ...), or all of them for None."""
    return values if careful is None else values[draw_members(len(values), careful, values.device)]


def make_values(config: CriticConfig) -> Scalar | HLGauss:
    """What the outputs of an agent's critics mean.

    Raises:
        VieError: A histogram has no ends, or no width.
    """
    if config.bins is None:
        return Scalar()
    if config.q_low is None or config.q_high is None or config.q_low == config.q_high:
        raise VieError(f"bins={config.bins} needs the ends of the histogram: give q_low and q_high, and room between")
    return HLGauss(config.q_low, config.q_high, config.bins)


def make_critic(state_dim: int, action_dim: int, config: CriticConfig, outputs: int) -> Critic:
    """Critics of an agent."""
    return Critic(
        state_dim,
        action_dim,
        config.critic_hidden,
        ensemble=config.critics,
        outputs=outputs,
        activation=config.activation,
        layer_norm=config.layer_norm,
        normalise_features=config.normalise_features,
        action_at_every_layer=config.action_at_every_layer,
    )
