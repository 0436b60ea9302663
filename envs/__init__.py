"""Worlds behind one door: `envs.make.make_vec`."""
