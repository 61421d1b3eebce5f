"""Towers inside vision-language models: features and their rows, against towers run by hand."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from repshift import InputError, Level, Merge, Plan, Shift, ToMe, compress
from repshift.vision_language.tower import Tower
from vision_towers import GRIDS, MODELS, images, pixels, vision_language_model

DROP = {0: 0.2, 2: 0.4}
SIDE = {"gemma3": 2, "internvl": 2, "idefics3": 3, "smolvlm": 2}
BY_TILE = [family for family in MODELS if not family.startswith("qwen")]
PACKED = [family for family in MODELS if family.startswith("qwen")]
ROWS = 6  # of patches in a tile


@pytest.fixture(params=MODELS)
def family(request):
    return request.param


def tower_of(model):
    core = model.model
    name = next(n for n in ("visual", "vision_tower", "vision_model") if hasattr(core, n))
    return getattr(core, name)


def blocks_of(tower):
    return getattr(tower.encoder, "layers", None) or tower.encoder.layer


def cell(place, side):
    """The cell of a patch of a tile, counted row by row."""
    return place // ROWS // side * (ROWS // side) + place % ROWS // side


def slow(tower, stream, drop, side, prefix):
    """Tile by tile, token by token: what each block leaves at its place, zeros elsewhere."""
    cells = [[p for p in range(36) if cell(p, side) == c] for c in range((ROWS // side) ** 2)]
    states = [torch.zeros_like(stream) for _ in blocks_of(tower)]
    for tile, hidden in enumerate(stream.split(1)):
        left = list(range(len(cells)))
        places = list(range(prefix + 36))
        for index, block in enumerate(blocks_of(tower)):
            entry = hidden
            taken = (entry,) if "InternVL" in type(block).__name__ else (entry, None)
            hidden = block(*taken)
            if index in drop:
                moved = dict(zip(places, (hidden - entry).norm(dim=2)[0].tolist(), strict=True))
                score = [sum(moved[prefix + p] for p in cells[c]) / len(cells[c]) for c in left]
                count = math.floor(drop[index] * (len(places) - prefix)) // len(cells[0])
                ranked = sorted(zip(score, left, strict=True), reverse=True)
                left = sorted(c for _, c in ranked[: len(left) - count])
                stay = [*range(prefix), *(prefix + p for c in left for p in cells[c])]
                stay.sort()
                hidden = hidden[:, [places.index(p) for p in stay]]
                places = stay
            states[index][tile, places] = hidden
    return states


def by_hand(model, given, drop, family):
    """The dense model, whose tower's output is that of ``slow``."""
    tower, seen = tower_of(model), []
    prefix = 1 if family in ("llava", "llava next", "internvl") else 0
    first = blocks_of(tower)[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    def replaced(_, args, output):
        first.remove()
        states = slow(tower, seen[0], drop, SIDE.get(family, 1), prefix)
        last = states[-1]
        for name in ("post_layernorm", "layernorm"):
            if hasattr(tower, name) and "CLIP" not in type(tower).__name__:
                last = getattr(tower, name)(last)
        output["last_hidden_state"] = last
        if output.hidden_states is not None:
            output["hidden_states"] = (seen[0], *states)
        return output

    hook = tower.register_forward_hook(replaced)
    features = model.model.get_image_features(**given).pooler_output
    hook.remove()
    return features


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", BY_TILE)
def test_features_of_kept_tokens_are_those_of_a_tower_that_never_had_the_others(family, attention):
    model = vision_language_model(family, attention)
    given = images(model)
    expected = torch.cat(list(by_hand(model, given, DROP, family)))
    tower = Tower(model, Plan(DROP, Shift("block")))
    features = torch.cat(list(model.model.get_image_features(**given).pooler_output))
    tower.detach()
    kept = tower.kept["image"]
    assert features.shape == expected.shape
    assert len(kept) == len(features)
    exact = kept
    if family == "llava onevision":
        # Rows that were mixed of kept and dropped ones differ: a hand that laid back zeros.
        mixed = torch.cat([torch.zeros(222, dtype=bool), torch.ones(106, dtype=bool)])
        exact = kept & ~mixed
    torch.testing.assert_close(features[exact], expected[exact])
    per = SIDE.get(family, 1) ** 2
    first = 36 - math.floor(0.2 * 36) // per * per
    last = first - math.floor(0.4 * first) // per * per
    if family not in ("llava next", "llava onevision"):
        tiles = len(features) * per // 36
        assert int(kept.sum()) * per == last * tiles
    # Of those that left, the features are of a kept one, never zeros.
    if family in ("llava", "paligemma"):
        same = (features[~kept][:, None] == features[kept]).all(-1)
        assert same.any(1).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava next", "llava onevision"])
def test_newlines_stay_and_tiles_are_joined(family):
    model = vision_language_model(family)
    given = images(model)
    tower = Tower(model, Plan(DROP, Shift("block")), Shift("block"), 0)
    features = model.model.get_image_features(**given).pooler_output
    kept, scores = tower.kept["image"], tower.scores["image"]
    newline = torch.cat([(rows == model.model.image_newline).all(1) for rows in features])
    assert int(newline.sum()) in (6 + 12 + 10, 6 + 12 + 7)
    assert kept[newline].all()
    assert scores[newline].isinf().all()
    assert (scores[newline] > 0).all()
    assert scores[kept & ~newline].isfinite().all()
    assert scores[~kept].isneginf().all()
    # The first 36 rows of an image are its base tile, which no other row reads.
    compression = tower.compression
    last = max(DROP) if family == "llava onevision" else 2
    prefix = compression.spec.prefix_tokens
    for image, start in enumerate((0, 102, 222)):
        tile = (0, 3, 6)[image]
        base = compression.kept_after(last)[tile] - prefix
        assert kept[start : start + 36].nonzero().flatten().tolist() == base[base >= 0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("family", PACKED)
def test_packed_towers_are_compressed_as_by_themselves(family):
    model = vision_language_model(family)
    given, visual = images(model), model.model.visual
    plan = Plan(DROP, Shift("block"))
    with compress(visual, plan) as alone:
        output = visual(given["pixel_values"], grid_thw=GRIDS)
        kept = torch.zeros(152, dtype=bool)
        for frame, start in enumerate((0, 24, 72, 112)):
            own = alone.kept[frame]
            kept[start + own[own >= 0]] = True
    tower = Tower(model, plan, Shift("block"), 1)
    features = model.get_image_features(**given)
    assert torch.equal(torch.cat(features.pooler_output), output.pooler_output)
    for one, other in zip(
        features.get("deepstack_features", []), output.get("deepstack_features", []), strict=True
    ):
        assert torch.equal(torch.cat(one), other)
    assert torch.equal(tower.kept["image"], kept[::4])
    assert "video" not in tower.kept

    # The score of a unit is the mean of its patches that came to the block.
    entered = tower.compression.kept_after(0)
    watched = tower.compression._last_trace().watched[1]
    for frame, start in enumerate((0, 24, 72, 112)):
        for place, score in zip(entered[frame, ::4], watched[frame].view(-1, 4), strict=False):
            row = (start + int(place)) // 4
            if place >= 0 and tower.kept["image"][row]:
                assert tower.scores["image"][row].item() == pytest.approx(float(score.mean()))

    video = pixels(visual, GRIDS[2:])
    model.get_video_features(pixel_values_videos=video, video_grid_thw=GRIDS[2:])
    assert len(tower.kept["video"]) == 20
    assert len(tower.kept["image"]) == 38
    tower.detach()


@torch.no_grad()
def test_features_of_a_video_have_a_newline_each():
    model = vision_language_model("llava onevision")
    tower = Tower(model, Plan({1: 0.5}, Shift("block")))
    given = torch.randn(2, 3, 3, 24, 24).double()
    features = model.get_video_features(
        given, vision_feature_layer=-1, vision_feature_select_strategy="full"
    ).pooler_output
    kept, scores = tower.kept["video"], tower.scores
    assert features.shape == (2, 28, 32)
    assert kept.shape == (56,)
    assert scores == {}
    assert kept[[27, 55]].all()
    # Each of the 3 x 3 rows of a frame is the mean of 2 x 2 patches.
    left = tower.compression.kept
    for frame in range(6):
        of_patch = torch.zeros(36).index_fill(0, left[frame], 1.0)
        mean = of_patch.view(3, 2, 3, 2).mean((1, 3)).flatten()
        first = frame // 3 * 28 + frame % 3 * 9
        assert torch.equal(kept[first : first + 9], mean >= 0.5)
    tower.detach()


@torch.no_grad()
@pytest.mark.parametrize("plan", [None, Plan({}), Plan({1: 0.0})], ids=str)
def test_where_nothing_is_dropped_every_bit_is_the_same(family, plan):
    model = vision_language_model(family, dtype=torch.float32)
    given, before = images(model), set(model.state_dict())
    dense = model.model.get_image_features(**given).pooler_output
    tower = Tower(model, plan, Shift("block"))
    features = model.model.get_image_features(**given).pooler_output
    assert all(torch.equal(a, b) for a, b in zip(features, dense, strict=True))
    assert tower.kept["image"].all()
    assert (tower.scores["image"] >= 0).all()
    assert set(model.state_dict()) == before
    tower.detach()
    assert not any(
        name in vars(part)
        for part in model.modules()
        for name in ("forward", "get_image_features", "pack_image_features", "apply_pooling")
    )


@torch.no_grad()
@pytest.mark.parametrize("plan", [Plan(DROP, Shift(), Merge()), Plan({0: 0.3}, reduction=ToMe())])
def test_an_image_does_not_depend_on_its_neighbours(family, plan):
    model = vision_language_model(family)
    given = images(model)
    tower = Tower(model, plan)
    together = list(model.model.get_image_features(**given).pooler_output)
    kept = tower.kept["image"].split([len(rows) for rows in together])
    for image in range(len(together)):
        one = {name: value[image : image + 1] for name, value in given.items()}
        if family in PACKED:
            ends = [0, 24, 72, 152]
            one["pixel_values"] = given["pixel_values"][ends[image] : ends[image + 1]]
        alone = model.model.get_image_features(**one).pooler_output[0]
        torch.testing.assert_close(alone, together[image])
        assert torch.equal(tower.kept["image"], kept[image])
    tower.detach()


@torch.no_grad()
def test_patches_that_a_mask_closes_leave_first_and_do_not_count():
    model = vision_language_model("smolvlm")
    given = images(model)
    mask = torch.ones(2, 2, 24, 24, dtype=bool)
    mask[0, 0, :, 12:] = False  # half a tile: 3 columns of patches, 1.5 of cells
    tower = Tower(model, Plan({1: 0.5}, Shift("block")))
    model.model.get_image_features(**given, pixel_attention_mask=mask)
    kept = tower.kept["image"].view(3, 3, 3)
    assert kept.flatten(1).sum(1).tolist() == [5, 5, 5]
    tower.detach()
    # The two columns of cells that hold patches lose 3 of their 6, the closed one leaves.
    assert not kept[0, :, 2].all()


@torch.no_grad()
def test_levels_go_with_towers_of_single_tokens():
    model = vision_language_model("llava")
    given = images(model)
    tower = Tower(model, Plan({0: Level(0.2), 1: Level(0.3)}, Shift("block")))
    model.model.get_image_features(**given)
    lengths = tower.compression.lengths_after(1).tolist()
    assert tower.kept["image"].view(3, 36).sum(1).tolist() == [n - 1 for n in lengths]
    tower.detach()


def test_what_cannot_be_right_is_refused():
    model = vision_language_model("llava")
    with pytest.raises(InputError, match=r"after block 3 .* taken after block 2"):
        Tower(model, Plan({3: 0.3}, Shift("block")))
    tower = Tower(model, Plan({2: 0.3}, Shift("block")))
    with pytest.raises(InputError, match=r"after block 2 .* taken after block 1"):
        model.get_image_features(**images(model), vision_feature_layer=-3)
    tower.detach()
    with pytest.raises(InputError, match="no vision-language model"):
        Tower(model.model.language_model, Plan({}))
    with pytest.raises(InputError, match="this model has 4 blocks"):
        Tower(model, None, Shift("block"), 7)
    cells = vision_language_model("internvl")
    with pytest.raises(InputError, match="square cells"):
        Tower(cells, Plan({0: Level(0.2)}, Shift("block")))
    assert "forward" not in vars(blocks_of(tower_of(cells))[0])


@torch.no_grad()
def test_features_of_several_blocks_are_joined_row_by_row():
    model = vision_language_model("llava", vision_feature_layer=[-4, -2])
    given = images(model)
    tower = Tower(model, Plan(DROP, Shift("block")))
    features = torch.stack(model.get_image_features(**given).pooler_output)
    first, last = (tower.compression.kept_after(block) for block in (0, 2))
    assert torch.equal(tower.kept["image"].view(3, 36), of_places(last - 1, 36))
    tower.detach()
    seen = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with compress(tower_of(model), Plan(DROP, Shift("block"))):
        states = tower_of(model)(given["pixel_values"], output_hidden_states=True).hidden_states
    joined = torch.zeros(3, 37, 64).double()
    for image in range(3):
        joined[image, first[image], :32] = states[1][image]
        joined[image, last[image], 32:] = states[3][image]
    expected = model.model.multi_modal_projector(joined[:, 1:])
    kept = tower.kept["image"].view(3, 36)
    torch.testing.assert_close(features[kept], expected[kept])


def of_places(places, count):
    """A row of booleans for each row of places; -1 is none."""
    marks = torch.zeros(len(places), count, dtype=bool)
    for row, own in zip(marks, places, strict=True):
        row[own[own >= 0]] = True
    return marks


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llava", {"image_token_index": 7}),
        ("qwen2.5 vl", {"image_token_id": 7, "vision_start_token_id": 8}),
        ("qwen3 vl", {"image_token_id": 7, "vision_start_token_id": 8}),
    ],
)
def test_generate_goes_on_with_features_for_every_placeholder(family, settings):
    model = vision_language_model(family, **settings)
    given = images(model)
    lengths = [len(rows) for rows in model.model.get_image_features(**given).pooler_output]
    ids = torch.tensor([[1, *[t for n in lengths for t in (8, *[7] * n, 9)], 2, 3]])
    given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family != "llava":
        given["mm_token_type_ids"] = (ids == 7).long()
    tower = Tower(model, Plan(DROP, Shift("block")), Shift("block"))
    features = model.get_image_features(
        **{name: given[name] for name in ("pixel_values", "image_grid_thw") if name in given}
    )
    kept, scores = tower.kept["image"], tower.scores["image"]
    reduced = model(**given).logits
    words = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert words.shape == (1, ids.shape[1] + 3)
    assert torch.equal(tower.kept["image"], kept)
    assert torch.equal(tower.scores["image"], scores)
    tower.detach()
    del given["pixel_values"]
    by_hand = model(**given, mm_encoder_outputs={"image": features}).logits
    torch.testing.assert_close(by_hand, reduced)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava next", "smolvlm", "qwen2.5 vl"])
