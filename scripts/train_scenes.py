"""Train scenes-vlm, the offline vision-language model, on generated scenes.

    python scripts/train_scenes.py

A row of a batch holds many questions: each sees what its image shows and itself alone, so that an
image is read once for all of them. The generator tells the tower what each cell shows, and the
language model where each is, by two layers that are thrown away after. An interrupted run goes on
where it stopped; every step seeds itself, so the weights are the same either way.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from repshift.evaluation.zoo.scenes.language import KINDS, ask_crowd, ask_film, ask_pair, ask_scene
from repshift.evaluation.zoo.scenes.model import MERGE, TOWER, WORDS, untrained_scenes
from repshift.evaluation.zoo.scenes.prompt import ASK, ids, patches, seen
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import (
    CARD,
    CELL,
    COLOURS,
    EDGE,
    FILM_EDGE,
    FRAMES,
    SHAPES,
    draw_crowd,
    draw_film,
    draw_scene,
)
from repshift.files import replacing

ROOT = Path(__file__).resolve().parents[1]
SCENES, CROWDS, FILMS, PAIRS = 16, 6, 5, 5  # of a step
EARLY = 14, 6, 3, 3  # of them asked before what is seen: one question each
LENGTH, VISUAL = 176, 128  # of a row: tokens, and those of them that are seen
SIDE, FILM_SIDE = EDGE // CELL, FILM_EDGE // CELL
TOLD = (len(SHAPES) + 1, len(COLOURS) + 1, 11, 11, 11)  # what a cell shows: 0 is nothing
EVERY = 10
LOOKS = {2: "first", 4: "last"}  # layers of which two heads are told where to look
TOWER_STEPS = 300  # in which the tower is told alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--overfit", type=int, default=0, help="repeat so many steps' batches")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = train(args)
    if args.out:
        half = {key: weight.half().contiguous() for key, weight in weights.items()}
        with replacing(args.out) as whole:
            whole.write_bytes(save(half))


class Row:
    """Tokens of one row of a batch: segments, each something seen and questions about it."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.kinds: list[int] = []
        self.segment: list[int] = []
        self.branch: list[int] = []
        self.places: list[tuple[int, int, int]] = []
        self.columns: list[int] = []
        self.cells: list[int] = []
        # Token, and which of the cells it should look at, first and last.
        self.looks: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._segment = 0

    def add(self, scenes, cells, questions, early=False):
        """``cells``: numbers of the features; ``early``: the one question stands in front."""
        film = scenes[0].frames > 1
        edges = [scene.edge for scene in scenes for _ in range(scene.frames)]
        self._scenes, self._first = scenes, len(self.columns)
        words = seen(edges, film)
        branches = [question.words for question in questions]
        self._segment += 1
        at = 0
        if early:
            at = self._text(branches[0], 0, at)
            branches = [()]
        at = self._seen(words, edges, cells, at)
        for number, (question, asked) in enumerate(zip(questions, branches, strict=True), 1):
            self._ask(question, asked, number, at)

    def _text(self, words, branch, at):
        self.ids += ids(words)
        self.places += [(at + step,) * 3 for step in range(len(words))]
        self.branch += [branch] * len(words)
        self.segment += [self._segment] * len(words)
        self.labels += [-100] * len(words)
        self.kinds += [-1] * len(words)
        return at + len(words)

    def _seen(self, words, edges, cells, at):
        sides = iter([edge // CELL for edge in edges])
        start = None
        for word in words:
            if word not in ("<image>", "<video>"):
                if start is not None:
                    at, start = start[0] + start[1], None
                at = self._text([word], 0, at)
                continue
            if start is None:
                start, step = (at, next(sides)), 0
            row, column = divmod(step, start[1])
            self.columns.append(len(self.ids))
            self._text([word], 0, 0)
            self.places[-1] = (start[0], start[0] + row, start[0] + column)
            step += 1
        self.cells += cells
        return at

    def _ask(self, question, asked, branch, at):
        answer = ids(question.answer)
        self._text([*asked, ASK, *question.answer], branch, at)
        ask = len(self.ids) - len(answer) - 1
        for step, (first, last) in enumerate(targets(self._scenes, question)):
            self.looks.append((ask + step, self._mark(first), self._mark(last)))
        told = [*answer, WORDS["<end>"]]
        self.labels[-len(told) :] = told
        self.kinds[-len(told) :] = [KINDS.index(question.kind)] * len(told)

    def _mark(self, cells):
        marks = np.zeros(VISUAL, bool)
        marks[self._first : self._first + len(cells)] = cells
        return marks


def targets(scenes, question):
    """The cells that each word of the answer should be read from, first and last."""
    if question.kind == "label":
        label, side = scenes[0].label, EDGE // CELL
        row = (label.y + CARD[1] // 2) // CELL
        for at in range(3):
            cells = np.zeros((side, side), bool)
            cells[row, (label.x + 11 + 18 * at) // CELL] = True
            yield cells.ravel(), cells.ravel()
    elif question.about:
        each = [
            np.concatenate([where(scene, thing) * (thing in scene.things) for scene in scenes])
            for thing in question.about
        ]
        first, last = each[0], each[-1]
        if question.kind == "count":
            first = last = np.any(each, 0)
        for _ in question.answer:
            yield first, last


def where(scene, thing) -> np.ndarray:
    """The cells that show a thing."""
    middle = (np.arange(scene.edge // CELL) + 0.5) * CELL
    far = np.hypot(middle[None, :] - thing.x, middle[:, None] - thing.y)
    near = far < thing.radius * 0.8 + CELL * 0.25
    near[thing.cell] = True
    frames = np.zeros((scene.frames, *near.shape), bool)
    frames[thing.start : thing.end] = near
    return frames.ravel()


def told(scene) -> np.ndarray:
    """What each cell of each frame shows: shape, colour, and the three digits' centres."""
    side = scene.edge // CELL
    out = np.zeros((scene.frames, side, side, len(TOLD)), np.int64)
    for thing in scene.things:
        said = SHAPES.index(thing.shape) + 1, COLOURS.index(thing.colour) + 1
        out[where(scene, thing).reshape(out.shape[:3]), :2] = said
    if scene.label is not None:
        row = (scene.label.y + CARD[1] // 2) // CELL
        for at, digit in enumerate(scene.label.digits):
            out[0, row, (scene.label.x + 11 + 18 * at) // CELL, 2 + at] = int(digit) + 1
    return out.reshape(scene.frames, side * side, len(TOLD))


def batch(step: int, early: bool = True):
    """One step's pixels, what their cells show, and the rows of questions."""
    draw = np.random.default_rng([1, step])
    scenes = [draw_scene(draw) for _ in range(SCENES)]
    crowds = [draw_crowd(draw) for _ in range(CROWDS)]
    films = [draw_film(draw) for _ in range(FILMS)]
    images = [*scenes, *crowds]
    rows, size = [], SIDE**2

    def cells(number):
        return list(range(number * size, (number + 1) * size))

    def film_cells(number):
        total, start = FRAMES * FILM_SIDE**2, len(images) * size
        return list(range(start + number * total, start + (number + 1) * total))

    def one(questions):
        return [questions[int(draw.integers(len(questions)))]]

    asked = [ask_scene(scene, draw) for scene in scenes]
    for number, questions in enumerate(asked):
        rows.append(row := Row())
        row.add([scenes[number]], cells(number), questions)
    for number in range(EARLY[0]):
        if number % 2 == 0:
            rows.append(row := Row())
        row.add([scenes[number]], cells(number), one(asked[number]), early=True)
    for number, crowd in enumerate(crowds):
        rows.append(row := Row())
        questions = ask_crowd(crowd)
        row.add([crowd], cells(SCENES + number), questions)
        row.add([crowd], cells(SCENES + number), one(questions), early=True)
    pairs = draw.permutation(SCENES).tolist()
    for number in range(PAIRS):
        first, second = pairs[2 * number : 2 * number + 2]
        shown = [*cells(first), *cells(second)]
        both = [scenes[first], scenes[second]]
        questions = ask_pair(*both, draw)
        rows.append(row := Row())
        row.add(both, shown, questions)
        if number < EARLY[2]:
            rows.append(row := Row())
            row.add(both, shown, one(questions), early=True)
    for number, film in enumerate(films):
        questions = ask_film(film)
        rows.append(row := Row())
        row.add([film], film_cells(number), questions)
        if number < EARLY[3]:
            rows.append(row := Row())
            row.add([film], film_cells(number), one(questions), early=True)

    def full(lists, length, filler):
        return torch.tensor([[*one, *[filler] * (length - len(one))] for one in lists])

    places = full([row.places for row in rows], LENGTH, (0, 0, 0)).permute(2, 0, 1)
    return {
        "images": torch.from_numpy(np.concatenate([render(scene) for scene in images])),
        "films": torch.from_numpy(np.concatenate([render(film) for film in films])),
        "told": torch.from_numpy(
            np.concatenate([told(scene).reshape(-1, len(TOLD)) for scene in [*images, *films]])
        ),
        "ids": full([row.ids for row in rows], LENGTH, 0),
        "labels": full([row.labels for row in rows], LENGTH, -100),
        "kinds": full([row.kinds for row in rows], LENGTH, -1),
        "segment": full([row.segment for row in rows], LENGTH, 0),
        "branch": full([row.branch for row in rows], LENGTH, 0),
        "places": places.contiguous(),
        "columns": full([row.columns for row in rows], VISUAL, LENGTH),
        "cells": full([row.cells for row in rows], VISUAL, 0),
        "looks": torch.tensor(
            [(at, token) for at, row in enumerate(rows) for token, _, _ in row.looks]
        ),
        "first": torch.from_numpy(np.stack([look[1] for row in rows for look in row.looks])),
        "last": torch.from_numpy(np.stack([look[2] for row in rows for look in row.looks])),
    }


class Batches(Dataset):
    def __init__(self, start, steps, overfit):
        self.steps = range(start, steps)
        self.overfit = overfit

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, at):
        torch.set_num_threads(1)
        step = self.steps[at]
        return batch(step % self.overfit if self.overfit else step)


class Pupil(nn.Module):
    """The model, and what only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = untrained_scenes()
        self.told = nn.Linear(TOWER["out_hidden_size"], sum(TOLD))
        self.placed = nn.Linear(TOWER["out_hidden_size"], 2 * SIDE)

    def see(self, images, side):
        """Features of the cells [B, cells, C], and those of the tower's middle."""
        visual = self.model.model.visual
        embed = visual.patch_embed.proj
        tokens = F.linear(patches(images), embed.weight.flatten(1), embed.bias)
        tokens = tokens + visual.pos_embed.weight
        cos, sin = turns(visual, side)
        deep = []
        for number, block in enumerate(visual.blocks):
            tokens = tower_block(block, tokens, cos, sin)
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[len(deep)]
                deep.append(merged(merger, tokens))
        return merged(visual.merger, tokens), deep

    def read(self, one, features, deep):
        """Logits, where the second layer says that each cell is, and whether answers look right."""
        core = self.model.model.language_model
        rows = torch.arange(len(one["ids"]))[:, None]
        columns, cells = one["columns"], one["cells"]

        def spread(table):
            shape = len(one["ids"]), LENGTH + 1, table.shape[-1]
            places = rows.expand_as(columns), columns
            return torch.zeros(shape, dtype=table.dtype).index_put(places, table[cells])[:, :LENGTH]

        seen_here = (one["ids"] == WORDS["<image>"]) | (one["ids"] == WORDS["<video>"])
        stream = core.embed_tokens(one["ids"])
        stream = torch.where(seen_here[..., None], spread(features).float(), stream)
        at = torch.arange(LENGTH)
        segment, branch = one["segment"], one["branch"]
        mask = (at[:, None] >= at) & (segment[:, :, None] == segment[:, None, :])
        mask &= (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        mask = mask[:, None]
        cos, sin = core.rotary_emb(stream, one["places"])
        cos, sin = cos[:, None], sin[:, None]
        looked = 0
        for number, layer in enumerate(core.layers):
            stream, attention = decoder_layer(layer, stream, cos, sin, mask)
            if number in LOOKS:
                looked = looked + look(attention, one, one[LOOKS[number]])
            if number < len(deep):
                stream = stream + spread(deep[number])
            if number == 1:
                middle = stream
        logits = F.linear(norm(core.norm, stream), core.embed_tokens.weight)
        return logits, self.placed(middle), looked

    def forward(self, one):
        images, deep = self.see(one["images"], SIDE * MERGE)
        films, film_deep = self.see(one["films"], FILM_SIDE * MERGE)
        table = torch.cat([images.flatten(0, 1), films.flatten(0, 1)])
        deep = [
            torch.cat([a.flatten(0, 1), b.flatten(0, 1)])
            for a, b in zip(deep, film_deep, strict=True)
        ]
        logits, placed, looked = self.read(one, table, deep)
        labels = one["labels"]
        answer = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        # Rows and columns within the image, of images alone.
        shown = one["ids"] == WORDS["<image>"]
        t, h, w = one["places"]
        place = sum(
            F.cross_entropy(part.float().flatten(0, 1), torch.where(shown, at - t, -100).flatten())
            for part, at in zip(placed.split(SIDE, -1), (h, w), strict=True)
        )
        right = logits.argmax(-1) == labels
        return answer, place, looked, self.teach(table, one["told"]), right

    def teach(self, table, truth):
        parts = self.told(table).float().split(TOLD, -1)
        return sum(F.cross_entropy(part, truth[:, at]) for at, part in enumerate(parts))

    def tower_only(self, one):
        images, deep = self.see(one["images"], SIDE * MERGE)
        films, film_deep = self.see(one["films"], FILM_SIDE * MERGE)
        table = torch.cat([images.flatten(0, 1), films.flatten(0, 1)])
        loss = self.teach(table, one["told"])
        for a, b in zip(deep, film_deep, strict=True):
            loss = loss + 0.3 * self.teach(
                torch.cat([a.flatten(0, 1), b.flatten(0, 1)]), one["told"]
            )
        return loss


def attend(query, key, value, mask=None):
    """Attention in its parts: the backward of the fused kernel is slow on a CPU."""
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -1e4)
    with torch.autocast("cpu", enabled=False):  # would give weights in single precision
        weights = logits.softmax(-1)
    return weights.to(value.dtype) @ value, weights


def look(attention, one, cells):
    """How little of the attention of two heads is on the cells that an answer is about."""
    row, token = one["looks"].unbind(1)
    heads = attention[row, :2, token].float()
    on = heads.gather(2, one["columns"][row].clamp_max(LENGTH - 1)[:, None].expand(-1, 2, -1))
    return -((on * cells[:, None]).sum(-1) + 1e-4).log().mean()


@torch.compile(dynamic=False)
def tower_block(block, tokens, cos, sin):
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens))
    query, key, value = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = turned(query, cos, sin), turned(key, cos, sin)
    out, _ = attend(query, key, value)
    tokens = tokens + attention.proj(out.transpose(1, 2).flatten(2))
    return tokens + block.mlp(block.norm2(tokens))


@torch.compile(dynamic=False)
def decoder_layer(layer, stream, cos, sin, mask):
    attention = layer.self_attn
    normed = norm(layer.input_layernorm, stream)
    query, key, value = (
        proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query = turned(norm(attention.q_norm, query), cos, sin)
    key = turned(norm(attention.k_norm, key), cos, sin)
    groups = attention.num_key_value_groups
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    out, weights = attend(query, key, value, mask)
    stream = stream + attention.o_proj(out.transpose(1, 2).flatten(2))
    return stream + layer.mlp(norm(layer.post_attention_layernorm, stream)), weights


def merged(merger, tokens):
    wide = merger.hidden_size
    if merger.use_postshuffle_norm:
        x = merger.norm(tokens.reshape(len(tokens), -1, wide))
    else:
        x = merger.norm(tokens).reshape(len(tokens), -1, wide)
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(x)))


def norm(module, x):
    return F.rms_norm(x.float(), module.weight.shape, module.weight, module.variance_epsilon)


def turned(x, cos, sin):
    one, other = x.chunk(2, -1)
    return (x * cos + torch.cat((-other, one), -1) * sin).to(
        torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    )


def turns(visual, side):
    """Rotary tables of one image, patch by patch in the order of those that merge."""
    at = torch.arange(side).view(-1, MERGE)
    rows = at[:, None, :, None].expand(-1, side // MERGE, -1, MERGE).flatten()
    columns = at[None, :, None, :].expand(side // MERGE, -1, MERGE, -1).flatten()
    return visual.rotary_pos_emb(at, torch.stack([rows, columns], 1))


def train(args) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pupil = Pupil()
    inner = [
        weight
        for name, weight in pupil.named_parameters()
        if weight.ndim == 2 and (".blocks." in name or ".layers." in name or "merger" in name)
    ]
    chosen = {id(weight) for weight in inner}
    outer = [weight for weight in pupil.parameters() if id(weight) not in chosen]
    optimizers = [
        torch.optim.Muon(inner, lr=args.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    average = {name: weight.detach().clone() for name, weight in pupil.state_dict().items()}
    start, file = 0, args.runs / "scenes-vlm.pt"
    args.runs.mkdir(parents=True, exist_ok=True)
    if file.exists():
        saved = torch.load(file)
        start, average = saved["step"], saved["average"]
        pupil.load_state_dict(saved["pupil"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    log = (args.runs / "log.txt").open("a")
    data = DataLoader(
        Batches(start, args.steps, args.overfit),
        batch_size=None,
        num_workers=1,
        prefetch_factor=3,
    )
    hits, counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    sums, before = {}, time.time()
    for step, one in enumerate(data, start):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * rate(step / args.steps)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            if step < TOWER_STEPS:
                loss = pupil.tower_only(one)
                parts = {"teach": loss}
            else:
                answer, place, look, teach, right = pupil(one)
                loss = answer + 0.1 * place + 0.3 * teach + 0.1 * look
                parts = {"answer": answer, "place": place, "look": look, "teach": teach}
                tally(one, right, hits, counts)
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for name, weight in pupil.state_dict().items():
                average[name].lerp_(weight, 1 - decay)
        for name, part in parts.items():
            sums[name] = sums.get(name, 0) + part.item()
        if (step + 1) % EVERY == 0:
            line = f"{step + 1} {(time.time() - before) / EVERY:.2f}s "
            line += " ".join(f"{name} {total / EVERY:.3f}" for name, total in sums.items()) + " "
            line += " ".join(
                f"{kind} {100 * hit / max(count, 1):.0f}"
                for kind, hit, count in zip(KINDS, hits.tolist(), counts.tolist(), strict=True)
            )
            print(line, file=log, flush=True)
            hits.zero_()
            counts.zero_()
            sums, before = {}, time.time()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            state = {
                "step": step + 1,
                "pupil": pupil.state_dict(),
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            with replacing(file) as whole:
                torch.save(state, whole)
    return {
        name.removeprefix("model.model."): weight
        for name, weight in average.items()
        if name.startswith("model.model.")
    }


def tally(one, right, hits, counts):
    """By kind, how many questions are answered right to the last word."""
    kinds = one["kinds"]
    key = torch.arange(len(kinds))[:, None] * 1000 + one["segment"] * 50 + one["branch"]
    asked = kinds >= 0
    every, number = key[asked].unique(return_inverse=True)
    good = torch.ones(len(every)).scatter_reduce(
        0, number, right[asked].float(), "amin", include_self=True
    )
    kind = torch.zeros(len(every), dtype=torch.long).scatter(0, number, kinds[asked])
    hits += torch.zeros(len(KINDS)).index_add(0, kind, good)
    counts += torch.bincount(kind, minlength=len(KINDS))


def rate(done: float) -> float:
    """Linear warm-up, then level, then linear down to a fiftieth over the last quarter."""
    return min(done / 0.02, 1.0, 0.02 + 0.98 * (1 - done) / 0.25)


if __name__ == "__main__":
    main()
