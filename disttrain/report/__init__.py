"""Runs as pictures and tables in one HTML file: `read` (files -> values), `svg` and `page` (drawing), sections."""
