#!/bin/sh
# hpccarbon: MailProg of slurm.conf. Sends Slurm's mail as before; the mail at a job's end gets the job's report.
#
# Slurm calls it as SlurmUser: mailprog.sh -s SUBJECT ADDRESS, with the job in the environment. It answers at once and
# works on in the background, bounded: at most four reports at a time, three tries of 45 s. Whatever goes wrong, the mail is sent
# without the report. Settings: /etc/hpccarbon/hooks.env (HPCCARBON_MAILER, HPCCARBON_MAIL_DELAY_S).

set +eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin
LC_ALL=C.UTF-8
export PATH LC_ALL
HPCCARBON_BIN=hpccarbon
HPCCARBON_CONFIG=/etc/hpccarbon/hpccarbon.toml
HPCCARBON_MAILER=/usr/bin/mail
HPCCARBON_MAIL_DELAY_S=20 # the nodes seal daemon.seal_after_job_s after the job's end
settings=${HPCCARBON_HOOKS_ENV:-/etc/hpccarbon/hooks.env}
if [ -f "$settings" ] && [ -r "$settings" ]; then
	. "$settings"
	set +eu
fi

case ${SLURM_JOB_MAIL_TYPE-} in
Ended | Failed | 'Reached time limit' | Time* | Requeued) ;;
*) exec "$HPCCARBON_MAILER" "$@" ;; # nothing has been used yet
esac
job=${SLURM_JOB_ID-}
case "$*" in *'Array Summary'*) job=${SLURM_ARRAY_JOB_ID:-$job} ;; esac
case $job in '' | *[!0-9]*) exec "$HPCCARBON_MAILER" "$@" ;; esac
case $HPCCARBON_MAIL_DELAY_S in '' | *[!0-9]*) HPCCARBON_MAIL_DELAY_S=20 ;; esac

if [ "${HPCCARBON_MAIL_SESSION-}" != own ]; then
	# slurmctld kills the process group of its MailProg when that returns (seen with Slurm 22.05): a session of its own.
	HPCCARBON_MAIL_SESSION=own setsid "$0" "$@" </dev/null >/dev/null 2>&1 &
	child=$!
	# Leave only when setsid has been called: until then the kill would reach the child.
	tries=0
	while [ $tries -lt 2000 ]; do
		group=
		read -r _ _ _ _ group _ <"/proc/$child/stat" || break
		[ "$group" = "$child" ] && break
		tries=$((tries + 1))
	done
	exit 0
fi

slots=${TMPDIR:-/tmp}/hpccarbon-mail-$(id -u)

report() { # the job's page, if one of the four slots is free
	mkdir -m 0700 "$slots" 2>/dev/null
	if [ -L "$slots" ] || [ ! -O "$slots" ]; then return 0; fi
	for slot in 1 2 3 4; do
		flock --nonblock --conflict-exit-code 99 "$slots/$slot" \
			timeout --kill-after=5 40 "$HPCCARBON_BIN" report --config "$HPCCARBON_CONFIG" --job "$job"
		status=$?
		[ $status -eq 99 ] || return $status
	done
	return 0 # all are busy: the mail goes without
}

page=
for again in 1 2 3; do # a node that seals late gets two more chances
	sleep "$HPCCARBON_MAIL_DELAY_S"
	page=$(report 2>&1) && break
done
{
	printf '%s\n' "$page" | head -c 20000
	printf '\nOnce more, or in full: hpccarbon report --job %s\n' "$job"
} | "$HPCCARBON_MAILER" "$@"
exit 0
