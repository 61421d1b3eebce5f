"""Write docs/models.md from the tables of the tests: which models work, and what each can do.

python scripts/model_table.py
"""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

HEAD = """# Models

Made by `python scripts/model_table.py` from the tables that the tests run; every family here is held to the dense model whose later attention cannot see the tokens that left.

- **shift**: sites where the score can be measured. Without a stream between attention and MLP it is the block alone.
- **merge before MLP**: `tome` and `vid-tldr` act between attention and MLP, as in their papers. `prune` and `merge` act after the block and work with every family.
- **attention read**: scores and reductions that read the map or the keys (`class-attention`, `column-attention`, `attention-entropy`, `key-norm`, `redundancy(keys)`, `tome`), and merging that weighs keys by their size, need attention to pass through PyTorch's functions once in a block; where it does not, `merge(plain)` works.
- **carriers**: arguments of the blocks that follow the tokens.

Beside these, each with tests of its own: UMT's video encoders (all scores and reductions), ResNets of timm and torchvision with basic or bottleneck blocks (`rows-and-columns` and `per-row-and-column`), Vision Mamba (official checkpoints, those with overlapping patches ("+") among them: `repshift.evaluation.models.vim.checkpoint.load_vim("vim-tiny", FILE)`), and Mamba and Mamba-2 of transformers without a cache (`prune` and `merge` by `shift(mixer)`, `clipped-activation` and scores of the stream).

Towers of vision-language models (transformers 5.24, `tests/test_vision_towers*.py`): those of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5, in which all images lie end to end, work as encoders of their own, `compress(model.model.visual, plan)`, in units of 2 x 2 patches, with all scores and reductions. Inside their model, `repshift.vision_language.tower.Tower(model, plan)` takes these and the towers of LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, PaliGemma, Gemma3, InternVL, Idefics3 and SmolVLM, and tells which rows of the features are of tokens that stayed. Without fused attention (`attn_implementation="sdpa"`), scores that read the map or the keys and merging that weighs by size are refused there as everywhere. Not taken: Pixtral's tower, and levels where square cells are merged (Gemma3, InternVL, Idefics3, SmolVLM).

ONNX: `torch.onnx.export(model, ..., dynamo=True)` takes a compressed model of timm, transformers, torchvision and open_clip wherever it takes the dense one, with a dynamic batch. Two limits are those of the dense models: Vision Mamba's scan is no operator of ONNX; and padding that sees no token in a window of ModernBERT gets other values than in PyTorch (the words do not see it).

| library | family | prefix | class token | shift | merge before MLP | attention read | carriers |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def families():
    """Library, family and a small model of it, from the tables of the tests."""
    import torch

    import models
    import test_other_libraries
    import text_models
    import transformers_models

    for name in models.FAMILIES:
        yield "timm", name, models.build(name), models.images(2)
    for name, row in transformers_models.FAMILIES.items():
        model = transformers_models.build(row)
        yield "transformers", name, model, transformers_models.inputs(model)
    for name in text_models.FAMILIES:
        words = {"input_ids": torch.randint(4, 50, (2, 9))}
        yield "transformers", f"{name} (text)", text_models.build(name, torch.float32), words
    for name in test_other_libraries.FAMILIES:
        library, _, rest = name.replace(",", "").partition(" ")
        model = test_other_libraries.build(name)
        yield library, rest, model, test_other_libraries.images(2)


def reads_attention(model, images):
    """Whether each block attends once, where the library can see it."""
    import torch

    from repshift import ColumnAttention, InputError, Plan, compress

    given = images if isinstance(images, dict) else {}
    args = () if given else (images,)
    try:
        with compress(model, Plan({1: 1}, ColumnAttention())), torch.no_grad():
            model(*args, **given)
    except InputError:
        return False
    return True


def row(library, family, model, images):
    from repshift.adapters import describe

    spec = describe(model)
    cells = [
        library,
        family,
        str(spec.prefix_tokens) + (" + [SEP]" if spec.suffix_tokens else ""),
        "yes" if spec.class_token else "no",
        "mlp, attention, block" if all(spec.norm2) else "block",
        "yes" if spec.mlp and all(spec.mlp) and all(spec.norm2) else "no",
        "yes" if reads_attention(model, images) else "no",
        ", ".join(spec.carriers),
    ]
    return "| " + " | ".join(cells) + " |"


def refusals():
    """What is refused, in the words a user gets."""
    import test_other_libraries
    import test_timm
    import test_transformers_text
    import transformers_models
    from repshift import InputError
    from repshift.adapters import describe

    makers = [
        ("timm", name, lambda name=name: test_timm.on_meta(name)) for name in test_timm.REFUSED
    ]
    makers += [
        ("transformers", name, lambda row=row: transformers_models.build(row))
        for name, row in transformers_models.REFUSED.items()
    ]
    makers += [
        ("transformers", name, make) for name, (make, _) in test_transformers_text.REFUSED.items()
    ]
    for name, (make, _) in test_other_libraries.REFUSED.items():
        library, _, rest = name.replace(",", "").partition(" ")
        makers.append((library, rest, make))
    for library, name, make in makers:
        try:
            describe(make())
        except InputError as error:
            reason = str(error).partition("cannot be compressed: ")[2] or str(error)
            for advice in (". Use a plain", ". Use vit_b", "; supported are"):
                reason = reason.partition(advice)[0]
            yield f"| {library} | {name} | {reason.replace('|', ' ')} |"


def table():
    import torch

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    lines = [row(*family) for family in families()]
    text = HEAD + "\n".join(lines)
    text += "\n\n## Refused\n\n| library | model | why |\n|---|---|---|\n"
    return text + "\n".join(refusals()) + "\n"


if __name__ == "__main__":
    path = ROOT / "docs" / "models.md"
    path.write_text(table(), encoding="utf-8")
    print(path)
