"""Image classifiers of Hugging Face's transformers, behind what their processor does."""

import re
from pathlib import Path
from typing import Any

from torch import nn

from steelman.data.dataset import Dataset
from steelman.extras import require
from steelman.files import reason_of
from steelman.loading.form import picked
from steelman.networks.input_form import Form

RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's filters by number, as far as they are offered here."""
UNKNOWN = ("rescale_offset", "include_top", "do_pad", "do_thumbnail", "do_align_long_axis")
"""Steps of processors that change what a model sees, and that are not copied here."""
COPIED = (
    *("ViT", "DeiT", "Beit", "Bit", "ConvNext", "MobileViT", "MobileNetV1", "MobileNetV2", "CLIP", "Siglip", "Pvt"),
    *("Segformer", "Flava"),
)
"""Processors that do what their settings say; others, such as Levit's, scale and crop by rules of their own."""
_ENDING = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")


def hugging_face(name: str, like: Dataset) -> tuple[nn.Module, Form, str]:
    """A classifier with its input's form and how its classes were matched to the data's (`picked`).

    name  of a folder that `save_pretrained` wrote, with the processor's preprocessor_config.json in it, or of a model
          on huggingface.co, which is downloaded

    No code of the model's author is run (`trust_remote_code` stays False), and nothing is unpickled but tensors.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: there is no such folder, and no such model that can be fetched.
        ValueError: it is no image classifier, has no trained head, other classes than the data, or no known processor.
    """
    require(f"hf:{name}", "transformers", extra="hf")
    from transformers import AutoModelForImageClassification  # pyright: ignore[reportMissingImports]

    where = str(Path(name).resolve()) if Path(name).is_dir() else name
    model, loaded = _fetched(name, AutoModelForImageClassification, where, output_loading_info=True)
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(
            f"hf:{name} has no trained classifier: its weights lack {', '.join(missing[:3])}, which would be random. "
            "Name a model that was fine-tuned for image classification"
        )
    settings = _settings(name, where)
    names = [str(model.config.id2label[place]) for place in range(model.config.num_labels)]
    network, classes = picked(model.eval(), f"hf:{name}", names, like)
    return network.eval(), form_of(settings, f"hf:{name}", getattr(model.config, "num_channels", 3)), classes


def configured(name: str, channels: int, outputs: int) -> nn.Module:
    """The untrained network of a configuration, a folder's or one of huggingface.co, for so many channels and classes.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `hugging_face`.
    """
    require(f"hf:{name}", "transformers", extra="hf")
    from transformers import AutoConfig, AutoModelForImageClassification  # pyright: ignore[reportMissingImports]

    where = str(Path(name).resolve()) if Path(name).is_dir() else name
    config, _ = _fetched(name, AutoConfig, where, return_unused_kwargs=True)
    config.num_channels, config.num_labels = channels, outputs
    return AutoModelForImageClassification.from_config(config)


def _fetched(name: str, kind: Any, where: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import logging  # pyright: ignore[reportMissingImports]

    if not Path(name).is_dir() and "/" not in name:
        raise FileNotFoundError(f"hf:{name}: there is no folder {name}; names on huggingface.co are OWNER/NAME")
    bars = logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()
        return kind.from_pretrained(where, **options)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise FileNotFoundError(
                f"hf:{name}: there is no folder {name}, and no such model was fetched from huggingface.co ({reason})"
            ) from error
        raise ValueError(f"hf:{name} is no image classifier of transformers: {reason}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _settings(name: str, where: str) -> dict[str, Any]:
    """The processor's settings; they are read without making one, which may need torchvision."""
    from transformers import ImageProcessingMixin  # pyright: ignore[reportMissingImports]

    try:
        return ImageProcessingMixin.get_image_processor_dict(where)[0]
    except OSError as error:
        raise ValueError(
            f"hf:{name} has no preprocessor_config.json, so how its images are normalised is not known: save its "
            f"processor beside it (processor.save_pretrained), or load it by 'module:function' with --mean and --std "
            f"({reason_of(error)})"
        ) from error


def form_of(settings: dict[str, Any], what: str, channels: int) -> Form:
    """The input that a processor with these settings makes, of pixels in [0, 1].

    Raises:
        ValueError: it does what is not copied here.
    """
    kind = _ENDING.sub("", settings.get("image_processor_type") or settings.get("feature_extractor_type") or COPIED[0])
    strange = [kind] if kind not in COPIED else [each for each in UNKNOWN if settings.get(each)]
    if strange:
        remedy = "name it timm:hf-hub:NAME" if kind.startswith("TimmWrapper") else "load the model by 'module:function'"
        raise ValueError(f"{what}: its processor has {strange[0]}, which is not copied here: {remedy}")
    size, crop, resized = None, None, None
    if settings.get("do_resize", True):
        given = settings.get("size")
        if isinstance(given, int) and "crop_pct" in settings:  # as earlier versions of ConvNext's wrote it
            given = {"shortest_edge": given}
        size, resized = _size(given, what)
    if settings.get("do_center_crop"):
        crop = _size(settings.get("crop_size"), what)[0]
    share = settings.get("crop_pct")
    if share and isinstance(resized, int) and crop is None:  # ConvNeXT's: below 384 by its share, then cropped
        crop = (resized, resized)
        resized = int(resized / share) if resized < 384 else crop
    if crop is None and isinstance(resized, int):
        raise ValueError(
            f"{what}: its processor scales the shorter side to {resized} and crops nothing, so that no one size is the "
            "model's: load it by 'module:function', and give images of a size that it takes"
        )
    # Pixels are multiplied by 255 where the processor does not divide by that.
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    mean, std = (settings.get(f"image_{each}") if settings.get("do_normalize") else None for each in ("mean", "std"))
    resample = settings.get("resample", 2)
    if resample not in RESAMPLE and settings.get("do_resize", True):
        raise ValueError(f"{what}: its processor resizes by Pillow's filter {resample}, which is not offered here")
    return Form(
        size=crop or size,
        channels=channels,
        resized=resized,
        resample=RESAMPLE.get(resample, "bilinear"),
        odd="down",
        range=(0.0, float(f"{scale:.9g}")),
        order="BGR" if settings.get("do_flip_channel_order") else "RGB",
        mean=_each(mean, channels),
        std=_each(std, channels),
    )


def _each(numbers: Any, channels: int) -> tuple[float, ...] | None:
    if numbers is None:
        return None
    return tuple(map(float, numbers if isinstance(numbers, list | tuple) else [numbers] * channels))


def _size(given: Any, what: str) -> tuple[tuple[int, int] | None, tuple[int, int] | int | None]:
    """(height, width) where it is fixed, and what is given as `Form.resized`."""
    match given:
        case int():
            return (given, given), (given, given)
        case {"height": int(height), "width": int(width)}:
            return (height, width), (height, width)
        case {"shortest_edge": int(short)} if len(given) == 1:
            return None, short
    raise ValueError(f"{what}: its processor resizes to {given!r}, which is not offered here")
