"""Environments behind one function: `envs.make.make_vec`."""
