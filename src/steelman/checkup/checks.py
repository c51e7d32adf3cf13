"""The checks of a check-up, in their order."""

import torch
from torch import Tensor, nn

from steelman.attacks.core import Access, buffers_kept, check_labels, evaluation_mode, in_training
from steelman.checkup.findings import MASKED, REPLACED, Checkup, Finding, Level
from steelman.checkup.head import HeadReader, head_findings, log_of
from steelman.checkup.labels import Known, label_findings, not_above_chance, percent
from steelman.checkup.reach import reach_findings
from steelman.checkup.slopes import Slopes
from steelman.data.dataset import Data
from steelman.data.sample import sample_order, sampled
from steelman.forward import (
    REJECTED,
    Forward,
    answer_of,
    are_probabilities,
    check_answer,
    classes_of,
    reject_class,
)
from steelman.measures.chance import more_hits
from steelman.norms import L0, Linf, Norm
from steelman.randomness import is_random
from steelman.types import Flags, Images, Labels, Model

TAU = 0.01
"""Shares of images up to this are a note, and no warning."""

EXPECTED = 0.01
"""The level of the test that a normalisation gives more hits."""

NORMALISED = {
    1: [((0.1307,), (0.3081,)), ((0.5,), (0.5,))],
    3: [((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))],
}
"""By channels: the means and standard deviations that MNIST, CIFAR-10 and ImageNet are commonly normalised by."""


def checkup(
    model: Model,
    dataset: Data,
    *,
    images: int = 100,
    batch_size: int = 100,
    seed: int = 0,
    norm: Norm = Linf,
    eps: float | None = None,
) -> Checkup:
    """Check a model on a few images before attacking it: whether it is used as intended, and which access it gives.

    Checked are, as far as the model answers: the images' range; the answer (logits, probabilities, classes; NaN);
    classes against labels; accuracy, also behind the usual normalisations where it is low; train mode; randomness;
    whether an image's answer depends on the others in its batch; cross-entropy lost in rounding (1 - p below the
    precision); gradients that are 0, NaN, vanishing (the next class, by the linear model at the image, further than the
    box is wide) or exploding (nearer than 1/1000 of the box's edge); autograd against finite differences (`Slopes`);
    and, of `nn.Module`s, whether the answer is a saturated or altered form of what the last layer says. With a radius,
    32 images are looked at within it too (`Reach`): whether predictions jump there, whether a step up the gradient
    helps more than a random one, and whether the gradient of attacked images is 0 or contradicts differences.

    model   as for `evaluate`; also one that answers with classes alone. Its mode, gradients and buffers, and torch's
            random state, are left as they were
    images  at most so many (default 100), a sample by class
    batch_size  images at once
    seed    of what is drawn: a jitter of the images, directions, and a random model's own draws
    norm, eps  the threat against which the model will be attacked: Linf (default), L2 or L1 and a radius; default none

    A fault of the model is a finding, not an error, even if the model raises an exception.

    Cost: about 12 forward and 3 gradient passes per image, 3 more where accuracy is low; with a radius, 11 and 2 more
    for 32 images.

    Raises:
        ValueError: no images; images or batch_size below 1; a radius that is not above 0.
    """
    if images < 1 or batch_size < 1:
        raise ValueError(f"a check-up needs images and batch_size of at least 1; got {images} and {batch_size}")
    if eps is not None and not 0 < eps < float("inf"):
        raise ValueError(f"eps is a radius above 0; got {eps}")
    x, y = _some(dataset, images)
    with torch.inference_mode(False), torch.random.fork_rng([x.device] if x.is_cuda else []), buffers_kept(model):
        torch.manual_seed(seed)
        threat = None if eps is None or norm is L0 else (norm, eps)
        check = ModelCheck(model, x.detach().clone(), y, batch_size, seed, Known.of(dataset, y), threat)
        access = check.run()
    return Checkup(tuple(check.findings), access)


