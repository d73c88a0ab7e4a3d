#!/usr/bin/perl
# A service in perl: the running sum of the numbers it is sent, a line each, until an empty line.
use strict;
use warnings;
$| = 1;
my $sum = 0;
while (my $line = <STDIN>) {
	$line =~ s/\r?\n//;
	last if $line eq '';
	if ($line =~ /^-?\d+(\.\d+)?$/) { $sum += $line; print "$sum\n"; }
	else { print "not a number\n"; }
}
