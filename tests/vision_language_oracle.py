"""The dense language model on what is left of a prompt, at the positions of the whole one."""

import inspect

import torch
import transformers


def language_of(model):
    core = model.model
    return core.text_model if hasattr(core, "text_model") else core.language_model


def taken(model, batch):
    """What the dense language model is given for a batch."""
    given = {}
    handle = language_of(model).register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model(**batch, use_cache=False)
    handle.remove()
    return given


class Oracle:
    """The dense language model on the gathered embeddings of one row, at dense positions."""

    def __init__(self, model, given, row, columns):
        self.model, self.language = model, language_of(model)
        embeds = given["inputs_embeds"]
        count = embeds.shape[1]
        self.embeds = embeds[row, columns][None]
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(count)[None]
        positions = positions.expand(*positions.shape[:-2], len(embeds), count)
        rotary = positions[1:] if positions.ndim == 3 and len(positions) == 4 else positions
        self.positions = rotary[..., row : row + 1, columns]
        self.next = int(rotary[..., row, :].max()) + 1
        self.extra = {}
        if given.get("visual_pos_masks") is not None:
            marks = given["visual_pos_masks"]
            order = (marks.flatten().cumsum(0) - 1).view_as(marks)
            chosen = columns[marks[row, columns]]
            self.extra = {
                "visual_pos_masks": marks[row, columns][None],
                "deepstack_visual_embeds": [
                    one[order[row, chosen]] for one in given["deepstack_visual_embeds"]
                ],
            }
        mask = given.get("attention_mask")
        self.mask = torch.ones(1, len(columns), dtype=torch.long)
        if isinstance(mask, dict):
            self.mask = {
                name: one if one is None else one[row, :, columns][None][..., columns]
                for name, one in mask.items()
            }
        elif mask is not None and mask.ndim == 4:
            self.mask = mask[row, :, columns][None][..., columns]

    def _run(self, embeds, mask, positions, cache, **extra):
        name = "cache" if "cache" in inspect.signature(self.language.forward).parameters else ""
        output = self.language(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
            **{name or "past_key_values": cache},
            **extra,
        )
        return self.model.lm_head(output.last_hidden_state)

    @torch.no_grad()
    def logits(self):
        return self._run(self.embeds, self.mask, self.positions, None, **self.extra)[0]

    @torch.no_grad()
    def write(self, count):
        """Greedy words, one after the other, at the positions of the dense model."""
        cache = transformers.DynamicCache(config=self.language.config)
        logits = self._run(self.embeds, self.mask, self.positions, cache, **self.extra)
        found = []
        for step in range(count):
            found.append(int(logits[0, -1].argmax()))
            embeds = self.model.get_input_embeddings()(torch.tensor([[found[-1]]]))
            places = torch.full((*self.positions.shape[:-1], 1), self.next + step)
            logits = self._run(embeds, None, places, cache)
        return found
