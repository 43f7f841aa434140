"""What processes need of the operating system: streams, parents, locks on folders, the place of modules."""
