"""Tests of reports; results are written by hand, no model runs."""
