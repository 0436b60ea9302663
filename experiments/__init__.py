"""Commands, and the only place where agents, environments and the PBT engine meet."""
