"""The charts of a report as PNG files, by resvg, with the same letters on every machine."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

from disttrain.errors import ConfigError
from disttrain.files import write_bytes
from disttrain.report.curves import Drawn
from disttrain.report.page import standalone

_ZOOM = 2.0


def write_png_files(folder: Path, drawn: Sequence[Drawn]) -> list[Path]:
    """One file a chart. Raises ConfigError where resvg-py is not installed, OSError where a file cannot be written."""
    try:
        import resvg_py
    except ImportError:
        raise ConfigError("--png needs resvg-py: pip install 'disttrain[report]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with tempfile.TemporaryDirectory() as temporary:
        fonts = _own_font(Path(temporary))
        for one in drawn:
            image = resvg_py.svg_to_bytes(
                svg_string=standalone(one.svg), background="#ffffff", zoom=_ZOOM, font_files=fonts,
                font_family="Aileron", sans_serif_family="Aileron",
            )  # fmt: skip
            paths.append(folder / f"{one.name}.png")
            write_bytes(paths[-1], image)
    return paths


def _own_font(folder: Path) -> list[str]:
    """The font that Pillow brings along: a machine without any would leave all letters out."""
    font = ImageFont.load_default(12)
    source = getattr(font, "path", None)
    if not isinstance(source, io.BytesIO):
        return []
    path = folder / "font.ttf"
    path.write_bytes(source.getvalue())
    return [str(path)]
