#!/bin/sh
# hpccarbon: slurmd Epilog. Leaves one small file about the job, and never delays or fails it.
#
# Writes RUN_DIR/jobs/JOBID.RESTART.epilog: KEY=VALUE lines, the last line is END, the mtime is the event's time.
# Where that name is taken (the hook ran twice, or a requeue did not count), JOBID.RESTART.2.epilog, .3., ... up to .9.:
# the first file always stays. Only shell builtins run in the ordinary case: no process is started.
#
# Always exits 0: a epilog that fails drains the node. Nothing here waits: RUN_DIR must be a local directory of root's
# (tmpfs below /run), since no shell can leave a write that a dead file server holds.
# Settings: /etc/hpccarbon/hooks.env (see hooks.env.example); it is run by root's shell, so it and its directory must
# be writable by root alone.

trap 'exit 0' 0 1 2 13 15  # 0: whatever goes wrong below, a syntax error in the settings included
set +eu
umask 077
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
IFS=' 	
'
exec </dev/null >/dev/null 2>&1
HPCCARBON_RUN_DIR=/run/hpccarbon
settings=${HPCCARBON_HOOKS_ENV:-/etc/hpccarbon/hooks.env}
if [ -f "$settings" ] && [ -r "$settings" ]; then
	. "$settings"
	set +eu
fi

node=${SLURMD_NODENAME-}
job=${SLURM_JOB_ID-}
restart=${SLURM_JOB_RESTART_COUNT:-0}
case $job in '' | *[!0-9]*) exit 0 ;; esac
case $restart in *[!0-9]*) restart=0 ;; esac
case $node in *[!A-Za-z0-9._-]* | . | ..) exit 0 ;; esac # it becomes part of a path
if [ ${#job} -gt 18 ] || [ ${#restart} -gt 9 ]; then exit 0; fi

run_dir=$HPCCARBON_RUN_DIR
case $run_dir in *%n*) run_dir=${run_dir%%\%n*}$node${run_dir#*\%n} ;; esac
case $run_dir in /*) ;; *) exit 0 ;; esac

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
add SLURM_JOB_UID "${SLURM_JOB_UID-}"
add SLURM_JOB_GID "${SLURM_JOB_GID-}"
add SLURM_JOB_USER "${SLURM_JOB_USER-}"
add SLURM_JOB_ACCOUNT "${SLURM_JOB_ACCOUNT-}"
add SLURM_JOB_PARTITION "${SLURM_JOB_PARTITION-}"
add SLURM_JOB_CPUS_PER_NODE "${SLURM_JOB_CPUS_PER_NODE-}"
add SLURM_JOB_NUM_NODES "${SLURM_JOB_NUM_NODES-}"
add SLURM_JOB_NODELIST "${SLURM_JOB_NODELIST-}"
add SLURM_NODELIST "${SLURM_NODELIST-}"
add SLURMD_NODENAME "$node"
add SLURM_JOB_RESTART_COUNT "${SLURM_JOB_RESTART_COUNT-}"
add SLURM_JOB_GPUS "${SLURM_JOB_GPUS-}"
add SLURM_HET_JOB_ID "${SLURM_HET_JOB_ID-}"
add SLURM_JOB_SLUID "${SLURM_JOB_SLUID-}"
add SLURM_JOB_QOS "${SLURM_JOB_QOS-}"
add SLURM_JOB_RESERVATION "${SLURM_JOB_RESERVATION-}"

leave() { # KIND: the file, under the first name that is free
	[ -d "$run_dir/jobs" ] || mkdir -p "$run_dir/jobs" || return # after a reboot, before the daemon
	if [ -L "$run_dir/jobs" ] || [ ! -O "$run_dir/jobs" ]; then return; fi
	set -C # never onto something that exists
	for again in '' .2 .3 .4 .5 .6 .7 .8 .9; do
		file=$run_dir/jobs/$job.$restart$again.$1
		# Looked at first: a redirection onto a pipe would wait for a reader, with or without set -C.
		if [ -e "$file" ] || [ -L "$file" ]; then continue; fi
		{ printf '%sEND\n' "$lines" >"$file"; } && break
	done
	set +C
}

# When a job is requeued, slurmctld counts the restart before it ends the run: the epilog of run 0 is told 1, and comes
# before the prolog that is told 1 (seen with Slurm 22.05). It belongs to the run whose prolog lies here.
case $restart in
[1-9] | [1-9][0-9]*)
	if [ ! -e "$run_dir/jobs/$job.$restart.prolog" ] && [ -e "$run_dir/jobs/$job.$((restart - 1)).prolog" ]; then
		restart=$((restart - 1))
	fi
	;;
esac

leave epilog
exit 0
