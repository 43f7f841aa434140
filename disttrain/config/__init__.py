"""The typed config of a run: `sections` (fields), `load` (YAML, overrides), `rules`, `reference` (help, schema)."""

from disttrain.config.load import build_config, config_differences, load_config, render_yaml
from disttrain.config.sections import Config

__all__ = ["Config", "build_config", "config_differences", "load_config", "render_yaml"]
