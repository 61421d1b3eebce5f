"""Small videos, rendered by PyAV, whose frames say which they are."""

import sys
import types
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

from repshift.evaluation.data import videos

WIDTH, HEIGHT, BITS = 64, 48, 8


def picture(number, noise=0):
    """A frame that shows its number as eight dark and bright columns, here and there noisy."""
    columns = [230 if number >> bit & 1 else 20 for bit in range(BITS)]
    row = np.repeat(np.array(columns), WIDTH // BITS)
    noisy = np.random.default_rng(number).integers(-noise, noise + 1, (HEIGHT, WIDTH, 3))
    return (row[None, :, None] + noisy).clip(0, 255).astype(np.uint8)


def numbers(frames):
    """What the frames [T, 3, H, W] show, at any size."""
    columns = frames.float().mean(dim=(1, 2)).unflatten(1, (BITS, -1)).mean(dim=2) > 125
    return [sum(int(bit) << place for place, bit in enumerate(row)) for row in columns]


def write_video(path, count, codec="libx264", times=None, rate=25, noise=0, **options):
    """``times``: when each frame is shown, in milliseconds, instead of at a constant rate."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, noise), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = np.zeros((1, 4410), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def torchcodec_is(decoder, monkeypatch):
    """In the block, ``decoder`` stands for torchcodec's VideoDecoder."""
    module = types.ModuleType("torchcodec")
    module.decoders = types.ModuleType("torchcodec.decoders")
    module.decoders.VideoDecoder = decoder
    monkeypatch.setattr(videos.importlib.metadata, "version", lambda name: "0.0")
    monkeypatch.setitem(sys.modules, "torchcodec", module)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module.decoders)
    videos.torchcodec_version.cache_clear()
    yield
    videos.torchcodec_version.cache_clear()
