"""What a run of an agent is."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DataConfig:
    """Transitions.

    Attributes:
        gamma: Discount of a step: the agent's own.
        reward_scale, reward_bias: reward * scale + bias, of the data and of the environment alike.
        failure_reward: Of tasks with sparse rewards, after scale and bias: that of a step without success; see
            ``monte_carlo_returns``.
        edge: Largest component of an action that is learned from: at 1 the density of a squashed Gaussian is infinite.
        rows: Observations that the replay of the agent's own episodes has room for.
        batch: Transitions of an update.
        extra: Transitions of the largest reward that are added to every offline batch (OOO).
        chunk: Actions that are chosen at once and carried out one after another, as one long action.
        device: Where transitions are kept: auto (that of the agent), cpu or cuda.
        demonstrations: Whether every episode of a LeRobot dataset without rewards succeeds, rewarded by 1 at its end.
        scale_actions: Whether the actions of a dataset without an environment are brought to [-1, 1]: each component's
            least and largest become the ends. The run's policy acts in the dataset's units (``load_policy``).
        of_another_world: Whether data may be of another environment than the run's, or of the same with other settings
            or bounds of actions.
        mix: Share of the offline data in a batch online; -1 is as much as there is of it.
    """

    gamma: float = 0.99
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    failure_reward: float | None = None
    edge: float = 0.99999
    rows: int = 200_000
    batch: int = 256
    extra: int = 0
    chunk: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    demonstrations: bool = False
    scale_actions: bool = False
    of_another_world: bool = False
    mix: float = 0.5


@dataclass
class RunConfig:
    """How long, and how often what happens.

    Attributes:
        run: Folder of the run.
        seed: Of everything that is drawn.
        offline_updates: On the offline data alone.
        imitation_updates: Of PA-RL's policy on that data, before these.
        online_steps: Of the environment, after these; episodes are finished.
        updates_per_step: Online.
        distil_per_update: How often PA-RL's policy learns for each of these.
        evaluate_every: Updates offline; 0 evaluates at the ends alone.
        evaluate_every_steps: Of the environment online; null is as many as ``evaluate_every`` says.
        evaluation_episodes: Of each evaluation.
        films: Episodes of each evaluation whose videos are kept.
        log_every: Updates.
        checkpoint_every: Updates and episodes. What was collected is on disk before it is learned from.
        device: auto, cpu or cuda.
        mode: How updates run: ``eager``, or replayed from a ``cuda_graph``, where a large GPU would wait for the host.
    """

    run: str = ""
    seed: int = 0
    offline_updates: int = 0
    imitation_updates: int = 0
    online_steps: int = 0
    updates_per_step: float = 1.0
    distil_per_update: float = 1.0
    evaluate_every: int = 0
    evaluate_every_steps: int | None = None
    evaluation_episodes: int = 10
    films: int = 1
    log_every: int = 100
    checkpoint_every: int = 1000
    device: str = "auto"
    mode: Literal["eager", "cuda_graph"] = "eager"
    data: DataConfig = field(default_factory=DataConfig)
