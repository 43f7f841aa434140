"""Real gloo processes: what several ranks do together."""
