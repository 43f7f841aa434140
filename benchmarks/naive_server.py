"""A model behind FastAPI as a first program has it: every request is decoded and computed by itself.

python benchmarks/naive_server.py MODEL_DIR [async] --port PORT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, UploadFile

from disttrain.data.decode import decode_image
from disttrain.inference.predictor import Predictor, label_of
from disttrain.models.model_dir import load_model_dir


def build_app(model_dir: Path, in_event_loop: bool) -> FastAPI:
    """`in_event_loop`: an `async def` endpoint, which nothing runs beside; else one in FastAPI's threads."""
    model, spec = load_model_dir(model_dir)
    predictor = Predictor(model, spec, torch.device("cpu"))
    channels, height, width = spec.input_shape
    app = FastAPI()

    def classify(data: bytes) -> dict[str, Any]:
        pixels = decode_image(data, (channels, height, width), spec.resize)
        label, probability, by_class = label_of(predictor.probabilities(pixels[None])[0], spec.class_names)
        return {"label": label, "probability": probability, "probabilities": by_class}

    if in_event_loop:

        @app.post("/v1/predict")
        async def predict(images: UploadFile) -> dict[str, Any]:
            return classify(await images.read())
    else:

        @app.post("/v1/predict")
        def predict_in_thread(images: UploadFile) -> dict[str, Any]:
            return classify(images.file.read())

    return app


if __name__ == "__main__":
    uvicorn.run(
        build_app(Path(sys.argv[1]), "async" in sys.argv),
        host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]), log_level="warning", access_log=False,
    )  # fmt: skip
