"""Test images by name."""

from dataclasses import replace
from pathlib import Path

from steelman import config
from steelman.data import Arrays, External, HuggingFace, ImageFolder, Parquet, Shards, TorchVision
from steelman.data.dataset import Source
from steelman.data.parquet import parquet_files
from steelman.data.shards import shard_files
from steelman.files import parse_toml
from steelman.naming import nearest
from steelman.trust import written


def source(text: str) -> Source:
    """The data set that `--data` names.

    text  a data set's name ("MNIST"); an .npz or .parquet file; a folder of pictures, of Parquet files, of tar shards
          or of Hugging Face's datasets; 'torchvision:NAME'; 'module:function' (see `External`); or a TOML table with
          the settings of one of these: '{ kind = "ImageFolder", path = "pictures", size = [32, 32] }'

    Raises:
        ValueError: none of these; names the nearest data set.
    """
    if text.lstrip().startswith("{"):
        with written(text):
            found = config.read(Source, table(text, "--data"), "--data")
        # The user has written this table: an object that is not made by `config.read` needs no trust.
        return replace(found) if isinstance(found, External) else found
    if text.endswith(".npz"):
        return Arrays(text)
    if text.endswith(".parquet"):
        return Parquet(text)
    known = config.concrete(Source)
    if text in known:
        return config.read(Source, text, "--data")
    if Path(text).is_dir():
        return _folder(Path(text))
    if text.startswith("torchvision:"):
        return TorchVision(text.partition(":")[2])
    if ":" in text:
        return External(text)
    raise ValueError(
        f"--data {text}: there is no such data set, file or folder; {nearest(text, known)} (or give an .npz file, a "
        "folder with train/ and test/, 'torchvision:NAME' or 'module:function')"
    )


def _folder(path: Path) -> Source:
    """A folder by what lies in it."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return HuggingFace(str(path))
    if parquet_files(path):
        return Parquet(str(path))
    return Shards(str(path)) if shard_files(path) else ImageFolder(str(path))


def table(text: str, option: str) -> dict[str, object]:
    """An inline table of TOML; ValueError where it is none."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError as error:
        raise ValueError(f"{option} {text}: not a table of TOML ({error})") from error
