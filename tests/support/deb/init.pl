# init.pl COMMAND... — the first process of a system for a test: runs the command, waits for it and for all whose
# parents have ended, as an init does (start-stop-daemon takes a process that nobody waited for to be running), and ends
# when the command does, and all with it.
use strict;
use warnings;

my $pid = fork() // die "fork: $!";
exec(@ARGV) || die "$ARGV[0]: $!" if $pid == 0;
while ((my $gone = wait) != -1) {
	exit($? & 127 ? 1 : $? >> 8) if $gone == $pid;
}
