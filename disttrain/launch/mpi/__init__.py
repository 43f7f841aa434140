"""What `launchers/mpirun.sh` and `launchers/horovodrun.sh` do: look at everything first, start, hand the exit code on.

Nothing in here imports torch: what is wrong is said at once.
"""
