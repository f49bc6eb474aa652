"""What jobs used: CPU time of their cgroups, and what the hooks told of them."""
