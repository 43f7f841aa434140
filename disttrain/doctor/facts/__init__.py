"""What is so on a machine, without a word on whether that is good. Nothing here imports torch."""
