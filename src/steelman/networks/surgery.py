"""Changes of a network for a while: which layers learn, frozen batch normalisation, the first layer cut off. And one
that stays: blocks that denoise."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from steelman.data.dataset import Dataset
from steelman.forward import lent, logits_of
from steelman.naming import nearest
from steelman.networks.bounded_relu import BoundedReLU
from steelman.networks.denoising import Denoised, FeatureDenoising
from steelman.networks.filtered import Filtered
from steelman.networks.preprocess import Preprocessed
from steelman.types import Images, Logits

Network = TypeVar("Network", bound=nn.Module)

_WEIGHTED = (_ConvNd, nn.Linear)
_ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, BoundedReLU),
)


@contextmanager
def no_recomputation(model: nn.Module, changed: bool = True) -> Iterator[None]:
    """Within it, gradient checkpointing is refused, if `changed`: if the network is changed for the forward pass alone.

    Checkpointing (torch.utils.checkpoint) runs parts of a network once more in the backward pass. By then modes, flags
    and hooks are restored, so that its gradients would be those of another function.

    Raises:
        ValueError: a part of the network is checkpointed.
    """
    message = (
        f"{type(model).__name__} uses gradient checkpointing, which runs parts of it again in the backward pass; this "
        "method changes how the network runs only for its forward pass. Switch checkpointing off"
    )
    with ExitStack() as stack:
        if changed:
            with suppress(RuntimeError):  # hooks around the whole training, such as save_on_cpu, run nothing again
                stack.enter_context(disable_saved_tensors_hooks(message))
        try:
            yield
        except RuntimeError as error:
            if message in str(error):
                raise ValueError(message) from None
            raise


@contextmanager
def rehearsal(model: nn.Module, data: Dataset) -> Iterator[Images]:
    """Two images; within it, the model is in train mode. Its modes and buffers and torch's generators are restored.

    A defence uses it to refuse, before training, a network whose fault shows in train mode alone.
    """
    x = next(data.batches([torch.arange(min(2, len(data)))])).x.to(next(model.parameters()))
    random = torch.random.fork_rng([x.device] if x.is_cuda else [])
    with _modes_restored(model.modules()), random, borrowed_buffers(model.modules()):
        model.train()
        yield x.repeat(2, *[1] * (x.ndim - 1))[:2]


@contextmanager
def only_trainable(model: nn.Module, layers: Sequence[str] | None) -> Iterator[None]:
    """Within it, of the parameters that require a gradient, only those of the named submodules do.

    layers  names as in `model.named_modules()`, such as "conv1" or "block2.conv1"; those of a `Preprocessed` or
            `Filtered` network need no "network." before them. None changes nothing

    Raises:
        ValueError: there is no such submodule; names the nearest.
    """
    network = _innermost(model)
    chosen = {id(each) for name in layers or () for each in _layer(network, name).parameters()}
    others = [each for each in model.parameters() if layers is not None and id(each) not in chosen]
    with _frozen(others) as changed, no_recomputation(model, changed):
        yield


def batchnorm_layers(model: nn.Module) -> list[nn.Module]:
    """All batch normalisations, of any dimension."""
    return [each for each in model.modules() if isinstance(each, _BatchNorm)]


@contextmanager
def borrowed_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, the buffers of these very modules are copies; afterwards they are the originals, unchanged.

    So graphs that were built outside stay valid when statistics change within, and the other way round.
    """
    own = [(module, name, value) for module in modules for name, value in module.named_buffers(recurse=False)]
    try:
        for module, name, value in own:
            setattr(module, name, value.clone())
        yield
    finally:
        for module, name, value in own:
            setattr(module, name, value)


@contextmanager
def freeze_batchnorm(model: nn.Module) -> Iterator[None]:
    """Within it, batch normalisations use their running statistics and do not learn.
    A call of `model.train()` within it undoes the first of these.
    """
    layers = batchnorm_layers(model)
    training = any(layer.training for layer in layers)
    with _modes_restored(layers), _frozen([each for layer in layers for each in layer.parameters()]) as changed:
        for layer in layers:
            layer.eval()
        with borrowed_buffers(layers), no_recomputation(model, training or changed):
            yield


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[bool]:
    """Within it, none of these requires a gradient. Whether any did."""
    switched = [each for each in parameters if each.requires_grad]
    try:
        for parameter in switched:
            parameter.requires_grad_(False)
        yield bool(switched)
    finally:
        for parameter in switched:
            parameter.requires_grad_(True)


