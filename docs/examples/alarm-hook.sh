#!/bin/sh
# A hook for Director's alarms: passes warnings to another program, and drops the rest.
#
#   alarms:
#     exec: [/usr/local/lib/director/alarm-hook.sh, /usr/local/bin/page-me]
#
# The program gets an urgency (high or low) and a sentence as arguments, and the whole alarm, a JSON
# object, on its standard input. It runs as `nobody`, and is killed after 10 seconds.
set -eu

[ "$DIRECTOR_SEVERITY" = warning ] || exit 0

case $DIRECTOR_KIND in
    # The failure of one backend is expected; that of a service or of the director is urgent.
    backend) urgency=low ;;
    *) urgency=high ;;
esac

exec "$1" "$urgency" "$DIRECTOR_INSTANCE: $DIRECTOR_TEXT"
