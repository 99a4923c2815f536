"""Tests of the diagnosis of a data set."""
