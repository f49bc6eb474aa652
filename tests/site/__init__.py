"""Tests of the way from shards to ledger."""
