#!/bin/sh
# A service in sh: asks a name, greets. $TCPREMOTEIP and the others are in the environment, as inetd's and ucspi's
# programs know them.
printf 'Your name? '
IFS= read -r name || exit 0
printf 'Hello %s from %s, port %s.\n' "$name" "$TCPREMOTEIP" "$TCPREMOTEPORT"
