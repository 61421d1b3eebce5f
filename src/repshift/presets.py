"""The schedules of the papers, by name: what leaves after which block, counted from 0."""

from __future__ import annotations

# arXiv 2508.00367, sections 4.1 and 4.2. The paper counts DeiT's blocks from one ([1, 4, 7]); its
# published command and its printed FLOPs give blocks 0, 3, 6 counted from zero.
SHIFT: dict[str, dict[int, float]] = {
    "deit": {0: 0.2, 3: 0.2, 6: 0.2},
    "umt-retrieval": {0: 0.2, 1: 0.2, 2: 0.2},
    "umt-qa": {0: 0.1, 1: 0.1, 2: 0.1},
    # ToP-ViM's (arXiv 2409.18962): after layers 10 and 20 of 24, counted from one.
    "vim": {9: 0.2, 19: 0.2},
}

# Of a ResNet's rows and columns: 8 of 56 after the first stage, 4 of 24 after the second, at 224
# pixels; as shares, so that they scale with the image.
RESNET: dict[int, float] = {0: 1 / 7, 1: 1 / 6}

# vid-TLDR (CVPR 2024), the table of its README: tokens that leave in the first blocks of UMT, of
# 2352 (12 frames of 14 x 14).
_VID_TLDR = {
    "msrvtt": ((600, 200, 100), (550, 400)),
    "msvd": ((450, 250, 200), (600, 200, 100, 100)),
    "activitynet": ((500,), (600, 300)),
    "didemo": ((250, 150, 150, 150), (800, 100)),
    "lsmdc": ((400, 150, 150), (250, 250, 200, 200)),
    "ssv2-label": ((200, 200, 200, 100), (450, 250, 100)),
    "ssv2-template": ((400, 300), (350, 300, 100, 50)),
    "msrvtt-qa": ((600, 200), (400, 400, 100)),
    "msvd-qa": ((600, 200), (400, 400, 100)),
}
VID_TLDR: dict[str, dict[int, float]] = {
    f"vid-tldr/{data}-{size}": dict(enumerate(counts))
    for data, sizes in _VID_TLDR.items()
    for size, counts in zip(("b16", "l16"), sizes, strict=True)
}
