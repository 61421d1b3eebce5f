"""UMT's BERT against the reference."""

import pytest
import torch

from repshift import InputError
from repshift.evaluation.models.umt.text import Bert
from umt_models import close, fixture

WEIGHTS, REF = fixture("umt_text")
IDS, MASK, VIDEO = REF["input.ids"], REF["input.mask"].bool(), REF["input.vision_tokens"]


@pytest.fixture
def bert():
    model = Bert(48, 4, 4, fusion_layer=2, context_width=64, vocabulary=320, positions=64)
    model.load_state_dict({k.removeprefix("text_encoder."): v for k, v in WEIGHTS.items()})
    return model.eval().requires_grad_(False).double()


def test_every_layer_is_that_of_the_reference(bert):
    left = []
    for module in (bert.embeddings, *bert.encoder.layer):
        module.register_forward_hook(lambda _, __, hidden: left.append(hidden))
    text = bert.text(IDS, MASK)
    fused = bert.fusion(text, MASK, VIDEO)
    names = ["text_hidden0", "text_hidden1", "text_hidden2", "fusion_hidden1", "fusion_hidden2"]
    for hidden, name in zip(left, names, strict=True):
        close(hidden, REF[f"output.{name}"])
    close(text, REF["output.text"])
    close(text[:, 0], REF["output.text_pooled"])
    close(fused, REF["output.fusion"])
    close(bert(IDS, MASK, VIDEO), REF["output.multi_modal"])


def test_a_mask_of_the_video(bert):
    fused = bert.fusion(bert.text(IDS, MASK), MASK, VIDEO, REF["input.vision_mask"].bool())
    close(fused, REF["output.fusion_masked_vision"])


def test_one_video_for_all_texts_is_that_video_for_each(bert):
    text = bert.text(IDS, MASK)
    alone = bert.fusion(text, MASK, VIDEO[:1])
    close(alone, bert.fusion(text, MASK, VIDEO[:1].expand(4, -1, -1)), 1e-12)


def test_the_epsilon_of_the_norm(bert):
    close(
        bert.embeddings.LayerNorm(REF["input.eps_probe"]),
        REF["output.eps_probe.embeddings_LayerNorm"],
    )


def test_a_causal_model_does_not_look_ahead():
    model = Bert(16, 2, 2, 0, 16, vocabulary=50, positions=9, causal=True).eval()
    ids, context = torch.randint(1, 50, (2, 6)), torch.randn(2, 3, 16)
    mask = torch.ones(2, 6, dtype=torch.bool)
    changed = ids.clone()
    changed[:, 4:] = 7
    before, after = model(ids, mask, context), model(changed, mask, context)
    close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_a_text_longer_than_the_positions():
    model = Bert(16, 1, 2, 0, 16, vocabulary=50, positions=9)
    ids = torch.ones(1, 10, dtype=torch.long)
    with pytest.raises(InputError, match="a text has 10 tokens; this model takes at most 9"):
        model.text(ids, ids.bool())
