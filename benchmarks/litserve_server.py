"""A model behind LitServe, batched by it as its documentation says.

python benchmarks/litserve_server.py MODEL_DIR --port PORT
"""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import Request

from disttrain.data.decode import decode_image
from disttrain.inference.predictor import Predictor, label_of
from disttrain.models.model_dir import load_model_dir


class Planes(litserve.LitAPI):
    """One image a request."""

    def setup(self, device: str) -> None:
        model, self.spec = load_model_dir(Path(sys.argv[1]))
        self.predictor = Predictor(model, self.spec, torch.device("cpu"))

    def decode_request(self, request: Request) -> np.ndarray:  # LitServe reads the annotation, and gives the form
        channels, height, width = self.spec.input_shape
        form: Any = request
        return decode_image(form["images"].file.read(), (channels, height, width), self.spec.resize)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.predictor.probabilities(images)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        label, probability, by_class = label_of(output, self.spec.class_names)
        return {"label": label, "probability": probability, "probabilities": by_class}


if __name__ == "__main__":
    api = Planes(max_batch_size=64, batch_timeout=0.005, api_path="/v1/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[-1]), log_level="warning", generate_client_file=False)
