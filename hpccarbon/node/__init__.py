"""The node daemon: meters, usage, division, store. Never imports what reports need."""
