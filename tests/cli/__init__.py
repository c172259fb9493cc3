"""Tests of the command line on a fake engine, without weights."""
