"""Installs hpccarbon on a site's machines and takes it away again. Measures nothing and never edits slurm.conf."""
