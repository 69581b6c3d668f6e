"""Helpers without a subject of their own: files, configuration, missing labels, Pyro's parameter store."""
