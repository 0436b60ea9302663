"""Commands: the only place where agents, worlds and the PBT engine meet."""
