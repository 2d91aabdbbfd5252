# Sourced. The ranks under Debian's MPICH, which is installed beside the Open MPI that `mpicc` and `mpiexec` mean.

# use_mpich: from here on the ranks are linked against MPICH, and mpiexec is MPICH's. mpi-sys does not notice another
# MPICC, so this needs a target folder of its own; what the release build has compiled and knows no MPI is taken over.
use_mpich() {
    local target=${CARGO_TARGET_DIR:-$root/target}/mpich part
    need_programs
    if [ ! -d "$target" ]; then
        rm -rf "$target.new"
        mkdir -p "$target.new/release"
        for part in deps build .fingerprint; do
            [ ! -d "$programs/$part" ] || cp -a "$programs/$part" "$target.new/release/"
        done
        (cd "$root" && CARGO_TARGET_DIR=$target.new cargo clean --quiet --release --package mpi-sys)
        mv "$target.new" "$target" # complete or absent, also after an interruption
    fi
    (cd "$root" && CARGO_TARGET_DIR=$target MPICC=mpicc.mpich \
        cargo build --quiet --release --locked --bin mpicc-proxy-rank) || die "cannot build the ranks against MPICH"
    # Another script may be using what is there.
    for part in "$programs"/mpicc-proxy "$programs"/mpicc-proxy-client "$library"; do
        cp "$part" "$target/release/new.$mark" && mv "$target/release/new.$mark" "$target/release/${part##*/}"
    done
    programs=$target/release
    mpicc_proxy=$programs/mpicc-proxy
    need_programs
    mkdir -p "$target/bin"
    # hydra looks for its proxy beside itself.
    ln -sf "$(command -v mpiexec.mpich)" "$target/bin/mpiexec"
    ln -sf "$(command -v hydra_pmi_proxy)" "$target/bin/"
    PATH=$target/bin:$PATH
}

# Whose MPI the ranks are linked against, and whose launcher starts them.
ranks_are_of() {
    [[ $(ldd "$programs/mpicc-proxy-rank") == */"$1".so* && $(mpiexec --version) == *"$2"* ]]
}
is_mpich() { ranks_are_of libmpich HYDRA; }
