"""Vision towers of open_clip: its own weights by their tag, from a file, or random."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.zoo.from_file import model_from_file, reject
from repshift.evaluation.zoo.hub import fail_fast_offline, from_hub
from repshift.evaluation.zoo.loaded import LoadedModel, grid_of
from repshift.input_size import patch_side

if TYPE_CHECKING:
    from torch import nn

    from repshift.evaluation.models.checkpoint import Weights
    from repshift.evaluation.zoo.loaded import Wanted


def load(name: str, wanted: Wanted) -> LoadedModel:
    """``open_clip:NAME[/PRETRAINED]``, by open_clip's own transform."""
    fail_fast_offline()
    import open_clip

    hub = name.startswith(("hf-hub:", "local-dir:"))
    model, _, tag = (name, "", "") if hub else name.partition("/")
    known = open_clip.list_models()
    if not hub and model not in known:
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join('open_clip:' + n for n in near)}?" if near else ""
        raise InputError(f"open_clip has no model {model!r}{hint}")
    ready = [] if hub else open_clip.list_pretrained_tags_by_model(model)
    own = wanted.checkpoint is None and not wanted.random_weights
    if tag and not own:
        raise InputError(
            f"open_clip:{name} names weights; leave out /{tag}, or --checkpoint and "
            "--random-weights"
        )
    if not hub and own and tag not in ready:
        raise InputError(
            f"open_clip:{model} needs weights: /PRETRAINED is one of {', '.join(ready) or 'none'}; "
            "or pass --checkpoint FILE (or --random-weights where only speed matters)"
        )
    found: list[Any] = []

    def build(settings: dict[str, Any]) -> nn.Module:
        """The tower; its transform is put aside."""
        try:
            made: Any = open_clip.create_model_and_transforms(
                model, pretrained=tag or None, load_weights=own, **settings
            )
        except (TypeError, AssertionError) as error:
            raise reject(error, f"open_clip:{name}", settings) from None
        found[:] = made[2:]
        return made[0].visual

    with from_hub(f"open_clip:{name}", "pass --checkpoint FILE (or --random-weights)"):
        if wanted.checkpoint is None:
            tower = build(dict(wanted.settings))
        else:
            terms = "embed_dim", "force_image_size"
            tower = model_from_file(
                f"open_clip:{name}", wanted.checkpoint, wanted.settings, build, _told, "visual.",
                terms,
            )  # fmt: skip
    size = _pair(tower.image_size)
    return LoadedModel(
        name=f"open_clip:{name}",
        model=tower.eval(),
        prepare=found[0],
        mean=tuple(tower.image_mean),  # type: ignore[arg-type]
        std=tuple(tower.image_std),  # type: ignore[arg-type]
        classes=0,
        grid=grid_of(tower, size),
    )


def _told(model: nn.Module, weights: Weights, classes: int | None) -> dict[str, Any]:
    """The size of the images, by the table of positions: a square of patches and a class token."""
    table, filed = getattr(model, "positional_embedding", None), weights.get("positional_embedding")
    if table is None or filed is None or filed.shape == table.shape or filed.ndim != 2:
        return {}
    return {"force_image_size": round((filed.shape[0] - 1) ** 0.5) * patch_side(model)}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
