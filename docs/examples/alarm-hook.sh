#!/bin/sh
# A hook for Director's alarms: hands warnings on to a program of your own, and drops the rest.
#
#   alarms:
#     exec: [/usr/local/lib/director/alarm-hook.sh, /usr/local/bin/page-me]
#
# The program gets an urgency (high or low) and a sentence as arguments, and the whole alarm, a JSON
# object, on its standard input. It runs as `nobody`, and has 10 seconds.
set -eu

[ "$DIRECTOR_SEVERITY" = warning ] || exit 0

case $DIRECTOR_KIND in
    # One backend less is what a balancer is for; a service or the director itself is another matter.
    backend) urgency=low ;;
    *) urgency=high ;;
esac

exec "$1" "$urgency" "$DIRECTOR_INSTANCE: $DIRECTOR_TEXT"
