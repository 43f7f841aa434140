"""Whether this machine, and the job that it is part of, are fit to train: facts are gathered, checks judge them."""
