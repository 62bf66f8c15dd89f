"""Loops over the diagonal cost, shared by the qubit and the level engine."""
