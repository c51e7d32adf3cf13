"""What a check-up looks at, one after the other."""

import torch
from torch import Tensor, nn

from steelman.attacks.core.attack import Access
from steelman.attacks.core.mode import evaluation_mode, in_training
from steelman.checkup.finding import Finding, Level
from steelman.checkup.labels import Known, label_findings, not_above_chance
from steelman.checkup.slopes import Slopes
from steelman.forward import Forward, answer_of, are_probabilities, check_answer
from steelman.measures.chance import more_hits
from steelman.types import Flags, Images, Labels, Model

TAU = 0.01
"""Shares of images up to this are told, but no warning."""

EXPECTED = 0.01
"""The level of the test that a normalisation gives more hits."""

NORMALISED = {
    1: [((0.1307,), (0.3081,)), ((0.5,), (0.5,))],
    3: [((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))],
}
"""By channels: the means and standard deviations that MNIST, CIFAR-10 and ImageNet are commonly normalised by."""

MASKED = "Gradient attacks say little there: add ones that need no gradient (HopSkipJump, Square, Surrogate)"


class ModelCheck:
    """The check-up at work: it goes on as far as the model lets it."""

    def __init__(self, model: Model, x: Images, y: Labels, size: int, seed: int, known: Known) -> None:
        self.model, self.x, self.y, self.size, self.seed, self.known = model, x, y, size, seed, known
        self.findings: list[Finding] = []

    def say(self, name: str, found: str, level: Level = "fine", advice: str = "") -> None:
        self.findings.append(Finding(name, found, level, advice))

    def ask(self, x: Images, size: int | None = None) -> Tensor:
        with torch.no_grad():
            forward = Forward(self.model)
            said = [forward(part) for part in x.split(size or self.size)]
            return said[0] if len(said) == 1 else torch.cat(said)

    def go(self) -> Access:
        self._images()
        as_given = self._as_given()
        with evaluation_mode(self.model):
            try:
                answer = self.ask(self.x)
                check_answer(torch.zeros_like(answer), len(self.x), self.known.highest)  # what it holds comes later
            except Exception as error:
                self.say(
                    "answer", _told(error), "warning", "The model has to take these images and answer for these labels"
                )
                return "decisions"
            scores = self._answer(answer)
            self._accuracy(answer)
            self._mode(as_given, answer)
            if self._steady(answer):
                self._neighbours(answer)
            if not scores:
                return "decisions"
            finite = answer.isfinite().all(1)
            return self._gradients(self.x[finite], are_probabilities(answer)) if finite.any() else "scores"

    def _images(self) -> None:
        low, high = (float(end) for end in self.x.aminmax())
        found = f"{len(self.x)} of shape {tuple(self.x.shape[1:])}, from {low:.4g} to {high:.4g}"
        if low >= 0 and high <= 1:
            self.say("images", found)
            return
        if not low <= high:
            what, advice = "NaN among them", "Evaluation refuses them"
        elif low >= 0 and high > 2:
            what, advice = "bytes, 0 to 255", "Attacks act in [0, 1]: divide the images by 255"
        elif low < 0:
            what = "normalised already"
            advice = "Attacks act in [0, 1]: give images as they are, and normalise in the model (--mean, --std)"
        else:
            what, advice = "not within 0 and 1", "Attacks act in [0, 1]: bring the images into it"
        self.say("images", f"{found}: {what}", "warning", advice)

    def _as_given(self) -> Tensor | None:
        """The answer in train mode, where the model was handed over in it."""
        if not in_training(self.model):
            return None
        try:
            return self.ask(self.x)
        except Exception:  # batch normalisation of a single image; what is wrong otherwise is found in evaluation mode
            return torch.full((len(self.x), 1), torch.nan, device=self.x.device)

    def _answer(self, answer: Tensor) -> bool:
        """Whether it has scores."""
        if not answer.is_floating_point():
            self.say("answer", "classes alone", "note", "Only attacks that need no more can be run")
            return False
        classes = f"of {answer.shape[1]} classes"
        broken = ~answer.isfinite().all(1)
        low, high = (float(end) for end in answer.aminmax())
        if broken.any():
            found = f"NaN or infinite logits {classes} on {_share(broken)} of the images"
            self.say("answer", found, "warning", "Evaluation refuses such answers: look for overflow or log(0)")
        elif are_probabilities(answer) and bool(((answer == 0) | (answer == 1)).all()):
            found = f"1 for one class and 0 for the others, {classes}: a decision and no scores"
            self.say("answer", found, "warning", "Return the class as an int64, or the logits")
            return False
        elif are_probabilities(answer):
            advice = "Attacks need logits: return the softmax's input, or at least log p"
            self.say("answer", f"probabilities {classes}", "note", advice)
        else:
            kind = "log-probabilities" if (answer.logsumexp(1).abs() < 1e-4).all() else "logits"
            self.say("answer", f"{kind} {classes}, from {low:.4g} to {high:.4g}")
        return True

    def _accuracy(self, answer: Tensor) -> None:
        predicted, whole = _classes(answer), bool(answer.isfinite().all())
        right = predicted == self.y
        found = f"{_share(right)} of {len(right)} images are right"
        one = len(predicted) > 1 and len(predicted.unique()) == 1
        self.findings += label_findings(self.known, predicted, self.y)
        if len(self.y) > 1 and len(self.y.unique()) == 1:
            self.say("labels", f"all are of class {int(self.y[0])}", "warning", "Give images of more classes")
            one = False
        better = self._better(right) if whole else None
        if whole and one and answer.is_floating_point() and _same(answer, answer[:1].expand_as(answer), 1e-6).all():
            self.say("accuracy", f"{found}; the answer is the same for all", "warning", "The model is constant")
        elif better is not None:
            self.say("accuracy", f"{found}; {better[0]}", "warning", f"Perhaps the model expects that: try {better[1]}")
        elif one:
            advice = "Are its weights loaded, and are images scaled as in training?"
            self.say("accuracy", f"{found}; class {int(predicted[0])} is predicted for all", "warning", advice)
        elif not right.any():
            self.say("accuracy", found, "warning", "Nothing is left to attack: are labels in the order of the classes?")
        elif not_above_chance(predicted, self.y, self.known.classes):
            self.say("accuracy", f"{found}, no more than chance", "warning", "Are its weights loaded?")
        elif answer.is_floating_point() and float(right.float().mean()) <= 2 / answer.shape[1] < 1:
            self.say("accuracy", found, "warning", "Hardly more than chance: are its weights loaded?")
        else:
            self.say("accuracy", found)

    def _better(self, right: Flags) -> tuple[str, str] | None:
        """A usual normalisation behind which so many more images are right that chance does not explain it.

        McNemar's exact test, one-sided at 1 % over all that are tried.
        """
        if self.x.ndim < 4:
            return None
        channels, ours = self.x.shape[1], right.cpu().numpy()
        tried = [*NORMALISED.get(channels, []), ((0.0,) * channels, (1 / 255,) * channels)]
        found: list[tuple[float, str]] = []
        for mean, std in tried:
            shift, scale = (self.x.new_tensor(each).reshape(1, -1, 1, 1) for each in (mean, std))
            try:
                theirs = _classes(self.ask((self.x - shift) / scale)) == self.y
            except Exception:  # a model may refuse such images
                continue
            if more_hits(theirs.cpu().numpy(), ours) < EXPECTED / len(tried):
                options = " ".join(["--mean", *map("{:g}".format, mean), "--std", *map("{:g}".format, std)])
                found.append((theirs.float().mean().item(), options))
        best = max(found, default=None)
        return None if best is None else (f"{100 * best[0]:.1f} % behind {best[1]}", best[1])

    def _mode(self, as_given: Tensor | None, answer: Tensor) -> None:
        if as_given is None:
            self.say("mode", "evaluation" if isinstance(self.model, nn.Module) else "a callable, which has none")
        elif as_given.shape == answer.shape and _same(as_given, answer).all():
            self.say("mode", "train, which changes nothing; it is evaluated in evaluation mode")
        else:
            differs = "the answer differs"
            if as_given.shape == answer.shape:
                differs = f"the class differs on {_share(_classes(as_given) != _classes(answer))} of the images"
            self.say("mode", f"train, where {differs}", "note", "It is evaluated in evaluation mode")

    def _steady(self, answer: Tensor) -> bool:
        again = self.ask(self.x)
        same, classes = _same(answer, again), _classes(answer) == _classes(again)
        if same.all():
            self.say("determinism", "asked twice, it answers the same")
            return True
        self.say(
            "determinism",
            f"asked twice, it answers otherwise on {_share(~same)} of the images, with another class on "
            f"{_share(~classes)}",
            "warning",
            "Attack the mean over draws, EOT(attack, samples=30), and judge by several draws",
        )
        return False

    def _neighbours(self, answer: Tensor) -> None:
        few = min(len(self.x), 8)
        try:
            alone = self.ask(self.x[:few], size=1)
        except Exception as error:
            self.say("neighbours", f"of an image alone: {_told(error)}", "note", "Keep to one batch size")
            return
        same = _same(alone, answer[:few], 1e-3)
        if same.all():
            self.say("neighbours", "an image's answer does not depend on the others in its batch")
        else:
            found = f"the answer for an image depends on the others in its batch ({_share(~same)} of {few})"
            self.say("neighbours", found, "warning", "Is batch normalisation in train mode? Call eval() on the module")

    def _gradients(self, x: Images, probabilities: bool) -> Access:
        def logits(x: Images) -> Tensor:
            found = answer_of(self.model, x)
            return found.clamp(min=torch.finfo(found.dtype).tiny).log() if probabilities else found

        try:
            slopes = Slopes.of(logits, x, self.size, self.seed)
        except Exception as error:
            self.say("gradient", f"none: {_told(error)}", "note", MASKED)
            return "scores"
        if slopes is None:
            self.say("gradient", "none: there is no graph from the image to the answer", "note", MASKED)
            return "scores"
        if slopes.lost.any():
            found = f"lost in rounding on {_share(slopes.lost)} of the images, where 1 - p is below the precision"
            advice = "Attacks here climb a scale-free form of it; others need a loss on logits (DLR, Margin)"
            self.say("cross-entropy", found, "note", advice)
        else:
            self.say("cross-entropy", "its gradient is not lost in rounding")
        sharp, zero = ~slopes.finite, slopes.finite & (slopes.length == 0)
        found = f"0 on {_share(zero)} of the images" + (f", NaN or infinite on {_share(sharp)}" if sharp.any() else "")
        bad = float((sharp | zero).float().mean())
        self.say("gradient", found, "warning" if bad > TAU else "note" if bad else "fine", MASKED if bad else "")
        self._lengths(slopes, x)
        self._lies(slopes)
        return "gradients"

    def _lengths(self, slopes: Slopes, x: Images) -> None:
        there = slopes.finite & (slopes.length > 0)
        if not there.any():
            return
        length, distance = slopes.length[there], slopes.distance[there]
        edge = float(x.amax() - x.amin()) or 1.0
        far, near = distance > edge * x[0].numel() ** 0.5, distance < edge / 1000
        shortest, longest = float(length.min()), float(length.max())
        found = (
            f"from {shortest:.2g} to {longest:.2g} (1 to {longest / shortest:.2g}); the next class is "
            f"{float(distance.median()):.2g} away by the linear model (L2, median)"
        )
        if float(far.float().mean()) > TAU:
            found += f"; vanishing: on {_share(far)} of the images it is beyond the box"
        elif float(near.float().mean()) > 0.5:
            found += f"; exploding: on {_share(near)} of the images it is nearer than 1/1000 of the box"
        else:
            self.say("gradient length", found)
            return
        self.say("gradient length", found, "warning", MASKED)

    def _lies(self, slopes: Slopes) -> None:
        if not slopes.repeatable:
            self.say("slopes", "not compared: the model is random beyond torch's seed", "note")
            return
        if not slopes.tested.any():
            self.say("slopes", "not compared: no gradient is long enough to be measured by differences", "note")
            return
        along, across = slopes.along[slopes.tested], slopes.across[slopes.tested]
        found = (
            f"finite differences differ along the gradient on {_share(along)}, in a random direction on "
            f"{_share(across)} of the images"
        )
        if float(along.float().mean()) > 0.1 or float(across.float().mean()) > 0.25:
            advice = (
                "The gradient is cut, or of a stand-in for a filter: give BPDA a nearer one, and add attacks that need "
                "no gradient (HopSkipJump, Square, Surrogate)"
            )
            self.say("slopes", found, "warning", advice)
        else:
            self.say("slopes", found)


def _share(flags: Flags) -> str:
    return f"{100 * float(flags.float().mean()):.3g} %"


def _classes(answer: Tensor) -> Labels:
    return answer.argmax(1) if answer.is_floating_point() else answer.long()


def _same(first: Tensor, second: Tensor, rtol: float = 1e-4) -> Flags:
    """Image by image, up to rounding in parts of the largest score; NaN is like NaN."""
    if not first.is_floating_point():
        return first == second
    size = second.abs().nan_to_num(0.0, 0.0, 0.0).amax(1, keepdim=True)
    close = (first == second) | ((first - second).abs() <= rtol * size) | (first.isnan() & second.isnan())
    return close.all(1)


def _told(error: Exception) -> str:
    lines = str(error).rstrip(".").splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