def test_a_copy_and_a_saved_model_have_towers_of_their_own(family):
    model = vision_language_model(family)
    given = images(model)
    tower = Tower(model, Plan(DROP, Shift("block")))
    expected = model.model.get_image_features(**given).pooler_output
    twins = [copy.deepcopy(model)]
    if family != "llava next":  # hidden states are captured by hooks that cannot be pickled
        twins.append(pickle.loads(pickle.dumps(model)))
    tower.detach()
    for twin in twins:
        found = twin.model.get_image_features(**given).pooler_output
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_threads_have_features_of_their_own():
    model = vision_language_model("qwen3 vl")
    given = [images(model) for _ in range(4)]
    tower = Tower(model, Plan(DROP, Shift("block")), Shift("block"))

    def run(one):
        with torch.no_grad():
            model.get_image_features(**one)
        return tower.kept["image"], tower.scores["image"]

    alone = [run(one) for one in given]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, given))
    tower.detach()
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def test_class_tokens_among_the_features_stay():
    model = vision_language_model("llava")
    tower = Tower(model, Plan(DROP, Shift("block")), Shift("block"))
    model.get_image_features(**images(model), vision_feature_select_strategy="full")
    kept, scores = (rows["image"].view(3, 37) for rows in (tower.kept, tower.scores))
    assert kept[:, 0].all()
    assert scores[:, 0].isposinf().all()
    assert int(kept.sum()) == 3 * (1 + 18)
    tower.detach()
