#!/bin/sh
# hpccarbon: TaskProlog, `srun --task-prolog=FILE` or `srun --prolog=FILE`. Runs with the user's rights, for sites
# without a root hook and for what a root hook is not told: array ids, job name, step, tasks.
#
# Writes DIR/JOBID.RESTART.task once per job and node: KEY=VALUE lines, the last line is END. DIR is
# $HPCCARBON_USER_DIR, else ${XDG_RUNTIME_DIR:-/tmp}/hpccarbon-UID; it is used only if it is the user's own.
# Prints nothing: Slurm obeys what a task prolog prints. Always exits 0: one that fails cancels the task.

trap 'exit 0' 0 1 2 13 15
set +eu
umask 077
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
IFS=' 	
'
exec </dev/null >/dev/null 2>&1
settings=${HPCCARBON_HOOKS_ENV:-/etc/hpccarbon/hooks.env}
if [ -f "$settings" ] && [ -r "$settings" ]; then
	. "$settings"
	set +eu
fi

case ${SLURM_LOCALID:-0} in 0) ;; *) exit 0 ;; esac # one task per node is enough
job=${SLURM_JOB_ID-}
restart=${SLURM_JOB_RESTART_COUNT:-${SLURM_RESTART_COUNT:-0}} # the second name is what a job's own environment has
case $job in '' | *[!0-9]*) exit 0 ;; esac
case $restart in *[!0-9]*) restart=0 ;; esac
if [ ${#job} -gt 18 ] || [ ${#restart} -gt 9 ]; then exit 0; fi

directory=${HPCCARBON_USER_DIR-}
if [ -z "$directory" ]; then
	uid=
	while read -r key value _; do # dash has no $UID, and id(1) would be a process
		if [ "$key" = Uid: ]; then
			uid=$value
			break
		fi
	done </proc/self/status
	case $uid in '' | *[!0-9]*) exit 0 ;; esac
	directory=${XDG_RUNTIME_DIR:-/tmp}/hpccarbon-$uid
fi
case $directory in /*) ;; *) exit 0 ;; esac
# /tmp is everybody's: no link is followed, and a directory that someone else made is left alone.
[ -d "$directory" ] || mkdir -m 0700 "$directory"
if [ -L "$directory" ]; then exit 0; fi
cd "$directory" || exit 0
[ -O . ] || exit 0
file=$job.$restart.task
if [ -e "$file" ] || [ -L "$file" ]; then exit 0; fi

lines=
add() { # NAME VALUE: a value with a line break could forge a line, so control characters disqualify it
	case $2 in '' | *[[:cntrl:]]*) return ;; esac
	if [ ${#2} -le 24000 ]; then
		lines="$lines$1=$2
"
	fi
}
add SLURM_CLUSTER_NAME "${SLURM_CLUSTER_NAME-}"
add SLURM_JOB_ID "$job"
add SLURM_ARRAY_JOB_ID "${SLURM_ARRAY_JOB_ID-}"
add SLURM_ARRAY_TASK_ID "${SLURM_ARRAY_TASK_ID-}"
add SLURM_JOB_NAME "${SLURM_JOB_NAME-}"
add SLURM_JOB_QOS "${SLURM_JOB_QOS-}"
add SLURM_STEP_ID "${SLURM_STEP_ID-}"
add SLURM_PROCID "${SLURM_PROCID-}"
add SLURM_CPUS_ON_NODE "${SLURM_CPUS_ON_NODE-}"
add SLURM_JOB_UID "${SLURM_JOB_UID-}"
add SLURM_JOB_GID "${SLURM_JOB_GID-}"
add SLURM_JOB_USER "${SLURM_JOB_USER-}"
add SLURM_JOB_ACCOUNT "${SLURM_JOB_ACCOUNT-}"
add SLURM_JOB_PARTITION "${SLURM_JOB_PARTITION-}"
add SLURM_JOB_CPUS_PER_NODE "${SLURM_JOB_CPUS_PER_NODE-}"
add SLURM_JOB_NUM_NODES "${SLURM_JOB_NUM_NODES-}"
add SLURM_JOB_NODELIST "${SLURM_JOB_NODELIST-}"
add SLURM_NODELIST "${SLURM_NODELIST-}"
add SLURMD_NODENAME "${SLURMD_NODENAME-}"
add SLURM_JOB_RESTART_COUNT "$restart"
add SLURM_JOB_GPUS "${SLURM_JOB_GPUS-}"
add SLURM_HET_JOB_ID "${SLURM_HET_JOB_ID-}"
add SLURM_JOB_SLUID "${SLURM_JOB_SLUID-}"
add SLURM_JOB_RESERVATION "${SLURM_JOB_RESERVATION-}"

set -C
{ printf '%sEND\n' "$lines" >"$file"; }
exit 0
