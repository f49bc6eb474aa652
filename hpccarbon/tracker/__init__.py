"""The Python API that runs inside a job."""
