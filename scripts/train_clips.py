"""Train clips-umt, the offline video model, on generated clips: about an hour on two CPU cores.

    python scripts/train_clips.py

One vision and one text encoder learn retrieval (contrast and matching, as UMT is fine-tuned) and
question answering at once. As in UMT's pre-training a step shows a small part of the patches, and
a teacher says what each of them is part of; here the teacher is the generator. Half of the patches
are where the things are, half anywhere; the last steps show a third of the patches, chosen
blindly. An interrupted run goes on where it stopped; every step seeds itself, so the weights are
the same either way.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.models.umt.vision import sinusoids
from repshift.evaluation.zoo.clips.language import ANSWERS, caption, question, vocabulary
from repshift.evaluation.zoo.clips.model import (
    CONFIG,
    SAMPLING,
    VOCABULARY,
    WEIGHTS,
    tokenizer,
    untrained_answering,
    untrained_retrieval,
)
from repshift.evaluation.zoo.clips.render import render
from repshift.evaluation.zoo.clips.scene import COLOURS, MOTIONS, SHAPES, SIZES, draw_scene, twin
from repshift.evaluation.zoo.packaged import weights_file
from repshift.files import replacing, write_text

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS, CAPTION, QUESTION = 3, 26, 12  # of each clip; word pieces
GRID = SAMPLING.size // CONFIG.patch
# Up to this share of the steps: clips in a step, patches of a clip, and share of them on things.
STAGES = ((0.92, 48, 64, 0.5), (1.0, 48, 264, 0.0))
# What the teacher tells of a patch: the thing it shows, by what can be asked about it.
ORDER = ("first", "second", "together")
TOLD = (SHAPES, COLOURS, tuple(SIZES), MOTIONS, ORDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=weights_file(WEIGHTS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_text(weights_file(VOCABULARY), "\n".join(vocabulary()) + "\n")
    checkpoint = ROOT / "runs" / f"clips-umt-{args.steps}.pt"
    weights = train(args.steps, checkpoint)
    half = {key: weight.half().contiguous() for key, weight in weights.items()}
    with replacing(args.out) as whole:
        whole.write_bytes(save(half))
    checkpoint.unlink()  # the next call trains anew
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


class Pupil(nn.Module):
    """Both models with one vision and one text encoder, and what only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.retrieval, self.answering = untrained_retrieval(), untrained_answering()
        self.answering.vision_encoder.encoder = self.retrieval.vision_encoder.encoder
        self.answering.text_encoder = self.retrieval.text_encoder
        self.told = nn.Linear(CONFIG.vision_width, sum(len(names) for names in TOLD) + 2)
        words = tokenizer()
        self.captions = lambda texts: words.captions(texts, CAPTION)
        self.questions = lambda texts: words.captions(texts, QUESTION)
        self.answers = words.answers(ANSWERS)


