"""The example of a server: each answer is that of the model alone, whatever it was batched with."""

import io
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from repshift import Plan, Shift, ToMe, compress
from repshift.evaluation.data.images import decode_image
from repshift.evaluation.zoo.load import load_model

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "serve_encoder.py"))
THREADS = 12


def pictures(count):
    """PNG files of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    buffers = [io.BytesIO() for _ in pixels]
    for one, buffer in zip(pixels, buffers, strict=True):
        Image.fromarray(one).save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("plan", [Plan({0: 0.3, 2: 5}, Shift()), Plan({0: 9}, reduction=ToMe())])
def test_many_threads_get_what_the_model_says_alone(plan, batches):
    loaded = load_model("digits-vit")
    model, files = loaded.model, pictures(2 * THREADS)
    compress(model, plan)
    with torch.inference_mode():
        images = [loaded.prepare(decode_image(io.BytesIO(file), "x")) for file in files]
        alone = [model(image[None])[0] for image in images]
    sizes, together = [], Barrier(THREADS)
    model.register_forward_hook(lambda _, args, output: sizes.append(len(args[0])))

    def one(image):
        with torch.inference_mode():
            return model(image[None])[0]

    run = EXAMPLE["Batches"](model, most=8) if batches else one
    with TestClient(EXAMPLE["server"](run, loaded.prepare)) as client:

        def ask(file):
            together.wait(60)
            return client.post("/embed", content=file)

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(ask, files))
        assert client.post("/embed", content=b"no image").status_code == 400
    for answer, expected in zip(answers, alone, strict=True):
        torch.testing.assert_close(torch.tensor(answer.json()), expected, atol=1e-4, rtol=1e-4)
    assert sum(sizes) == len(files)
    assert max(sizes) == 1 if not batches else 1 < max(sizes) <= 8


def test_a_batch_that_fails_fails_for_all_that_wait_and_the_next_one_runs():
    def model(images):
        if images.sum() < 0:
            raise ValueError("below zero")
        return images + 1

    run = EXAMPLE["Batches"](model)
    with pytest.raises(ValueError, match="below zero"):
        run(torch.tensor([-1.0]))
    assert run(torch.tensor([1.0])) == 2
