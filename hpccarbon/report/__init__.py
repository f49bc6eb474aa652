"""Tables that people read. Formats rows that are already right."""