def _some(dataset: Data, images: int) -> tuple[Images, Labels]:
    """So many images, a sample by class."""
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    if count == 0:
        raise ValueError("there are no images to check")
    if isinstance(dataset, tuple):
        check_labels("y", dataset[1], dataset[0])
        places = sample_order(dataset[1], torch.arange(count))[:images].sort().values
        return dataset[0][places.to(dataset[0].device)], dataset[1][places.to(dataset[1].device)]
    some = sampled(dataset, images)
    (batch,) = some.batches([torch.arange(len(some))])
    return batch.x, batch.y


class ModelCheck:
    """The checks of one model, which end where it gives no more access."""

    def __init__(
        self,
        model: Model,
        x: Images,
        y: Labels,
        size: int,
        seed: int,
        known: Known,
        threat: tuple[Norm, float] | None = None,
    ) -> None:
        self.model, self.x, self.y, self.size, self.seed, self.known = model, x, y, size, seed, known
        self.threat = threat
        self.findings: list[Finding] = []

    def report(self, name: str, found: str, advice: str = "", level: Level | None = None) -> None:
        """Add a finding; one with advice is a warning, unless its level is given."""
        self.findings.append(Finding(name, found, level or ("warning" if advice else "fine"), advice))

    def ask(self, x: Images, size: int | None = None) -> Tensor:
        with torch.no_grad():
            forward = Forward(self.model)
            answers = [forward(part) for part in x.split(size or self.size)]
            return answers[0] if len(answers) == 1 else torch.cat(answers)

    def run(self) -> Access:
        self._images()
        as_given = self._as_given()
        with evaluation_mode(self.model):
            heads = HeadReader(self.model)
            try:
                with heads.reading():
                    answer = self.ask(self.x)
                check_answer(torch.zeros_like(answer), len(self.x), self.known.highest)  # values are checked later
            except Exception as error:
                advice = "The model has to take these images and answer for these labels"
                self.report("answer", _first_line(error), advice)
                return "decisions"
            scores = self._answer(answer)
            self.findings += head_findings(heads, answer) if scores else ()
            self._accuracy(answer)
            self._mode(as_given, answer)
            if self._deterministic(answer):
                self._neighbours(answer)
            if not scores:
                return "decisions"
            finite = answer.isfinite().all(1)
            return self._gradients(self.x[finite], are_probabilities(answer)) if finite.any() else "scores"

    def _images(self) -> None:
        low, high = (float(end) for end in self.x.aminmax())
        what, advice = "", ""
        if not low <= high:
            what, advice = ": NaN among them", "Evaluation refuses them"
        elif low < 0:
            what = ": normalised already"
            advice = "Attacks act in [0, 1]: give images as they are, and normalise in the model (--mean, --std)"
        elif high > 2:
            what, advice = ": bytes, 0 to 255", "Attacks act in [0, 1]: divide the images by 255"
        elif high > 1:
            what, advice = ": not within 0 and 1", "Attacks act in [0, 1]: bring the images into it"
        found = f"{len(self.x)} of shape {tuple(self.x.shape[1:])}, from {low:.4g} to {high:.4g}"
        self.report("images", found + what, advice)

    def _as_given(self) -> Tensor | None:
        """The answer in train mode, where the model was in it."""
        if not in_training(self.model):
            return None
        try:
            return self.ask(self.x)
        except Exception:  # batch normalisation of a single image; other faults show in evaluation mode
            return torch.full((len(self.x), 1), torch.nan, device=self.x.device)

    def _answer(self, answer: Tensor) -> bool:
        """Whether it has scores."""
        if not answer.is_floating_point():
            self.report("answer", "classes alone", "Only attacks that need no more can be run", "note")
            return False
        classes = f"of {answer.shape[1]} classes"
        broken = ~answer.isfinite().all(1)
        if broken.any():
            found = f"NaN or infinite logits {classes} on {percent(broken)} of the images"
            self.report("answer", found, "Evaluation refuses such answers: look for overflow or log(0)")
        elif are_probabilities(answer) and bool(((answer == 0) | (answer == 1)).all()):
            found = f"1 for one class and 0 for the others, {classes}: a decision and no scores"
            self.report("answer", found, "Return the class as an int64, or the logits")
            return False
        elif are_probabilities(answer):
            advice = "Attacks need logits: return the softmax's input, or at least log p"
            self.report("answer", f"probabilities {classes}", advice, "note")
        else:
            kind = "log-probabilities" if (answer.logsumexp(1).abs() < 1e-4).all() else "logits"
            low, high = (float(end) for end in answer.aminmax())
            self.report("answer", f"{kind} {classes}, from {low:.4g} to {high:.4g}")
        return True

    def _accuracy(self, answer: Tensor) -> None:
        rejected = reject_class(self.model)
        predicted, finite, scores = (
            classes_of(answer, rejected),
            bool(answer.isfinite().all()),
            answer.is_floating_point(),
        )
        right = predicted == self.y
        one = len(predicted) > 1 and len(predicted.unique()) == 1
        self.findings += label_findings(self.known, predicted, self.y)
        if rejected is not None:
            self.report("rejects", f"{percent(predicted == REJECTED)} of the images are rejected unattacked")
        if len(self.y) > 1 and len(self.y.unique()) == 1:
            self.report("labels", f"all are of class {int(self.y[0])}", "Give images of more classes")
            one = False
        better = self._better(right) if finite else None
        more, advice = "", ""
        if finite and one and scores and _same(answer, answer[:1].expand_as(answer), 1e-6).all():
            more, advice = "; the answer is the same for all", "The model is constant"
        elif better is not None:
            more, advice = f"; {better[0]}", f"Perhaps the model expects that: try {better[1]}"
        elif one:
            more = f"; class {int(predicted[0])} is predicted for all"
            advice = "Are its weights loaded, and are images scaled as in training?"
        elif not right.any():
            advice = "No image is left to attack: are labels in the order of the classes?"
        elif not_above_chance(predicted, self.y, self.known.classes):
            more, advice = ", no more than chance", "Are its weights loaded?"
        elif scores and float(right.float().mean()) <= 2 / answer.shape[1] < 1:
            advice = "Hardly more than chance: are its weights loaded?"
        self.report("accuracy", f"{percent(right)} of {len(right)} images are right{more}", advice)

    def _better(self, right: Flags) -> tuple[str, str] | None:
        """A usual normalisation behind which so many more images are right that chance does not explain it.

        McNemar's test by mid-p, one-sided at 1 % over all that are tried.
        """
        if self.x.ndim < 4 or (is_random(self.model) and float(right.float().mean()) > 0.5):
            return None  # what makes images larger makes a random model's noise on them smaller
        channels, ours = self.x.shape[1], right.cpu().numpy()
        tried = [*NORMALISED.get(channels, []), ((0.0,) * channels, (1 / 255,) * channels)]
        if 0.5 ** (1 + int((~right).sum())) >= EXPECTED / len(tried):  # no number of hits more could be significant
            return None
        found: list[tuple[float, str]] = []
        for mean, std in tried:
            shift, scale = (self.x.new_tensor(each).reshape(1, -1, 1, 1) for each in (mean, std))
            try:
                theirs = classes_of(self.ask((self.x - shift) / scale)) == self.y
            except Exception:  # a model may refuse such images
                continue
            if more_hits(theirs.cpu().numpy(), ours) < EXPECTED / len(tried):
                options = " ".join(["--mean", *map("{:g}".format, mean), "--std", *map("{:g}".format, std)])
                found.append((theirs.float().mean().item(), options))
        best = max(found, default=None)
        return None if best is None else (f"{100 * best[0]:.1f} % behind {best[1]}", best[1])

    def _mode(self, as_given: Tensor | None, answer: Tensor) -> None:
        if as_given is None:
            self.report("mode", "evaluation" if isinstance(self.model, nn.Module) else "a callable, which has none")
        elif as_given.shape == answer.shape and _same(as_given, answer).all():
            self.report("mode", "train, which changes nothing; it is evaluated in evaluation mode")
        else:
            differs = "the answer differs"
            if as_given.shape == answer.shape:
                differs = f"the class differs on {percent(classes_of(as_given) != classes_of(answer))} of the images"
            self.report("mode", f"train, where {differs}", "It is evaluated in evaluation mode", "note")

    def _deterministic(self, answer: Tensor) -> bool:
        again = self.ask(self.x)
        other, classes = ~_same(answer, again), classes_of(answer) != classes_of(again)
        found, advice = "a second call gives the same answers", ""
        if other.any():
            found = f"a second call differs on {percent(other)} of the images, in the class on {percent(classes)}"
            advice = "Attack the mean over draws, EOT(attack, samples=30), and judge by several draws"
            if not is_random(self.model):
                advice += ". A class attribute random = True on the module that draws lets evaluations do both"
        self.report("determinism", found, advice)
        return not advice

    def _neighbours(self, answer: Tensor) -> None:
        few = min(len(self.x), 8)
        try:
            alone = self.ask(self.x[:few], size=1)
        except Exception as error:
            self.report("neighbours", f"of an image alone: {_first_line(error)}", "Keep to one batch size", "note")
            return
        other = ~_same(alone, answer[:few], 1e-3)
        if other.any():
            found = f"the answer for an image depends on the others in its batch ({percent(other)} of {few})"
            self.report("neighbours", found, "Is batch normalisation in train mode? Call eval() on the module")
        else:
            self.report("neighbours", "an image's answer does not depend on the others in its batch")

    def _gradients(self, x: Images, probabilities: bool) -> Access:
        def logits(x: Images) -> Tensor:
            found = answer_of(self.model, x)
            return log_of(found) if probabilities else found

        reason = "there is no graph from the image to the answer"
        try:
            slopes = Slopes.of(logits, x, self.size, self.seed)
        except Exception as error:
            slopes, reason = None, _first_line(error)
        if slopes is None:
            self.report("gradient", f"none: {reason}", MASKED, "note")
            return "scores"
        if slopes.lost.any():
            found = f"lost in rounding on {percent(slopes.lost)} of the images, where 1 - p is below the precision"
            advice = "Attacks here climb a scale-free form of it; others need a loss on logits (DLR, Margin)"
            self.report("cross-entropy", found, advice, "note")
        else:
            self.report("cross-entropy", "its gradient is not lost in rounding")
        sharp, zero = ~slopes.finite, slopes.finite & (slopes.length == 0)
        found = f"0 on {percent(zero)} of the images" + f", NaN or infinite on {percent(sharp)}" * bool(sharp.any())
        bad = float((sharp | zero).float().mean())
        self.report("gradient", found, MASKED if bad else "", "note" if 0 < bad <= TAU else None)
        self._lengths(slopes, x)
        self._differences(slopes)
        if self.threat is not None and slopes.repeatable:
            self.findings += reach_findings(logits, x, *self.threat, self.seed)
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
        wrong = ""
        if float(far.float().mean()) > TAU:
            wrong = f"; vanishing: on {percent(far)} of the images it is beyond the box"
        elif float(near.float().mean()) > 0.5:
            wrong = f"; exploding: on {percent(near)} of the images it is nearer than 1/1000 of the box"
        self.report("gradient length", found + wrong, MASKED if wrong else "")

    def _differences(self, slopes: Slopes) -> None:
        if not slopes.repeatable or not slopes.tested.any():
            reason = "no gradient is long enough to be measured by differences"
            reason = reason if slopes.repeatable else "the model is random beyond torch's seed"
            self.report("slopes", f"not compared: {reason}", level="note")
            return
        along, across = slopes.along[slopes.tested], slopes.across[slopes.tested]
        found = (
            f"finite differences differ along the gradient on {percent(along)}, in a random direction on "
            f"{percent(across)} of the images"
        )
        wrong = float(along.float().mean()) > 0.1 or float(across.float().mean()) > 0.25
        self.report("slopes", found, REPLACED if wrong else "")


def _same(first: Tensor, second: Tensor, rtol: float = 1e-4) -> Flags:
    """Image by image, up to rounding in parts of the largest score; NaN equals NaN."""
    if not first.is_floating_point():
        return first == second
    size = second.abs().nan_to_num(0.0, 0.0, 0.0).amax(1, keepdim=True)
    close = (first == second) | ((first - second).abs() <= rtol * size) | (first.isnan() & second.isnan())
    return close.all(1)


def _first_line(error: Exception) -> str:
    lines = str(error).rstrip(".").splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
