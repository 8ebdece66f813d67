# The script under comparison, on FCGI::Engine::ProcManager. Its twin is engine.py.
#
# engine.pl CLASS [KEY=VALUE ...], with a listening socket on descriptor 0. CLASS: plain, hooked or constrained. The rest
# are attributes of the manager. A request is one line; see `answer`.

use strict;
use warnings;
use FCGI::Engine::ProcManager;
use FCGI::Engine::ProcManager::Constrained;
use MooseX::Daemonize::Pid::File;

{
    package Hooked;
    use Moose;
    extends 'FCGI::Engine::ProcManager';

    augment manager_init  => sub { $_[0]->notify('hook manager_init') };
    augment server_init   => sub { $_[0]->notify('hook server_init') };
    augment pre_dispatch  => sub { $_[0]->notify('hook pre_dispatch') };
    augment post_dispatch => sub { $_[0]->notify('hook post_dispatch') };
}

my $class = { plain => 'FCGI::Engine::ProcManager', constrained => 'FCGI::Engine::ProcManager::Constrained' }->{ +shift }
    || 'Hooked';
my %attribute = map { split /=/, $_, 2 } @ARGV;
$attribute{pidfile} = MooseX::Daemonize::Pid::File->new(file => $attribute{pidfile}) if $attribute{pidfile};
my $manager = $class->new(%attribute);

$| = 1;
my $managed = $manager->manage;
print 'managed: ', $managed ? 1 : 0, "\n";

while (accept(my $client, *STDIN)) {
    $manager->pre_dispatch;
    answer($client, receive($client));
    close $client;
    $manager->post_dispatch;
}

sub answer {
    my ($client, $command, @words) = @_;
    if ($command eq 'pid')         { reply($client, $$) }
    elsif ($command eq 'wait')     { reply($client, 'waiting'); receive($client); reply($client, 'done') }
    elsif ($command eq 'stubborn') { $SIG{TERM} = 'IGNORE'; reply($client, 'stubborn'); receive($client) }
    elsif ($command eq 'quit')     { exit $words[0] }
    elsif ($command eq 'kill')     { kill KILL => $$ }
    elsif ($command eq 'pids')     { reply($client, $manager->pid_count) }
    elsif ($command eq 'file')     { reply($client, $manager->pidfile->is_running ? 'running' : 'not running') }
    else                           { $manager->$command("@words") }    # exit, abort, die
}

sub receive {
    my ($client) = @_;
    my $line = '';
    while ($line !~ /\n/) { sysread($client, $line, 1, length $line) or last }
    return split ' ', $line;
}

sub reply { my ($client, $text) = @_; syswrite $client, "$text\n" }