@contextmanager
def _modes_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def denoise(network: Network, after: Sequence[str], *, shape: Sequence[int], similarity: str = "gaussian") -> Network:
    """The same network, with a new `FeatureDenoising` after each of these layers, in place. It answers as before.

    after       names as in `network.named_modules()`, such as "stage1": the paper has one at the end of each stage
    shape       of one image
    similarity  as of `FeatureDenoising`

    The layer NAME is NAME.layer from then on, and its block NAME.block. A state dict without blocks loads too.

    Cost: 1 forward pass on one image.

    Raises:
        ValueError: no layer is named; one does not exist (names the nearest), does not run, or returns no map of an
            even number of channels; a map that is too large.
    """
    if isinstance(after, str) or not after:
        raise ValueError(f'feature denoising needs the names of layers, such as ["conv1"]; got {after!r}')
    layers = {name: _layer(network, name) for name in after}
    with _modes_restored(network.modules()):
        network.eval()
        image = next(network.parameters(), torch.zeros(())).new_zeros(1, *shape)
        maps = {module: output for module, _, output in _calls(network, network, image)}
        blocks = {name: _block_after(name, maps.get(layer), similarity) for name, layer in layers.items()}
    for name in sorted(layers, key=lambda name: -name.count(".")):  # a layer before those that it is in
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, Denoised(layers[name], blocks[name].train(network.training)))
    return network


@torch.no_grad()
def _block_after(name: str, output: Any, similarity: str) -> FeatureDenoising:
    if not isinstance(output, Tensor) or output.ndim != 4:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        returned = "does not run" if output is None else f"returns no map (batch, channels, height, width) but {what}"
        raise ValueError(f"feature denoising cannot follow the layer {name!r}: it {returned}")
    try:
        block = FeatureDenoising(output.shape[1], similarity).to(output)
        block(output)
    except ValueError as error:
        raise ValueError(f"feature denoising cannot follow the layer {name!r}: {error}") from error
    return block


class _Reached(Exception):
    """Raised at the cut, so that the network runs no further."""


