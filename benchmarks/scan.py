"""The selective scan on CPU: against loops over the tokens, and Vim's mixer against Mamba's.

Loops: the recurrence token by token as it is written down, and with all tokens discretised at once
beforehand, as mamba's own reference and Hugging Face's plain Mamba do. Vim's mixer scans in both
directions, the Mamba mixer of Hugging Face in one.

    python benchmarks/scan.py --out docs/results/scan-cpu.md
"""

import argparse
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import transformers
from torch.nn import functional as F
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from repshift.evaluation.models.vim.mixer import Mixer
from repshift.evaluation.models.vim.scan import selective_scan
from repshift.files import write_text
from repshift.measure.memory import peak_memory
from repshift.measure.speed import interleave, speedup

WIDTHS = {"Vim-T": 192, "Vim-S": 384}
STATE = 16


def step_by_step(x, delta, decay, write, read):
    state, outputs = x.new_zeros(x.shape[0], *decay.shape), []
    for t in range(x.shape[1]):
        fade = torch.exp(delta[:, t, :, None] * decay)
        state = fade * state + (delta[:, t] * x[:, t])[..., None] * write[:, t, None]
        outputs.append((state * read[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def discretised_at_once(x, delta, decay, write, read):
    delta = delta.transpose(1, 2)[..., None]
    fade = torch.exp(delta * decay[:, None])
    taken = delta * write[:, None] * x.transpose(1, 2)[..., None]
    state, outputs = x.new_zeros(x.shape[0], *decay.shape), []
    for t in range(x.shape[1]):
        state = fade[:, :, t] * state + taken[:, :, t]
        outputs.append((state @ read[:, t, :, None])[..., 0])
    return torch.stack(outputs, dim=1)


def ways(width, batch, tokens):
    """What is timed, the scans first; each is called without arguments.

    Every scan takes an exponential for each entry of the state at each token: no loop can be
    beaten by more than its time over theirs.
    """
    torch.manual_seed(0)
    inner = 2 * width
    values = (
        torch.randn(batch, tokens, inner),
        F.softplus(torch.randn(batch, tokens, inner) - 3),
        -torch.arange(1.0, STATE + 1).repeat(inner, 1),
        torch.randn(batch, tokens, STATE),
        torch.randn(batch, tokens, STATE),
    )
    scans = {
        "loop, token by token": lambda: step_by_step(*values),
        "loop, discretised at once": lambda: discretised_at_once(*values),
        "selective_scan": lambda: selective_scan(*values),
    }
    expected, *others = (scan() for scan in scans.values())
    for found in others:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    exponents, room = -torch.rand(2, 2**18)
    parts = -(-batch * tokens * inner * STATE // 2**18)
    stream = torch.randn(batch, tokens, width)
    config = MambaConfig(hidden_size=width, state_size=STATE, num_hidden_layers=1)
    theirs, ours = MambaMixer(config, 0).eval(), Mixer(width, STATE).eval()
    return scans | {
        "the exponentials alone": lambda: [torch.exp(exponents, out=room) for _ in range(parts)],
        "mixer of transformers, one direction": lambda: theirs(stream),
        "mixer of Vim, both directions": lambda: ours(stream),
    }


def measure(name, batch, tokens, rounds):
    calls, chosen = ways(WIDTHS[name], batch, tokens), []

    @contextmanager
    def calling(call):
        chosen[:] = [call]
        yield

    contenders = {way: lambda call=call: calling(call) for way, call in calls.items()}
    times = interleave(contenders, lambda: chosen[0](), rounds=rounds, seconds=0.3)
    for way, call in calls.items():
        ours = "mixer of Vim, both directions" if "mixer" in way else "selective_scan"
        ratio = speedup(times[ours], times[way])
        peak = peak_memory(call, torch.device("cpu")) / 1e6
        yield (
            f"| {name} | {way} | {1e3 * median(times[way]):.1f} | {ratio:.2f} times | {peak:.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/scan.md"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=197)
    arguments = parser.parse_args()
    lines = [
        f"Batch {arguments.batch}, {arguments.tokens} tokens, state {STATE}, "
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, transformers "
        f"{transformers.__version__}, {arguments.rounds} rounds in turn.",
        "",
        "| widths of | what | ms | takes, of ours | peak MB |",
        "|---|---|---|---|---|",
    ]
    for name in WIDTHS:
        lines += measure(name, arguments.batch, arguments.tokens, arguments.rounds)
    write_text(arguments.out, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
