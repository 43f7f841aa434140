"""Fixtures of chaos."""

from __future__ import annotations

from forked import _commands_are_forked  # noqa: F401
