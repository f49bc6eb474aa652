#!/bin/sh
# Copies the kernel files that the meters look at into DIR, as plain files: tests/capture_tree.sh DIR [README line].
# Run as root on an idle node (energy_uj is root's). Serial numbers and host names are not among these files.
set -eu
to=${1:?usage: capture_tree.sh DIR [WHAT THIS MACHINE IS]}
what=${2:-}
mkdir -p "$to"
take() { # one file, if it can be read; a file that cannot is noted in DENIED
    [ -f "$1" ] || return 0
    mkdir -p "$to$(dirname "$1")"
    if ! timeout 2 cat "$1" >"$to$1" 2>/dev/null; then
        case $1 in
        */energy_uj | */*_input | */*_average) echo "${1#/}" >>"$to/DENIED" ;;
        *) rm -f "$to$1" ;;
        esac
    fi
}
for zone in /sys/class/powercap/*:*; do
    for file in "$zone"/name "$zone"/enabled "$zone"/energy_uj "$zone"/max_energy_range_uj "$zone"/constraint_*; do
        take "$file"
    done
done
for chip in /sys/class/hwmon/hwmon*; do
    take "$chip/name"
    for at in "$chip" "$chip/device"; do
        for file in "$at"/power* "$at"/energy* "$at"/gpu_metrics "$at"/uevent; do
            take "$file"
        done
    done
done
for file in /sys/cray/pm_counters/*; do take "$file"; done
for file in /sys/devices/system/cpu/online /proc/stat /proc/meminfo /proc/driver/nvidia/version; do take "$file"; done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do take "$cpu/topology/physical_package_id"; done
take /proc/cpuinfo
{
    printf 'Captured by tests/capture_tree.sh'
    [ -z "$what" ] || printf ': %s' "$what"
    printf '.\n\nCPU: %s\nKernel: %s\nDate: %s\n' \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(uname -r | cut -d. -f1,2)" "$(date -u +%Y-%m-%d)"
} >"$to/README"
