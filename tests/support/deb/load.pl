# load.pl COUNT-FILE PORT TEXT ANSWER — makes connections, one after another, until COUNT-FILE.stop is there: each sends
# TEXT, half-closes, and must read ANSWER and nothing else to the end. "GOOD BAD" is in COUNT-FILE throughout, and the
# first failures are told.
#
# load.pl --hold COUNT-FILE PORT — one connection to an echo service, a line every 50 ms until COUNT-FILE.stop is there,
# each of which must come back.
#
# With what perl-base has: there is no more in a minimal system.
use strict;
use warnings;
use IO::Socket::INET;

my ($hold) = $ARGV[0] eq '--hold' ? shift : undef;
my ($file, $port, $text, $answer) = @ARGV;
my ($good, $bad) = (0, 0);

sub tell_count {
	open(my $f, '>', "$file.part") || die "$file.part: $!";
	print($f "$good $bad\n") && close($f) && rename("$file.part", $file) || die "$file: $!";
}

sub failed {
	print "load: port $port: $_[0]\n" if $bad++ < 5;
}

sub dial {
	my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10)
		or failed("connect: $!");
	return $s;
}

sub once {
	my $s = dial() or return;
	my ($got, $n) = ('', 0);
	local $SIG{ALRM} = sub { die "no end after 20 s" };
	alarm 20;
	if (!defined(syswrite($s, $text)) || !shutdown($s, 1)) { failed("write: $!"); }
	else {
		while ($n = sysread($s, $got, 4096, length $got)) { }
		if (!defined $n) { failed("read: $!"); }
		elsif ($got ne $answer) { failed("answered '$got'"); }
		else { $good++; }
	}
	alarm 0;
}

sub hold {
	my $s = dial() or return;
	while (!-e "$file.stop") {
		my $line = "line $good\n";
		my $back;
		$s->print($line) && $s->flush && defined($back = <$s>) && $back eq $line
			or return failed("held connection: after $good lines: $!");
		$good++;
		tell_count();
		select(undef, undef, undef, 0.05);
	}
}

$SIG{PIPE} = 'IGNORE';
tell_count();
if ($hold) { hold(); }
else {
	until (-e "$file.stop") { once(); tell_count(); }
}
tell_count();
