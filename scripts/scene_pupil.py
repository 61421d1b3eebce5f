"""scenes-vlm and photos-vlm as ``train_scenes.py`` trains them: rows of many questions, in
compiled blocks.

The weights are those of the model of transformers, and so is what is computed; only the shape of
what enters differs (``tests/test_scenes_vlm.py`` compares the two).
"""

import torch
from torch import nn
from torch.nn import functional as F

from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.zoo.scenes.model import (
    DECODER,
    MERGE,
    WORDS,
    load_scenes,
    patches,
    untrained_scenes,
)
from repshift.evaluation.zoo.scenes.photos import tower_weights, untrained_photos
from scene_batches import FILM_SIDE, LENGTH, SIDE, TOLD, TURNS

LOOKS = {2: "first", 4: "last"}  # layers of which two heads are told where to look


class Pupil(nn.Module):
    """scenes-vlm, and what only training needs."""

    def __init__(self, model=None) -> None:
        super().__init__()
        self.model = untrained_scenes() if model is None else model
        self.told = nn.Linear(DECODER["hidden_size"], sum(TOLD))
        self.placed = nn.Linear(DECODER["hidden_size"], 2 * SIDE)
        self.turn = nn.Linear(DECODER["hidden_size"], TURNS)

    def weights(self) -> dict[str, torch.Tensor]:
        """What training changes."""
        return self.state_dict()

    def see(self, images, side):
        """Features of the cells [B, cells, C], and those of the tower's middle."""
        visual = self.model.model.visual
        embed = visual.patch_embed.proj
        tokens = F.linear(patches(images), embed.weight.flatten(1), embed.bias)
        tokens = tokens + visual.pos_embed.weight
        cos, sin = tables(visual, side)
        deep = []
        for number, block in enumerate(visual.blocks):
            tokens = tower_block(block, tokens, cos, sin)
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[len(deep)]
                deep.append(merged(merger, tokens))
        return merged(visual.merger, tokens), deep

    def read(self, one, features, deep):
        """Logits, what layers say of each cell's place and turn, and whether answers look right."""
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
        cos, sin = self.turned_by(stream, one["places"])
        cos, sin = cos[:, None], sin[:, None]
        looked = 0
        for number, layer in enumerate(core.layers):
            stream, attention = decoder_layer(layer, stream, cos, sin, mask)
            if number in LOOKS:
                looked = looked + look(attention, one, one[LOOKS[number]])
            if number < len(deep):
                stream = stream + spread(deep[number])
            if number == 1:
                placed = self.placed(stream)
            if number == 3:
                turn = self.turn(stream)
        logits = F.linear(norm(core.norm, stream), core.embed_tokens.weight)
        return logits, placed, turn, looked

    def turned_by(self, stream, places):
        return self.model.model.language_model.rotary_emb(stream, places)

    def see_all(self, one):
        """Features of all cells of images and films [cells, C], and those of the tower's middle."""
        images, deep = self.see(one["images"], SIDE * MERGE)
        films, film_deep = self.see(one["films"], FILM_SIDE * MERGE)
        table = torch.cat([images.flatten(0, 1), films.flatten(0, 1)])
        return table, [
            torch.cat([a.flatten(0, 1), b.flatten(0, 1)])
            for a, b in zip(deep, film_deep, strict=True)
        ]

    def forward(self, one):
        table, deep = self.see_all(one)
        logits, placed, turn, looked = self.read(one, table, deep)
        labels = one["labels"]
        answer = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        # Rows and columns within the image, of images alone.
        place = sum(
            F.cross_entropy(part.float().flatten(0, 1), at.flatten())
            for part, at in zip(placed.split(SIDE, -1), one["spots"], strict=True)
        )
        if len(one["films"]):
            place = place + F.cross_entropy(turn.float().flatten(0, 1), one["turns"].flatten())
        right = logits.argmax(-1) == labels
        return answer, place, looked, self.teach(table, one["told"]), right

    def teach(self, table, truth):
        parts = self.told(table).float().split(TOLD, -1)
        loss = 0
        for part, label in zip(parts, truth.T, strict=True):
            loss = loss + F.cross_entropy(part, label)
            # Once more of what shows something, which is little.
            loss = loss + F.cross_entropy(part, torch.where(label > 0, label, -100))
        return loss

    def tower_only(self, one):
        table, deep = self.see_all(one)
        loss = self.teach(table, one["told"])
        for layer in deep:
            loss = loss + 0.3 * self.teach(layer, one["told"])
        return loss


class PhotoPupil(Pupil):
    """photos-vlm; the tower is frozen, the language model begins as that of scenes-vlm."""

    def __init__(self) -> None:
        super().__init__(untrained_photos())
        core = self.model.model
        core.vision_tower.load_state_dict(tower_weights())
        core.vision_tower.requires_grad_(False)
        core.language_model.load_state_dict(load_scenes().model.language_model.state_dict())

    def weights(self) -> dict[str, torch.Tensor]:
        """What training changes."""
        return {
            name: weight for name, weight in self.state_dict().items() if "vision_tower" not in name
        }

    def see(self, images, side):
        """Features of the cells [B, cells, C]."""
        core = self.model.model
        with torch.no_grad():
            patches = core.vision_tower(normalise(images)).last_hidden_state[:, 1:]
        cells = core.pixel_shuffle(patches.unflatten(1, (side, side)), 1 / MERGE)
        return core.multi_modal_projector(cells.flatten(1, 2)), []

    def see_all(self, one):
        features, deep = self.see(one["images"], SIDE * MERGE)
        return features.flatten(0, 1), deep

    def turned_by(self, stream, places):
        return super().turned_by(stream, places[0])


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


def tables(visual, side):
    """Rotary tables of one image, patch by patch in the order of those that merge."""
    at = torch.arange(side).view(-1, MERGE)
    rows = at[:, None, :, None].expand(-1, side // MERGE, -1, MERGE).flatten()
    columns = at[None, :, None, :].expand(side // MERGE, -1, MERGE, -1).flatten()
    return visual.rotary_pos_emb(at, torch.stack([rows, columns], 1))
