"""Spack recipe, for Spack 1.0 and newer. Put this folder among the packages of a repository of the site's own.

spack repo create DIR site && cp -r py_hpccarbon DIR/spack_repo/site/packages/ && spack repo add DIR/spack_repo/site
spack env create hpccarbon && spack env activate hpccarbon
spack add py-hpccarbon@main && spack develop --path CHECKOUT py-hpccarbon@main && spack install
"""

from spack.package import depends_on, license, variant, version
from spack_repo.builtin.build_systems.python import PythonPackage


class PyHpccarbon(PythonPackage):
    """Job carbon accounting for Slurm clusters: every joule measured, divided among the jobs, and explained."""

    license("Apache-2.0")
    version("main")  # no address: what is built is the checkout that `spack develop` names
    variant("nvml", default=False, description="NVIDIA GPUs")
    variant("dask", default=False, description="Aggregation on Dask's or Slurm's workers")
    variant("charts", default=False, description="Charts in the monthly page")
    variant("exporter", default=False, description="Metrics for Prometheus")

    depends_on("python@3.10:3.13", type=("build", "run"))
    depends_on("py-hatchling@1.25:", type="build")
    depends_on("py-click@8.2:", type=("build", "run"))
    depends_on("py-msgspec@0.18.6:", type=("build", "run"))
    depends_on("py-numpy@1.24:", type=("build", "run"))
    depends_on("py-tomli@2.0.1:", type=("build", "run"), when="^python@:3.10")
    depends_on("py-pyarrow@17:", type=("build", "run"))
    # What a pyarrow can do is what its Arrow was built with.
    depends_on("arrow+compute+filesystem+parquet+python+snappy+zstd")
    # Spack's DuckDB has the Python package in it; time zones are its extension icu.
    depends_on("duckdb@1.3:+icu+parquet+python", type=("build", "run"))
    depends_on("py-pandas@2.1:", type=("build", "run"))
    depends_on("py-psutil@5.9:", type=("build", "run"))
    depends_on("py-rich@13:", type=("build", "run"))
    depends_on("py-tzdata@2024.1:", type=("build", "run"))
    depends_on("py-nvidia-ml-py@12.535:", type=("build", "run"), when="+nvml")
    depends_on("py-dask@2024.1:+distributed", type=("build", "run"), when="+dask")
    depends_on("py-dask-jobqueue@0.9:", type=("build", "run"), when="+dask")
    depends_on("py-cryptography@42:", type=("build", "run"), when="+dask")
    depends_on("py-vl-convert-python@1.7:", type=("build", "run"), when="+charts")
    depends_on("py-jinja2@3.1:", type=("build", "run"), when="+charts")
    depends_on("py-prometheus-client@0.20:", type=("build", "run"), when="+exporter")
