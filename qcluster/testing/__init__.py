"""Conformance tests that third parties' implementations of qcluster's seams can subclass."""
