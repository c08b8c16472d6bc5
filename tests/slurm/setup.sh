#!/usr/bin/env bash
# A Slurm cluster of this one machine, for tests (Debian, root): setup.sh install|start|stop
set -euo pipefail
host=$(hostname -s)

install() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
}

configure() {
  mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm /run/munge
  chown munge: /run/munge
  cat > /etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
  configure
  setpriv --reuid=munge --regid=munge --init-groups munged
  slurmctld
  slurmd
  for _ in $(seq 40); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then return; fi
    sleep 0.5
  done
  return 1
}

stop() {
  for file in /run/slurmd.pid /run/slurmctld.pid /run/munge/munged.pid; do
    if [ -f "$file" ]; then kill "$(cat "$file")" || true; fi
  done
}

"$1"
