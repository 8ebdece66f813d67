# A FastCGI program on the Perl module FCGI, which ends gently on USR1.
#
# /      its pid
# /held  says "in hand PID" on descriptor 1, then waits until somebody opens the other end of the fifo in GATE

use strict;
use warnings;
use FCGI;
use POSIX ();

my $path    = $ENV{GATE};        # a request brings an environment of its own
my $request = FCGI::Request();
while ($request->Accept >= 0) {
    hold() if $ENV{PATH_INFO} eq '/held';
    print "Content-Type: text/plain\r\n\r\n$$";
}

sub hold {
    POSIX::write(1, "in hand $$\n", length "in hand $$\n");
    my $gate;
    until (open $gate, '<', $path) {    # the signal handler interrupts system calls
        die "$path: $!" unless $!{EINTR};
    }
    close $gate;
}
