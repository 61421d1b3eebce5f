"""Train clips-umt, the offline video model, on generated clips: about an hour on two CPU cores.

    python scripts/train_clips.py

One vision and one text encoder learn retrieval (contrast and matching, as UMT is fine-tuned) and
question answering at once. Most steps show the model a small part of the patches, which makes a
step ten times cheaper: half of them where the things are, which the generator knows, and half
anywhere. Then come steps with a third of the patches, chosen blindly, and at last with all. An
interrupted run goes on where it stopped; every step seeds itself, so the weights are the same
either way.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from repshift.data.pixels import normalise
from repshift.models.umt.tokenizer import Tokenizer
from repshift.models.umt.vision import sinusoids
from repshift.zoo.clips.language import ANSWERS, caption, question, vocabulary
from repshift.zoo.clips.model import (
    CONFIG,
    SAMPLING,
    VOCABULARY,
    WEIGHTS,
    untrained_answering,
    untrained_retrieval,
)
from repshift.zoo.clips.render import render
from repshift.zoo.clips.scene import draw_scene, twin

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS, LENGTH = 2, 26
# Up to this share of the steps: clips in a step, patches of a clip, and share of them on things.
STAGES = ((0.88, 48, 64, 0.5), (0.98, 48, 264, 0.0), (1.0, 24, 800, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write(VOCABULARY, lambda path: path.write_text("\n".join(vocabulary()) + "\n"))
    checkpoint = ROOT / "runs" / f"clips-umt-{args.steps}.pt"
    weights = train(args.steps, checkpoint)
    half = {key: weight.half().contiguous() for key, weight in weights.items()}
    write(args.out, lambda path: path.write_bytes(save(half)))
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def train(steps: int, checkpoint: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    retrieval, answering = untrained_retrieval(), untrained_answering()
    answering.vision_encoder.encoder = retrieval.vision_encoder.encoder
    answering.text_encoder = retrieval.text_encoder
    both = torch.nn.ModuleDict({"retrieval": retrieval, "answering": answering})
    optimizer = torch.optim.AdamW(groups(both), lr=0, betas=(0.9, 0.98))
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        both.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    tokenizer = Tokenizer(VOCABULARY, len(vocabulary()))
    answers = tokenizer.answers(ANSWERS)
    average = None
    for step in (bar := tqdm(range(start, steps), initial=start, total=steps, unit="step")):
        torch.manual_seed(step)
        _, size, patches, aimed = next(stage for stage in STAGES if step < stage[0] * steps)
        video, chosen, captions, questions, truth = batch(step, size, patches, aimed)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate(step / steps)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            losses = compute(
                retrieval,
                answering,
                video,
                chosen,
                tokenizer.captions(captions, LENGTH),
                tokenizer.captions(questions, 12),
                truth,
                answers,
            )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        now = torch.tensor([loss.item() for loss in losses.values()])
        average = now if average is None else average.lerp(now, 0.02)
        if step % 10 == 0:
            bar.set_postfix(
                {k: f"{v:.2f}" for k, v in zip(losses, average.tolist())}, refresh=False
            )
        if (step + 1) % 200 == 0 or step + 1 == steps:
            state = {
                "model": both.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            write(checkpoint, lambda path: torch.save(state, path))
    return {**retrieval.state_dict(), **answering.state_dict()}


def groups(model: torch.nn.Module) -> list[dict]:
    """No decay for biases, norms and the temperature."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def rate(done: float) -> float:
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
    asked = [question(one, generator) for one in scenes for _ in range(QUESTIONS)]
    # The highest of random numbers, raised where the things are for some of them.
    chances = generator.random((size, SAMPLING.frames * (SAMPLING.size // CONFIG.patch) ** 2))
    if aimed:
        on_things = np.stack([covered(one, times) for one in scenes])
        few = on_things * generator.random(chances.shape)
        rank = (-few).argsort(1).argsort(1)
        chances += 1.0 * on_things * (rank < aimed * patches)
    chosen = torch.from_numpy(chances).topk(patches, dim=1).indices
    return (
        torch.from_numpy(video),
        chosen,
        [caption(one, generator) for one in scenes],
        [text for text, _ in asked],
        torch.tensor([ANSWERS.index(answer) for _, answer in asked]),
    )


def covered(scene, times) -> np.ndarray:
    """Which patches, in the model's order, one of the things touches."""
    grid = (np.arange(SAMPLING.size // CONFIG.patch) + 0.5) * CONFIG.patch / SAMPLING.size
    x, y = grid[None, :], grid[:, None]
    frames = []
    for time in times:
        touched = np.zeros((len(grid), len(grid)), bool)
        for thing, done in zip((scene.first, scene.second), scene.done(time), strict=True):
            left, top, radius = thing.at(done)
            touched |= (
                np.maximum(abs(x - left), abs(y - top))
                < radius + 0.5 * CONFIG.patch / SAMPLING.size
            )
        frames.append(touched)
    return np.stack(frames).reshape(-1)


def compute(retrieval, answering, video, chosen, captions, questions, truth, answers):
    vision = retrieval.vision_encoder
    tokens = seen(vision.encoder, video, chosen)
    pooled = vision.pool_norm(tokens.mean(1, keepdim=True))
    ids, mask = captions
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
    target = torch.zeros(len(videos), dtype=torch.long)
    target[: len(same)] = 1
    matching = F.cross_entropy(logits, target)

    asked, asked_mask = questions
    read = answering.text_encoder(asked, asked_mask, tokens.repeat_interleave(QUESTIONS, 0))
    spoken, spoken_mask = (part[truth] for part in answers)
    words = answering.text_decoder(spoken, spoken_mask, read, asked_mask)[:, :-1]
    target = spoken[:, 1:].masked_fill(~spoken_mask[:, 1:], -100)
    answer = F.cross_entropy(words.transpose(1, 2), target)
    return {"contrast": contrast, "matching": matching, "answer": answer}


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


def write(path: Path, save) -> None:
    """Save beside the file, then rename: it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save(partial)
    partial.replace(path)


if __name__ == "__main__":
    main()
