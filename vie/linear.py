"""Linear read-out of fixed features."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_readout(
    features: Tensor, labels: Tensor, num_classes: int, penalty: float = 1e-3, iterations: int = 200
) -> torch.nn.Module:
    """Fits multinomial logistic regression on standardised features by full-batch L-BFGS; it draws no random numbers.

    Args:
        features: (N, D) float.
        labels: (N,) in [0, num_classes).
        num_classes: Number of classes.
        penalty: Weight of ||W||^2 / 2 beside the mean cross-entropy.
        iterations: At most.

    Returns:
        A module from features (Q, D) to logits (Q, num_classes).
    """
    readout = _Readout(features, num_classes).to(features.device)
    optimizer = torch.optim.LBFGS(readout.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(readout(features), labels) + penalty * readout.linear.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return readout.eval()


class _Readout(torch.nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", features.std(dim=0).clamp(min=1e-6))
        self.linear = torch.nn.utils.skip_init(torch.nn.Linear, features.shape[1], num_classes)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((features - self.mean) / self.scale)
