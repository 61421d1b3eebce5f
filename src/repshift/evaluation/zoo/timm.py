"""timm models by name: weights from the hub, from a file, or random."""

from __future__ import annotations

import difflib
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from repshift.errors import InputError
from repshift.evaluation.models.checkpoint import check, read_state_dict

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


def load_timm(name: str, checkpoint: Path | None, random_weights: bool) -> nn.Module:
    """A timm model in evaluation mode.

    With a checkpoint, the number of classes and the image size are read off its tensors, and its
    keys must be the model's.
    """
    if random_weights and checkpoint is not None:
        raise InputError(
            f"--random-weights and --checkpoint {checkpoint} exclude each other; leave one out"
        )
    fail_fast_offline()
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join('timm:' + n for n in near)}?" if near else ""
        raise InputError(f"timm has no model {name!r}{hint}")
    if random_weights:
        return timm.create_model(name).eval()
    if checkpoint is not None:
        return _from_file(name, checkpoint)
    if not timm.list_pretrained(name):
        raise InputError(
            f"timm has no weights for {name}; pass --checkpoint FILE or --random-weights"
        )
    try:
        return timm.create_model(name, pretrained=True).eval()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the weights of {name} are not in the local cache and the hub cannot be reached "
            f"({str(error).splitlines()[0]}); connect to the internet, or pass --checkpoint FILE "
            "(or --random-weights where only speed matters)"
        ) from None


def _from_file(name: str, path: Path) -> nn.Module:
    import timm

    weights = read_state_dict(path)
    settings: dict[str, Any] = {}
    if (head := weights.get("head.weight")) is not None and head.ndim:
        settings["num_classes"] = head.shape[0]
    model: Any = timm.create_model(name, **settings)
    if (side := _image_size(model, weights.get("pos_embed"))) is not None:
        model = timm.create_model(name, img_size=side, **settings)
    check(model.state_dict(), weights, path, name)
    model.load_state_dict(weights)
    return model.eval()


def _image_size(model: Any, filed: Tensor | None) -> int | None:
    """Pixels a side, where the file's table of positions is of another size than the model's.

    The table tells it: a square of patches after the same prefix entries.
    """
    table = getattr(model, "pos_embed", None)
    if table is None or filed is None or table.shape == filed.shape:
        return None
    if table.ndim != 3 or filed.ndim != 3:
        return None
    patches = filed.shape[1] - (table.shape[1] - model.patch_embed.num_patches)
    return round(patches**0.5) * model.patch_embed.patch_size[0] if patches > 0 else None


def fail_fast_offline() -> None:
    """Where the hub has no address, use its cache alone instead of a minute of retries.

    The hub's client reads this setting when it is imported, so it stands before that.
    """
    host = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
