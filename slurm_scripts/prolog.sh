#!/bin/sh
# hpccarbon: slurmd Prolog. Leaves one small file about the job, and never delays or fails it.
#
# Writes RUN_DIR/jobs/JOBID.RESTART.prolog: KEY=VALUE lines, the last line is END, the mtime is the event's time.
# Where that name is taken (the hook ran twice, or a requeue did not count), JOBID.RESTART.2.prolog, .3., ... up to .9.:
# the first file always stays. Only shell builtins run in the ordinary case: no process is started.
#
# Always exits 0: a prolog that fails drains the node. Nothing here waits: RUN_DIR must be a local directory of root's
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
HPCCARBON_BIN=hpccarbon
HPCCARBON_CONFIG=/etc/hpccarbon/hpccarbon.toml
HPCCARBON_START=no
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

daemon_lives() {
	pid=
	command=
	[ -f "$run_dir/daemon.pid" ] || return 1
	read -r pid _ <"$run_dir/daemon.pid"
	case $pid in '' | *[!0-9]*) return 1 ;; esac
	kill -0 "$pid" || return 1
	# The pid of a daemon that was killed may belong to anyone by now.
	read -r command <"/proc/$pid/cmdline"
	case $command in *daemon*) return 0 ;; esac
	return 1
}

start_daemon() {
	# A session of its own, since slurmd kills the process group of its prolog; none of the job's variables.
	setsid env -i PATH="$PATH:/usr/local/sbin:/usr/local/bin" ${SLURM_CONF:+"SLURM_CONF=$SLURM_CONF"} \
		"$HPCCARBON_BIN" daemon --config "$HPCCARBON_CONFIG" ${node:+--node "$node"} \
		3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- >>"$run_dir/daemon.log" 2>&1 &
	child=$!
	# Leave only when setsid has been called: until then a kill of this process group would reach the child.
	tries=0
	while [ $tries -lt 2000 ]; do
		group=
		read -r _ _ _ _ group _ <"/proc/$child/stat" || return
		[ "$group" = "$child" ] && return
		tries=$((tries + 1))
	done
}

leave prolog
if [ "$HPCCARBON_START" = yes ] && ! daemon_lives; then
	start_daemon
fi
exit 0
