"""`disttrain detect`."""

from __future__ import annotations

import argparse
from pathlib import Path

from disttrain.commands.output import check_output_file
from disttrain.commands.start import join_or_start, validated_session
from disttrain.errors import DataError
from disttrain.files import expand_home, user_path

_BOX_FORMATS, _PICTURE_FORMATS = (".json", ".csv", ".geojson"), (".png", ".jpg", ".jpeg")


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """`disttrain detect`; returns the exit code."""
    scenes = [expand_home(scene) for scene in arguments.inputs]
    output, picture = (None if one is None else expand_home(one) for one in (arguments.output, arguments.image))

    def validate(world_size: int) -> None:
        check_output_file("--output", output, _BOX_FORMATS, "boxes are", scenes, arguments.json)
        check_output_file("--image", picture, _PICTURE_FORMATS, "pictures are", scenes)
        for scene in scenes:
            if not Path(scene).exists() and not any(sign in scene for sign in "*?["):
                raise DataError(f"{scene} does not exist: give the picture of a scene, or a folder of such.")

    rank = join_or_start(arguments, argv, validate)
    if isinstance(rank, int):
        return rank
    from disttrain.inference.detect import DetectRequest, detect_scenes

    request = DetectRequest(
        user_path(arguments.model), scenes, output, picture, arguments.threshold, arguments.class_name,
        arguments.device, arguments.allow_code,
    )  # fmt: skip
    with validated_session(rank, arguments, validate) as (session, _):
        detect_scenes(request, rank, session.control_plane)
    return 0
