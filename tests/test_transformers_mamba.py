"""Mamba and Mamba-2 of transformers lose words while they read, never while they write."""

import pytest
import torch
import transformers

from repshift import ClippedActivation, InputError, Plan, Shift, compress

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8}
FAMILIES = {"Mamba": {}, "Mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1, "chunk_size": 8}}
SCHEDULE = {0: 0.25, 2: 3}
each_family = pytest.mark.parametrize("family", FAMILIES)


def build(family, kind="Model"):
    config = getattr(transformers, f"{family}Config")(**SIZE, **FAMILIES[family])
    model = getattr(transformers, f"{family}{kind}")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "A_log" not in name:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def texts(batch=3, words=17):
    return torch.randint(1, 50, (batch, words))


SCORES = {
    Shift("mixer"): lambda branch, stream, activation: (branch - stream).norm(dim=-1),
    Shift("mixer", definition="update"): lambda branch, stream, activation: branch.norm(dim=-1),
    ClippedActivation(): lambda branch, stream, activation: activation.relu().sum(-1),
}


def text_by_text(model, ids, score):
    stream, places = model.embeddings(ids[None]), list(range(len(ids)))
    for number, block in enumerate(model.layers):
        seen = []
        hook = block.mixer.out_proj.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        after = block(stream)
        hook.remove()
        amount = SCHEDULE.get(number, 0)
        drop = int(amount * (len(places) - 1)) if isinstance(amount, float) else amount
        value = SCORES[score](after - stream, stream, seen[0])[0, :-1]
        stay = [*sorted(value.argsort()[drop:].tolist()), len(places) - 1]
        stream, places = after[:, stay], [places[at] for at in stay]
    return model.norm_f(stream), places


@each_family
@pytest.mark.parametrize("score", SCORES, ids=str)
def test_dropping_equals_a_loop_over_blocks(family, score):
    model, ids = build(family), texts()
    with compress(model, Plan(SCHEDULE, score)) as compression:
        read = model(ids, use_cache=False).last_hidden_state
    assert compression.counts == [13, 13, 10, 10]
    for row in range(3):
        expected, places = text_by_text(model, ids[row], score)
        assert compression.kept[row].tolist() == places
        torch.testing.assert_close(read[row : row + 1], expected, atol=1e-5, rtol=1e-5)


@each_family
def test_a_plan_that_drops_nothing_leaves_the_output_bit_equal(family):
    model, ids = build(family), texts()
    dense = model(ids, use_cache=False).last_hidden_state
    with compress(model, Plan({1: 0.0}, Shift("mixer"))):
        assert torch.equal(model(ids, use_cache=False).last_hidden_state, dense)


@each_family
def test_a_text_among_longer_ones_is_what_it_is_alone(family):
    model, ids, mask = build(family), texts(), torch.ones(3, 17, dtype=torch.long)
    mask[1, 12:] = 0
    with compress(model, Plan({0: 5, 1: 0.3}, Shift("mixer"))) as compression:
        together = model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        kept = compression.kept[1]
        alone = model(ids[1:2, :12], use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(together[1, : len(alone)], alone)
    assert kept[: len(alone)].tolist() == compression.kept[0].tolist()
    assert (kept[len(alone) :] >= 12).all()


@each_family
def test_the_cache_is_refused(family):
    model, ids = build(family), texts()
    with compress(model, Plan({0: 2}, Shift("mixer"))):
        for settings in ({}, {"use_cache": True}):
            with pytest.raises(
                InputError, match=r"given cache(_params)?: the cache holds the state"
            ):
                model(ids, **settings)


@each_family
def test_generation_is_refused(family):
    model, ids = build(family, "ForCausalLM"), texts()
    with pytest.raises(InputError, match="it writes text.*compress model.backbone"):
        compress(model, Plan({0: 2}, Shift("mixer")))
    with (
        compress(model.backbone, Plan({0: 2}, Shift("mixer"))),
        pytest.raises(InputError, match="detach the plan to generate"),
    ):
        model.generate(ids, max_new_tokens=2)
    assert model.generate(ids, max_new_tokens=2).shape == (3, 19)


def test_another_mixer_is_refused():
    model = build("Mamba")

    class Other(type(model.layers[1].mixer)):
        def forward(self, hidden_states, **rest):
            return hidden_states.flip(1)

    model.layers[1].mixer.__class__ = Other
    with pytest.raises(InputError, match="was not checked with one of its parts"):
        compress(model, Plan({0: 2}, Shift("mixer")))


def test_the_default_score_says_which_site_to_use():
    with pytest.raises(InputError, match="use the site mixer"):
        compress(build("Mamba2"), Plan({0: 2}))
