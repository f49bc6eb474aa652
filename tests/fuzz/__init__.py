"""Inputs that nobody would write, fed to everything that reads what somebody else wrote (`make fuzz`)."""
