"""Real trainings, disturbed at random and checked: `python -m tests.chaos 100 7`, or `make chaos N=100 SEED=7`."""
