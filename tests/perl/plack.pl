# Plack itself, on its own FastCGI handler: plack.pl MANAGER SOCKET PIDFILE. Its twin is plack.py.
# With the manager Recorder it prints which methods of a manager it calls, and how.

use strict;
use warnings;
use Plack::Handler::FCGI;

{
    package Recorder;
    our $AUTOLOAD;
    $INC{'Recorder.pm'} = 1;

    sub new { my ($class, $parameter) = @_; print STDERR "new(@{[sort keys %$parameter]})\n"; bless {}, $class }

    sub AUTOLOAD {
        my $self = shift;
        (my $name = $AUTOLOAD) =~ s/.*:://;
        return if $name eq 'DESTROY';
        print STDERR "$name(@_)\n";
        exit 0 if $name eq 'pm_exit';
        return 1;
    }
}

my ($manager, $socket, $pid_file) = @ARGV;

Plack::Handler::FCGI->new(
    manager => $manager, nproc => 1, pid => $pid_file, proc_title => 'app manager', listen => [$socket],
    keep_stderr => 1,
)->run(sub {
    my ($env) = @_;
    $env->{'psgix.harakiri.commit'} = 1 if $env->{PATH_INFO} eq '/bye';
    push @{ $env->{'psgix.cleanup.handlers'} }, sub { print STDERR "cleanup\n" };
    return [200, ['Content-Type', 'text/plain'], ["$$"]];
});
