"""A compressed encoder behind HTTP: requests that wait for it go through it together.

python examples/serve_encoder.py
curl --data-binary @photograph.jpg http://127.0.0.1:8000/embed
"""

from collections.abc import Callable
from concurrent.futures import Future
from io import BytesIO
from queue import SimpleQueue
from threading import Lock

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from torch import Tensor, nn

from repshift import InputError, Plan, compress
from repshift.evaluation.data.images import decode_image
from repshift.evaluation.zoo.load import load_model


class Batches:
    """The model, for many threads: whoever comes first runs it on all the images that wait."""

    def __init__(self, model: nn.Module, most: int = 16) -> None:
        self.model, self.most = model, most
        self.waiting: SimpleQueue[tuple[Tensor, Future[Tensor]]] = SimpleQueue()
        self.turn = Lock()

    def __call__(self, image: Tensor) -> Tensor:
        """What the model makes of one image."""
        answer: Future[Tensor] = Future()
        self.waiting.put((image, answer))
        with self.turn:
            while not answer.done():
                self.run()
        return answer.result()

    def run(self) -> None:
        """One batch of those that came first."""
        count = min(self.most, self.waiting.qsize())
        images, answers = zip(*(self.waiting.get() for _ in range(count)), strict=True)
        try:
            with torch.inference_mode():
                vectors = self.model(torch.stack(images))
        except BaseException as error:  # nobody waits for ever
            for answer in answers:
                answer.set_exception(error)
            return
        for answer, vector in zip(answers, vectors, strict=True):
            answer.set_result(vector)


def server(run: Callable[[Tensor], Tensor], prepare: Callable[..., Tensor]) -> FastAPI:
    """Answers an image file by its vector; each request has a thread of Starlette's pool."""
    app = FastAPI()

    def embed(file: bytes) -> list[float]:
        return run(prepare(decode_image(BytesIO(file), "the file"))).tolist()

    @app.post("/embed")
    async def answer(request: Request) -> list[float]:
        try:
            return await run_in_threadpool(embed, await request.body())
        except InputError as error:
            raise HTTPException(400, str(error)) from None

    return app


if __name__ == "__main__":
    loaded = load_model("saliency-vit-s14")  # your own
    compress(loaded.model, Plan.paper("deit"))
    uvicorn.run(server(Batches(loaded.model), loaded.prepare))
