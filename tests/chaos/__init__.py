"""Real trainings, disturbed at random and checked: `make chaos N=100 SEED=7`."""
