"""A private Slurm cluster of four nodes on one machine, with a power meter whose truth is known. See cluster.Lab."""

from tests.lab.cluster import Lab, Node
from tests.lab.processes import LabError

__all__ = ["Lab", "LabError", "Node"]