def train(steps: int, checkpoint: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pupil = Pupil()
    optimizer = torch.optim.AdamW(groups(pupil), lr=0, betas=(0.9, 0.98))
    start, average = 0, None
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        pupil.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    for step in (bar := tqdm(range(start, steps), initial=start, total=steps, unit="step")):
        torch.manual_seed(step)
        _, size, patches, aimed = next(stage for stage in STAGES if step < stage[0] * steps)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate(step / steps)
        # Attention over few tokens is faster by plain products, in bfloat16 above all.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            losses = compute(pupil, *batch(step, size, patches, aimed))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        now = {name: loss.item() for name, loss in losses.items()}
        average = average or now
        average = {name: 0.98 * average[name] + 0.02 * now[name] for name in now}
        bar.set_postfix({name: f"{value:.2f}" for name, value in average.items()}, refresh=False)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state = {"model": pupil.state_dict(), "optimizer": optimizer.state_dict()}
            state["step"] = step + 1
            with replacing(checkpoint) as whole:
                torch.save(state, whole)
    return {**pupil.retrieval.state_dict(), **pupil.answering.state_dict()}


def groups(model: nn.Module) -> list[dict]:
    """No decay for biases, norms and the temperature."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate(done: float) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    return min(done / 0.03, 1.0) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def batch(step: int, size: int, patches: int, aimed: float):
    """Clips of which every second one is the twin of the one before, and which patches to see."""
    generator = np.random.default_rng([1, step])
    scenes = []
    for _ in range(size // 2):
        one = draw_scene(generator)
        scenes += [one, twin(one, generator)]
    times = (np.arange(SAMPLING.frames) + generator.uniform(0.25, 0.75)) / SAMPLING.frames
    video = np.stack([render(one, times, SAMPLING.size) for one in scenes])
    shown = np.stack([things(one, times) for one in scenes])
    # The highest of random numbers, after some of those on things were raised.
    chances = generator.random(shown.shape)
    rank = np.where(shown > 0, -chances, 0).argsort(1).argsort(1)
    chances += (shown > 0) & (rank < aimed * patches)
    chosen = torch.from_numpy(chances).topk(patches, dim=1).indices
    asked = [question(one, generator) for one in scenes for _ in range(QUESTIONS)]
    return (
        torch.from_numpy(video),
        chosen,
        torch.from_numpy(shown).gather(1, chosen),
        torch.tensor([[told(one, thing) for thing in (one.first, one.second)] for one in scenes]),
        [caption(one, generator) for one in scenes],
        [text for text, _ in asked],
        torch.tensor([ANSWERS.index(answer) for _, answer in asked]),
    )


def things(scene, times) -> np.ndarray:
    """The thing each patch shows, in the model's order: 0 none, 1 the first, 2 the second."""
    centres = (np.arange(GRID) + 0.5) / GRID
    x, y = centres[None, :], centres[:, None]
    frames = np.zeros((len(times), GRID, GRID), np.int64)
    for frame, time in zip(frames, times, strict=True):
        both = zip((scene.first, scene.second), scene.done(time), strict=True)
        for number, (thing, done) in enumerate(both, 1):
            if thing.seen(done):
                left, top, radius = thing.at(done)
                near = np.maximum(abs(x - left), abs(y - top)) < radius + 0.3 / GRID
                frame[near] = number
    return frames.reshape(-1)


def told(scene, thing) -> list[int]:
    """Numbers of what the teacher tells of a thing, in the order of TOLD."""
    order = "first" if thing is scene.first else "second"
    if scene.order == "together":
        order = "together"
    said = (thing.shape, thing.colour, thing.size, thing.motion, order)
    return [names.index(word) for names, word in zip(TOLD, said, strict=True)]


def compute(pupil, video, chosen, shown, about, captions, questions, truth):
    retrieval, answering = pupil.retrieval, pupil.answering
    tokens = seen(retrieval.vision_encoder.encoder, video, chosen)

    parts = pupil.told(tokens).float().split([2, *map(len, TOLD)], dim=-1)
    on_thing = shown > 0
    labels = about[torch.arange(len(shown))[:, None], shown.clamp_min(1) - 1][on_thing]
    teacher = F.cross_entropy(parts[0].transpose(1, 2), on_thing.long())
    teacher = teacher + sum(
        F.cross_entropy(part[on_thing], labels[:, number]) for number, part in enumerate(parts[1:])
    )

    pooled = retrieval.vision_encoder.pool_norm(tokens.mean(1, keepdim=True))
    ids, mask = pupil.captions(captions)
    text = retrieval.encode_text(ids, mask)
    with torch.no_grad():
        retrieval.temp.clamp_(0.02, 0.5)
    similar = retrieval.similarity(pooled, text) / retrieval.temp
    same = torch.arange(len(similar))
    contrast = (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2

    # Half of the wrong pairs are the most similar, mostly twins; half are any.
    other = (1 - torch.eye(len(same))) / (len(same) - 1)
    near = similar.detach().float().masked_fill(other == 0, -torch.inf)
    wrong_text = (near.softmax(1) + other).multinomial(1)[:, 0]
    wrong_video = (near.T.softmax(1) + other).multinomial(1)[:, 0]
    videos = torch.cat([same, same, wrong_video])
    texts = torch.cat([same, wrong_text, same])
    logits = retrieval.match(tokens[videos], text[texts], mask[texts])
    right = (torch.arange(len(videos)) < len(same)).long()
    matching = F.cross_entropy(logits, right)

    asked, asked_mask = pupil.questions(questions)
    read = answering.text_encoder(asked, asked_mask, tokens.repeat_interleave(QUESTIONS, 0))
    spoken, spoken_mask = (part[truth] for part in pupil.answers)
    words = answering.text_decoder(spoken, spoken_mask, read, asked_mask)[:, :-1]
    target = spoken[:, 1:].masked_fill(~spoken_mask[:, 1:], -100)
    answer = F.cross_entropy(words.transpose(1, 2), target)
    return {"teacher": teacher, "contrast": contrast, "matching": matching, "answer": answer}


def seen(encoder, video, chosen):
    """Tokens of the chosen patches of each clip, which alone are embedded."""
    edge = CONFIG.patch
    patches = video.unfold(3, edge, edge).unfold(4, edge, edge)  # B T 3 h w edge edge
    patches = patches.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(1, 3)
    places = sinusoids(patches.shape[1], CONFIG.vision_width)
    patches = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))
    embed = encoder.patch_embed.proj
    pixels = normalise(patches.unflatten(-1, (3, edge, edge))).flatten(-3)
    tokens = F.linear(pixels, embed.weight.flatten(1), embed.bias) + places[chosen]
    for block in encoder.blocks:
        tokens = block(tokens)
    return encoder.norm(tokens)


if __name__ == "__main__":
    main()
