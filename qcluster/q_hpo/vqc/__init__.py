"""Simulated circuits as the model of a search: features with a Bayesian head, or trained angles."""
