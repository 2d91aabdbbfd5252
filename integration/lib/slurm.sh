# Sourced, behind hosts.sh. A real Slurm on the emulated hosts: munged and slurmd on each, slurmctld on h1. All of its
# files are below $work/slurm, which each host has for itself; nothing of the machine's own Slurm is read or written.

slurm_daemons=() # "HOST PID"

open_slurm() {
    local n
    export SLURM_CONF=$work/slurm/slurm.conf
    mkdir "$work/slurm"
    head -c 1024 /dev/urandom >"$work/slurm/key"
    slurm_configuration >"$SLURM_CONF"
    for n in $(seq "$hosts"); do
        [ "$n" = 1 ] || tar -C "$work/slurm" -c key slurm.conf | on_host "$n" sh -ec 'mkdir "$0"; tar -C "$0" -x' "$work/slurm"
        # Forced: the scratch folder is ours alone, which munged thinks is a mistake.
        daemon "$n" munged --foreground --force --socket="$work/slurm/munge" --key-file="$work/slurm/key" \
            --log-file="$work/slurm/munge.log" --pid-file="$work/slurm/munge.pid" --seed-file="$work/slurm/munge.seed"
    done
    for n in $(seq "$hosts"); do settle 20 on_host "$n" test -S "$work/slurm/munge" || die "no munged on h$n"; done
    daemon 1 slurmctld -D
    for n in $(seq "$hosts"); do daemon "$n" slurmd -D; done
    settle 60 all_idle || die "Slurm does not start: $(on_host 1 sinfo 2>&1) $(tail -n 5 "$work"/slurm/daemon-*)"
}

slurm_configuration() {
    cat <<CONF
ClusterName=emulated
SlurmctldHost=h1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/slurm/munge
CredType=cred/munge
StateSaveLocation=$work/slurm/state
SlurmdSpoolDir=$work/slurm/spool
SlurmctldPidFile=$work/slurm/slurmctld.pid
SlurmdPidFile=$work/slurm/slurmd.pid
TmpFS=$work/tmp
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
KillWait=5
NodeName=h[1-$hosts] CPUs=4
PartitionName=all Nodes=ALL Default=YES
CONF
}

daemon() {
    on_host "$@" >"$work/slurm/daemon-$1-$2" 2>&1 </dev/null &
    slurm_daemons+=("$1 $!")
}

all_idle() { [ "$(on_host 1 sinfo --noheader --format '%D %t' 2>/dev/null)" = "$hosts idle" ]; }
