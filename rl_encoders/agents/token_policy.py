"""Large models that write an action down as tokens, one for each component, such as OpenVLA (Kim et al. 2024).

Kim et al., OpenVLA: An Open-Source Vision-Language-Action Model (arXiv 2406.09246). What is needed of a model is what
models of Hugging Face's transformers have: it takes ``input_ids``, ``attention_mask`` and whatever else by name, and
gives ``logits``. Nothing here imports transformers or peft.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_encoders.agents.external_policy import Actions, Arrays, Weights
from vie import VieError

Prompt = Callable[[Arrays], Mapping[str, Tensor]]
"""A model's inputs for B observations, arrays (B, ...) by name, on its device: ``input_ids`` (B, L), ``attention_mask``
(B, L), pixels and so on. All prompts of a call have one length."""


@dataclass(frozen=True)
class ActionTokens:
    """Components of actions as tokens.

    Attributes:
        ids: (n,) of a vocabulary.
        lows: (n,) float64, ascending: where the bin of each token begins. What is below the first belongs to it.
        middles: (n,) float64: what each token means.
    """

    ids: Tensor
    lows: Tensor
    middles: Tensor

    @classmethod
    def of_openvla(cls, vocabulary: int, bins: int = 256) -> "ActionTokens":
        """OpenVLA's: the last tokens of the vocabulary, from its end, for 255 bins of [-1, 1].

        The 256th is for 1 alone, and means what the one before means.

        Args:
            vocabulary: Of the tokenizer (``tokenizer.vocab_size``), without what pads the embeddings.
            bins: Tokens.
        """
        lows = torch.from_numpy(np.linspace(-1, 1, bins))  # PyTorch's rounds otherwise
        middles = (lows[:-1] + lows[1:]) / 2
        return cls(vocabulary - 1 - torch.arange(bins), lows, torch.cat([middles, middles[-1:]]))

    @classmethod
    def evenly(cls, ids: Sequence[int], low: float = -1.0, high: float = 1.0) -> "ActionTokens":
        """Bins of equal width from ``low`` to ``high``, one for each token."""
        edges = torch.linspace(low, high, len(ids) + 1, dtype=torch.float64)
        return cls(torch.tensor(ids), edges[:-1], (edges[:-1] + edges[1:]) / 2)

    def encode(self, actions: Tensor) -> Tensor:
        """Tokens of components, whatever their shape."""
        places = torch.bucketize(actions.double(), self.lows.to(actions.device), right=True) - 1
        return self.ids.to(actions.device)[places.clamp(min=0)]

    def decode(self, places: Tensor) -> Tensor:
        """Components, float32, of places among the tokens, whatever their shape."""
        return self.middles.to(places.device)[places].float()


class TokenPolicy:
    """Samples such a model and teaches it; its methods are what ``ExternalPolicy`` asks for.

    Attributes:
        optimizer: AdamW over the parameters that require gradients, such as LoRA's.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt: Prompt,
        tokens: ActionTokens,
        action_dim: int,
        *,
        lr: float = 2e-5,
        temperature: float = 1.0,
        rows_at_once: int = 16,
        reuse_prompt: bool = True,
    ) -> None:
        """Takes a model on its device.

        Args:
            model: Whose parameters that require gradients are trained; the others are left as they are.
            prompt: What it is asked.
            tokens: Its words for components of actions.
            action_dim: |A|, how many it is to write.
            lr: Learning rate (2e-5 in PA-RL).
            temperature: Of what is drawn.
            rows_at_once: Sequences that go through the model at once; gradients of a larger batch are summed up.
            reuse_prompt: Whether all candidates go on from one pass over the prompt, by the model's key-value cache.
                False for models whose cache takes one sequence alone, as OpenVLA's own code.

        Raises:
            VieError: There is nothing to train.
        """
        self.model, self.prompt, self.tokens, self.action_dim = model, prompt, tokens, action_dim
        self.temperature, self.rows_at_once, self.reuse_prompt = temperature, rows_at_once, reuse_prompt
        trained = list(self.weights().values())
        if not trained:
            raise VieError("no parameter of the model requires a gradient: give it LoRA by peft.get_peft_model")
        self.optimizer = torch.optim.AdamW(trained, lr)

    @torch.no_grad()
    def ask(self, seen: Arrays, count: int) -> Actions:
        """Draws actions by the model's own chances, other words left out.

        Args:
            seen: B observations, (B, ...) by name.
            count: n.

        Returns:
            (B, n, |A|).
        """
        self.model.eval()
        draw = self._drawn_from_cache if self.reuse_prompt else self._drawn_anew
        parts = [draw(self._asked(part), count) for part in _parts(seen, max(1, self.rows_at_once // count))]
        return self.tokens.decode(torch.cat(parts)).unflatten(0, (-1, count)).cpu().numpy()

    def teach(self, seen: Arrays, actions: Actions) -> float:
        """Takes a step of cross-entropy, averaged over tokens, and returns it.

        Args:
            seen: B observations, (B, ...) by name.
            actions: (B, |A|).
        """
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for part in _parts({**seen, "": actions}, self.rows_at_once):
            wanted = self.tokens.encode(torch.from_numpy(np.asarray(part.pop(""), np.float32)))
            asked = self._asked(part)
            wanted = wanted.to(asked["input_ids"].device)
            said = self._logits(asked, wanted)[:, -self.action_dim - 1 : -1]
            loss = F.cross_entropy(said.flatten(0, 1).float(), wanted.flatten()) * len(wanted) / len(actions)
            loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        return total

    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: one for name, one in self.model.named_parameters() if one.requires_grad}

    @torch.no_grad()
    def load_weights(self, weights: Weights) -> None:
        """Takes what ``weights`` gave.

        Raises:
            VieError: They are of a model in which other parameters are trained.
        """
        own = self.weights()
        differ = sorted({*own} ^ {*weights}) or [name for name in own if own[name].shape != weights[name].shape]
        if differ:
            raise VieError(
                f"the checkpoint holds other trained parameters than the model has ({differ[0]}, and {len(differ) - 1} "
                "more): give it the LoRA settings that it was trained with"
            )
        for name, parameter in own.items():
            parameter.copy_(weights[name])

    def _asked(self, seen: Arrays) -> dict[str, Any]:
        asked = dict(self.prompt(seen))
        asked.setdefault("attention_mask", torch.ones_like(asked["input_ids"]))
        if not asked["attention_mask"].all():
            raise VieError("prompts of one call have different lengths: give all observations of a run one instruction")
        return asked

    def _logits(self, asked: Mapping[str, Any], tokens: Tensor) -> Tensor:
        """Of the next words at every place of the prompt and of tokens (B, i) after it: (B, ..., words)."""
        added = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        longer = {name: torch.cat([asked[name], more], dim=1) for name, more in added.items()}
        return self.model(**{**asked, **longer}).logits

    def _drawn_anew(self, asked: dict[str, Any], count: int) -> Tensor:
        rows = {name: one.repeat_interleave(count, dim=0) for name, one in asked.items()}
        places = torch.empty(len(rows["input_ids"]), 0, dtype=torch.long, device=rows["input_ids"].device)
        for _ in range(self.action_dim):
            said = self._logits(rows, self.tokens.ids.to(places.device)[places])
            places = torch.cat([places, self._drawn(said)], dim=1)
        return places

    def _drawn_from_cache(self, asked: dict[str, Any], count: int) -> Tensor:
        out = self.model(**asked, use_cache=True)
        cache, mask = out.past_key_values, asked["attention_mask"].repeat_interleave(count, dim=0)
        if not hasattr(cache, "batch_repeat_interleave"):
            raise VieError(
                f"the model's cache is a {type(cache).__name__}, which cannot be repeated: reuse_prompt=False"
            )
        cache.batch_repeat_interleave(count)
        places = [self._drawn(out.logits[:, -1:].repeat_interleave(count, dim=0))]
        while len(places) < self.action_dim:
            mask = torch.cat([mask, torch.ones_like(places[-1])], dim=1)
            newest = self.tokens.ids.to(mask.device)[places[-1]]
            out = self.model(input_ids=newest, attention_mask=mask, past_key_values=cache, use_cache=True)
            places.append(self._drawn(out.logits))
        return torch.cat(places, dim=1)

    def _drawn(self, logits: Tensor) -> Tensor:
        """Places among the tokens, (B, 1), by the last of logits (B, L, words)."""
        chances = (logits[:, -1, self.tokens.ids.to(logits.device)].float() / self.temperature).softmax(dim=-1)
        return torch.multinomial(chances, 1)


def _parts(seen: Arrays, rows: int) -> Iterator[Arrays]:
    for first in range(0, len(next(iter(seen.values()))), rows):
        yield {name: array[first : first + rows] for name, array in seen.items()}
