"""What plans are compared on: a model, what it sees, and how well it does its task."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab import Rival
from repshift import EncoderSpec, InputError
from repshift.adapters import describe
from repshift.evaluation.data.batches import draw
from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.zoo.load import load_model, open_source
from repshift.measure.fidelity import accuracy
from repshift.search.sizes import smaller_sizes


@dataclass
class Subject:
    """A model that gives logits or features [B, K], and its inputs.

    ``quality`` rates the outputs for all test inputs, by a name with its unit; empty where those of
    the dense model are all there is to go by. ``smaller`` lists smaller inputs, largest first.
    """

    name: str
    model: nn.Module
    spec: EncoderSpec
    searched: Tensor
    test: Tensor
    quality: dict[str, Callable[[Tensor], float]]
    smaller: Callable[[Tensor], list[Rival]]
    logits: bool = False

    @property
    def objective(self):
        return "kl" if self.logits else "cosine"


class Read(nn.Module):
    """A model as one that gives what ``read`` makes of it and its inputs."""

    def __init__(self, model, read):
        super().__init__()
        self.model, self.read = model, read

    def forward(self, inputs):
        return self.read(self.model, inputs)


def sizes(model, spec, inputs):
    return list(map(Rival.of, smaller_sizes(model, inputs, spec)))


def pictures(name, checkpoint, searched, test, samples, count, labels=True):
    """A model of images in directories, or one with samples of its own; top-1 accuracy."""
    loaded = load_model(name, checkpoint)
    if test is None:
        drawn = draw(open_source(loaded, None, labels), samples + count, 0)
        seen, shown = drawn.images[:samples], drawn.images[samples:]
        answers = drawn.labels[samples:]
    else:
        seen = draw(open_source(loaded, searched, False), samples, 0).images
        drawn = draw(open_source(loaded, test, labels), count, 0)
        shown, answers = drawn.images, drawn.labels
    right = {"accuracy, %": lambda output: 100 * accuracy(output, answers)} if labels else {}
    return Subject(
        loaded.name, loaded.model, describe(loaded.model), seen, shown, right,
        partial(sizes, loaded.model, None), loaded.classes > 0,
    )  # fmt: skip


def clips(samples, count):
    """clips-umt, first stage of retrieval; mean R@1 of both directions."""
    from repshift.evaluation.zoo.clips.files import clip_scenes
    from repshift.evaluation.zoo.clips.language import caption
    from repshift.evaluation.zoo.clips.model import SAMPLING, load_clips_retrieval, tokenizer
    from repshift.evaluation.zoo.clips.render import render
    from repshift.evaluation.zoo.clips.scene import draw_scene

    model = load_clips_retrieval()
    times = (np.arange(SAMPLING.frames) + 0.5) / SAMPLING.frames

    def videos(scenes):
        frames = np.stack([render(scene, times, SAMPLING.size) for scene in scenes])
        return normalise(torch.from_numpy(frames))

    generator = np.random.default_rng([1])
    unseen, scenes = [draw_scene(generator) for _ in range(samples)], clip_scenes()[:count]
    captions = [caption(scene, np.random.default_rng(scene.seed)) for scene in scenes]
    ids, mask = tokenizer().captions(captions, 26)
    with torch.inference_mode():
        texts = F.normalize(model.text_proj(model.encode_text(ids, mask)[:, 0]), dim=-1)

    def recall(output):
        return 50 * (found_first(output @ texts.T) + found_first(texts @ output.T))

    def vectors(model, videos):
        _, pooled = model.encode_video(videos)
        return F.normalize(model.vision_proj(pooled), dim=-1).mean(1)

    reading, spec = Read(model, vectors).eval(), describe(model)
    return Subject(
        "clips-umt", reading, spec, videos(unseen), videos(scenes), {"mean R@1": recall},
        partial(sizes, reading, spec),
    )  # fmt: skip


def found_first(likeness):
    """The share of rows whose own column is the highest."""
    return (likeness.argmax(1) == torch.arange(len(likeness))).double().mean().item()


def docstrings():
    """First line and rest of the docstrings in the sources of the standard library."""
    root, found = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if path.parent.name in ("test", "idlelib", "lib2to3", "turtledemo", "site-packages"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                first, rest = (" ".join(part.split()) for part in (first, rest))
                # Sentences, not signatures and tables.
                prose = len(re.findall(r"[A-Za-z ]", rest)) > 0.85 * len(rest)
                if prose and first.endswith(".") and len(first.split()) >= 4:
                    found.setdefault(rest, first)
    if len(found) < 100:
        raise InputError("the sources of the standard library are not installed")
    return [(first, rest) for rest, first in found.items()]


def sentences(samples, count):
    """MiniLM on the first 64 tokens of docstrings; how many are found by their first line, %."""
    from repshift.evaluation.zoo.minilm import load_minilm

    model = load_minilm()
    model.tokenizer.no_padding()
    model.tokenizer.enable_truncation(64)
    pairs = [(first, model.tokenizer.encode(rest).ids) for first, rest in docstrings()]
    pairs = [(first, ids) for first, ids in pairs if len(ids) == 64][: samples + count]
    ids = torch.tensor([ids for _, ids in pairs])
    model.tokenizer.enable_padding()
    with torch.inference_mode():
        questions = model(*model.tokenize([first for first, _ in pairs[samples:]]))

    def embeddings(model, ids):
        # The mean token, as it is used; the texts are of one length.
        return F.normalize(model.encoder(input_ids=ids).last_hidden_state.mean(1), dim=-1)

    def shorter(count, ids):
        # All texts end with the same token.
        return torch.cat((ids[:, : count - 1], ids[:, -1:]), dim=1)

    reading, counts = Read(model, embeddings).eval(), range(ids.shape[1] - 1, 2, -1)
    rivals = [Rival(f"{count} tokens", reading, partial(shorter, count)) for count in counts]
    found = {"found, %": lambda output: 100 * found_first(questions @ output.T)}
    spec, seen, shown = describe(model.encoder), ids[:samples], ids[samples:]
    return Subject("minilm", reading, spec, seen, shown, found, lambda inputs: rivals)


@dataclass(frozen=True)
class Given:
    """Where the subjects come from, as options of a benchmark."""

    model: str = "timm:vit_small_patch14_dinov2"
    checkpoint: Path | None = None
    search: Path | None = None
    """Images, without labels."""
    test: Path | None = None
    """Images, of timm with labels.csv."""


# By name: what the command line says, inputs to search on and test inputs.
SUBJECTS: dict[str, Callable] = {
    "timm": lambda given, *counts: pictures(
        given.model, given.checkpoint, given.search, given.test, *counts
    ),
    "digits": lambda given, *counts: pictures("digits-vit", None, None, None, *counts),
    "saliency": lambda given, *counts: pictures(
        "saliency-vit-s14", None, given.search, given.test, *counts, labels=False
    ),
    "clips": lambda given, *counts: clips(*counts),
    "minilm": lambda given, *counts: sentences(*counts),
}
Named = Literal[tuple(SUBJECTS)]


def open_subject(name, given, samples, count):
    """A subject by name."""
    if name in ("timm", "saliency") and not (given.test and given.search):
        raise InputError(f"the subject {name} needs --search DIR and --test DIR")
    return SUBJECTS[name](given, samples, count)
