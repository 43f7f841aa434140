"""The forms of answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from disttrain.serve.requests import EncodedImages


class ModelIdentity(BaseModel):
    """The model that has answered."""

    name: str = Field(description="the network, as `model.name` in the config it was trained by")
    version: str = Field(description="changes with the weights and with the description of the model")
    weights_sha256: str


class Prediction(BaseModel):
    """One image: a label, or the reason why there is none."""

    name: str
    label: str | None = None
    probability: float | None = Field(None, description="of the label")
    probabilities: dict[str, float] | None = Field(None, description="by class")
    error: str | None = None


class Predictions(BaseModel):
    """One entry for each image, in the order of the request."""

    model: ModelIdentity
    predictions: list[Prediction]
    detail: str | None = Field(None, description="where an image could not be read")


class FoundBox(BaseModel):
    """In pixels of the scene; x and y are of the upper left corner."""

    x: int
    y: int
    width: int
    height: int
    score: float


class Boxes(BaseModel):
    """What was found in a scene, from above to below."""

    model: ModelIdentity
    name: str
    class_: str = Field(alias="class")
    threshold: float
    width: int
    height: int
    boxes: list[FoundBox]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
    model: ModelIdentity | None = None
    error: str | None = Field(None, description="what is wrong with the scene")


class Description(ModelIdentity):
    """The model that is served, and the limits of requests."""

    classes: list[str]
    input: dict[str, Any]
    metrics: dict[str, Any] = Field(description="as measured at the end of its training")
    loaded: str
    runtime: str = Field(description="what computes the answers about images: torch or onnxruntime")
    golden: dict[str, Any] = Field(description="requests that were replayed when it was loaded")
    refused: dict[str, str] | None = Field(description="when and why a newer model in the directory was not taken")
    limits: dict[str, float]


def body_of(many: bool) -> dict[str, Any]:
    """`openapi_extra` of a route that takes images."""
    file = {"type": "string", "format": "binary"}
    form = {"images": {"type": "array", "items": file, "minItems": 1}} if many else {"scene": file}
    json_schema = EncodedImages.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = json_schema.pop("$defs")
    json_schema["properties"]["images"]["items"] = definitions["EncodedImage"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": list(form)}},
                "application/json": {"schema": json_schema},
            },
        }
    }


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route."""
    described = {
        401: "The API key is missing or wrong.",
        408: "The request did not come in time.",
        413: "The request is larger, or has more images, than may be.",
        415: "The body is neither a form nor JSON.",
        422: "The request or its images cannot be read.",
        503: "The server is full: try again after Retry-After seconds.",
        504: "There was no answer in time.",
    }
    return {status: {"model": Problem, "description": described[status]} for status in statuses}
