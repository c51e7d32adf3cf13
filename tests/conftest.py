"""Shapes and types are checked at every call while tests run."""

from jaxtyping import install_import_hook

# Before the first import of steelman, so that all of it is checked.
install_import_hook("steelman", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
