"""Models that answer with less than a network does."""

from collections.abc import Callable
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from steelman.forward import answer_of, lent, logits_of, reject_class


@final
class BlackBox(nn.Module):
    """A model that gives scores or classes, and never a gradient.

    model   a module; or a function of images in [0, 1], a float32 tensor (batch, channels, height, width) on the CPU,
            that answers with scores (batch, classes) or classes (batch,), as a tensor, an array or a list
    answer  "as given" (default), or "decisions": classes alone, of scores the class of the highest

    Raises, when called:
        ValueError: the answer is neither numbers nor classes.
    """

    def __init__(self, model: Callable[[Tensor], Any], answer: Literal["as given", "decisions"] = "as given") -> None:
        super().__init__()
        self.model = model
        self.answer = answer

    @property
    def reject_class(self) -> int | None:
        return reject_class(self.model)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            is_network = isinstance(self.model, nn.Module)
            given = answer_of(self.model, x) if is_network else self.model(lent(x.detach().cpu()))
            try:
                answer = torch.as_tensor(given, device=x.device)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"{self._name()} must answer with scores or classes; got {given!r:.100}") from error
        if not answer.is_floating_point():
            return answer.to(torch.int64)
        return answer.argmax(1) if self.answer == "decisions" and answer.ndim == 2 else answer.to(x.dtype)

    def extra_repr(self) -> str:
        return f"answer={self.answer}" if isinstance(self.model, nn.Module) else f"{self._name()}, answer={self.answer}"

    def _name(self) -> str:
        named = self.model if hasattr(self.model, "__qualname__") else type(self.model)
        return f"{named.__module__}:{named.__qualname__}"


@final
class LogOfProbabilities(nn.Module):
    """log p of a model that answers with probabilities p: logits of the same p, for softmax(log p) = p.

    Probabilities below float32's smallest normal number count as that.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def reject_class(self) -> int | None:
        return reject_class(self.model)

    def forward(self, x: Tensor) -> Tensor:
        answer = logits_of(self.model, x)
        return answer.clamp(min=torch.finfo(answer.dtype).tiny).log()
