"""What the baselines put on a stream."""

from torch import Tensor, nn

from vie import Stream


class HeadedStream(nn.Module):
    """A stream whose pooled features go through a method's own head, in place of the embedding.

    Attributes:
        stream: The stream; its embedding is not trained.
        head: From pooled features (B, num_features) to the output of the method.
    """

    def __init__(self, stream: Stream, head: nn.Module) -> None:
        super().__init__()
        self.stream = stream
        self.head = head
        # A CUDA graph, and training on several devices, refuse parameters that would get no gradient.
        stream.head.requires_grad_(False)

    def forward(self, clip: Tensor) -> Tensor:
        """The head's output in float32 for a normalised clip (B, 3, T, H, W)."""
        output: Tensor = self.head(self.stream.pooled(clip))
        return output.float()