@final
class Stem:
    """The front of a network, filters and preprocessing included, up to the output h of the module called `name`.

    stem(x) is h, and runs no further; stem.whole(x) is the logits and h. `split_stem` checks that this is a cut.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.module = _layer(_innermost(model), name)

    def __call__(self, x: Images) -> Tensor:
        outputs: list[Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs.append(output)
            raise _Reached

        with suppress(_Reached), no_recomputation(self.model), _hooked(self.module, stop):
            self.model(lent(x, self.model))
        return self._only(outputs)

    def whole(self, x: Images, *, apart: bool = False) -> tuple[Logits, Tensor]:
        """The logits and h. With `apart`, or where nothing before it learns, h is a leaf: there the graph begins."""
        outputs: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_() if apart or not output.requires_grad else output)
            return outputs[-1]

        with no_recomputation(self.model), _hooked(self.module, keep):
            logits = logits_of(self.model, x)
        return logits, self._only(outputs)

    def _only(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) != 1:
            raise ValueError(f"the layer {self.name!r} ran {len(outputs)} times; a stem ends where a layer runs once")
        return outputs[0]


def split_stem(model: nn.Module, x: Images, after: str | None = None) -> Stem:
    """Cut the first layer off a network, and check on a few images that the rest depends on them through it alone.

    after  the submodule whose output is the cut, such as "conv1" or "layer1.0"; without the "network." of a
           `Preprocessed` one. Default: the first convolution or fully connected layer that runs, with the activation
           module right after it where that is a cut too

    Cost: 2 forward passes and 1 gradient pass on `x`, in evaluation mode; two images are enough.

    Raises:
        ValueError: a compiled or checkpointed network; no such layer; a layer that does not run exactly once, returns
            no tensor, is overwritten in place or is passed by (a skip connection); no layer after it can learn; no
            gradient reaches the images through it. Names a layer that is a cut, where the default one is.
    """
    network = _innermost(model)
    if any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in model.modules()):
        raise ValueError("a compiled network cannot be cut: pass the network before torch.compile")
    with _modes_restored(model.modules()):
        model.eval()
        calls = _calls(model, network, x)
        default = _first_layers(network, calls)
        candidates = default if after is None else [after]
        if not candidates:
            raise ValueError(
                f"{type(network).__name__} has no stem: none of its submodules that run is a convolution or fully "
                "connected layer; name the layer to cut it after"
            )
        problems = {name: _problem(model, network, name, calls, x) for name in dict.fromkeys([*candidates, *default])}
    right = [name for name, problem in problems.items() if problem is None]
    if right and right[0] in candidates:
        return Stem(model, right[0])
    advice = f"cut it after {right[0]!r}" if right else "name another layer to cut it after"
    raise ValueError(
        f"{type(network).__name__} cannot be cut after {candidates[0]!r}: {problems[candidates[0]]}; {advice}"
    )


def _calls(model: nn.Module, network: nn.Module, x: Images) -> list[tuple[nn.Module, Any, Any]]:
    """The submodules of `network` with their inputs and output, in the order in which they end."""
    calls = []
    with ExitStack() as stack, torch.no_grad():
        for module in network.modules():
            if module is not network:
                stack.enter_context(_hooked(module, lambda *call: calls.append(call)))
        model(lent(x, model))
    return calls


def _first_layers(network: nn.Module, calls: list[tuple[nn.Module, Any, Any]]) -> list[str]:
    """The first layer that runs: with the activation right after it, then alone."""
    names = {module: name for name, module in network.named_modules()}
    for place, (module, _, output) in enumerate(calls):
        if isinstance(module, _WEIGHTED):
            later = [(other, inputs) for other, inputs, _ in calls[place + 1 :] if isinstance(other, _ACTIVATIONS)]
            activations = [names[other] for other, inputs in later if inputs and inputs[0] is output]
            return [*activations[:1], names[module]]
    return []


def _problem(
    model: nn.Module, network: nn.Module, name: str, calls: list[tuple[nn.Module, Any, Any]], x: Images
) -> str | None:
    """Why the network cannot be cut there; None when it can."""
    module = _layer(network, name)
    places = [place for place, (each, _, _) in enumerate(calls) if each is module]
    if len(places) != 1:
        return f"it runs {len(places)} times" if places else "it does not run"
    if not isinstance(calls[places[0]][2], Tensor):
        return f"it returns a {type(calls[places[0]][2]).__name__}, not a tensor"
    if not any(each._parameters for each, _, _ in calls[places[0] + 1 :]):
        return "no layer that could learn comes after it"
    ends: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        ends.extend([output, output.detach().requires_grad_()])
        ends.append(ends[1].clone())
        return ends[2]

    raw = x.detach().clone().requires_grad_()
    with torch.enable_grad(), no_recomputation(model), _hooked(module, cut):
        logits = logits_of(model, raw)
    before, leaf, given = ends
    if given._version:
        return "what comes next overwrites its output in place"
    if not logits.requires_grad:
        return "the logits do not depend on it"
    around, through = torch.autograd.grad(logits.sum(), (raw, leaf), allow_unused=True)
    if through is None:
        return "the logits do not depend on it"
    if around is not None:
        return "the logits depend on the images past it too, as by a skip connection"
    slope = torch.autograd.grad(before.sum(), raw, allow_unused=True)[0] if before.requires_grad else None
    if slope is None or not bool(slope.any()):
        return "no gradient reaches the images from it (wrap what stands before the network in BPDA)"
    return None


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _innermost(model: nn.Module) -> nn.Module:
    """The network after all filters and preprocessing."""
    while isinstance(model, Preprocessed | Filtered):
        model = model.network
    return model


def _layer(network: nn.Module, name: str) -> nn.Module:
    modules = {key: module for key, module in network.named_modules() if key}
    if name not in modules:
        raise ValueError(f"{type(network).__name__} has no layer {name!r}; {nearest(name, modules)}")
    return modules[name]
