"""Spack's recipe for mpicc-proxy itself, from the clone that it lies in:

    spack repo add CLONE/integration/packaging/spack_repo/mpicc_proxy
    spack install mpicc-proxy

It fetches crates while it builds, as cargo does.
"""

import os

from spack_repo.builtin.build_systems.generic import Package
from spack.package import *

CLONE = os.path.realpath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 6))


class MpiccProxy(Package):
    """Compile on all ranks of an MPI job, without an edit to any build file."""

    git = f"file://{CLONE}"
    license("MIT")

    version("main", branch="main")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("rust@1.89:", type="build")
    # libclang, which reads mpi.h.
    depends_on("llvm+clang", type="build")
    depends_on("mpi")

    def setup_build_environment(self, env):
        env.set("LIBCLANG_PATH", self.spec["llvm"].prefix.lib)

    def install(self, spec, prefix):
        Executable("integration/install")(prefix)
