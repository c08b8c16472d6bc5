#!/usr/bin/env bash
# A Slurm cluster of two nodes on this one machine, for tests (Debian, root): setup.sh install|start|stop
# The partition `urgent` takes the nodes away from `main`, whose jobs then have 20 s to end.
set -euo pipefail
host=$(hostname -s)
nodes="r1node1 r1node2"

install() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
}

configure() {
  mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm /run/munge
  chown munge: /run/munge
  grep -q "$nodes" /etc/hosts || echo "127.0.0.1 $nodes" >> /etc/hosts
  cat > /etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName=r1node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=r1node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
CONF
}

start() {
  configure
  setpriv --reuid=munge --regid=munge --init-groups munged
  slurmctld
  for node in $nodes; do
    mkdir -p "/var/spool/slurmd/$node"
    slurmd -N "$node"
  done
  for _ in $(seq 40); do
    if [ "$(sinfo --noheader --Node --partition=main --format=%T 2>/dev/null | grep -c idle)" = 2 ]; then return; fi
    sleep 0.5
  done
  return 1
}

stop() {
  for file in /run/slurmd.*.pid /run/slurmctld.pid /run/munge/munged.pid; do
    if [ -f "$file" ]; then kill "$(cat "$file")" || true; fi
  done
}

"$1"
