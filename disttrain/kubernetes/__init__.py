"""Manifests for Kubernetes: checked before they are submitted, and rendered from a config. Needs no cluster."""
