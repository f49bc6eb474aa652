#!/bin/sh
# hpccarbon: TaskEpilog of slurm.conf. A line at the end of a batch job's output: what it used on this node, and where
# the whole of it is shown.
#
# Runs with the user's rights at the end of every task; only the batch script's own says something. Slurm throws away
# what a task epilog prints to stdout, so the line goes to stderr, which is the job's (seen with Slurm 22.05). A user
# switches it off with HPCCARBON_EPILOG=no in the job's environment or in ~/.config/hpccarbon/no-epilog.
# Always exits 0, starts at most one process and gives that two seconds.

trap 'exit 0' 0 1 2 13 15
set +eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin
LC_ALL=C.UTF-8
export PATH LC_ALL
HPCCARBON_BIN=hpccarbon
HPCCARBON_CONFIG=/etc/hpccarbon/hpccarbon.toml
settings=${HPCCARBON_HOOKS_ENV:-/etc/hpccarbon/hooks.env}
if [ -f "$settings" ] && [ -r "$settings" ]; then
	. "$settings" 2>/dev/null
	set +eu
fi

if [ -n "${SLURM_STEP_ID-}" ] || [ "${SLURM_LOCALID:-0}" != 0 ]; then exit 0; fi # a step of srun, not the script
if [ "${HPCCARBON_EPILOG-}" = no ] || [ -e "${HOME:-/nonexistent}/.config/hpccarbon/no-epilog" ]; then exit 0; fi
job=${SLURM_JOB_ID-}
case $job in '' | *[!0-9]*) exit 0 ;; esac

# The node's daemon knows it to the moment; where it does not answer, the line has no figure.
used=$(timeout 2 "$HPCCARBON_BIN" now --config "$HPCCARBON_CONFIG" --job "$job" 2>/dev/null </dev/null)
case $used in
"job $job: "*) printf 'hpccarbon: %s; all of it, with its carbon: hpccarbon report --job %s\n' "$used" "$job" >&2 ;;
*) printf 'hpccarbon: energy and carbon of this job: hpccarbon report --job %s\n' "$job" >&2 ;;
esac
exit 0
