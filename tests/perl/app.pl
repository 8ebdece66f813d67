# The script under comparison, on FCGI::ProcManager. Its twin is app.py.
#
# app.pl STYLE [KEY=VALUE ...], with a listening socket on descriptor 0. STYLE: object, functions, class (functions on a
# replaced class), constrained or maxrequests. The rest are parameters of the manager, but for init=exit, which ends each worker
# at once, hup=KEY:VALUE, a parameter that HUP changes, with hup_only=1 doing nothing else, no_ink=1, with which `managing_init`
# dies, and ignore_chld=1. A request is one line; see `answer`.

use strict;
use warnings;
use FCGI::ProcManager qw(:all);
use FCGI::ProcManager::Constrained;
use POSIX ();

{
    package Hooked;
    our @ISA = 'FCGI::ProcManager';
    our %change;
    our $only;
    our $no_ink;

    sub managing_init    { my $self = shift; $self->SUPER::managing_init(@_);    $self->pm_notify('hook managing_init'); ink() }
    sub handling_init    { my $self = shift; $self->SUPER::handling_init(@_);    $self->pm_notify('hook handling_init') }
    sub pm_pre_dispatch  { my $self = shift; $self->SUPER::pm_pre_dispatch(@_);  $self->pm_notify('hook pm_pre_dispatch') }
    sub pm_post_dispatch { my $self = shift; $self->SUPER::pm_post_dispatch(@_); $self->pm_notify('hook pm_post_dispatch') }

    sub ink { die "no ink\n" if $no_ink }

    sub sig_manager {
        my ($self, $name) = @_;
        $self->pm_parameter($_, $change{$_}) for $name eq 'HUP' ? keys %change : ();
        $self->SUPER::sig_manager($name) unless $only && $name eq 'HUP';
    }
}

$SIG{INT} = 'DEFAULT';    # a shell ignores it for what it starts in the background

my $style = shift;
my %parameter = map { split /=/, $_, 2 } @ARGV;
my $init = delete $parameter{init} || '';
%Hooked::change = split /:/, delete $parameter{hup} || '';
$Hooked::only = delete $parameter{hup_only};
$Hooked::no_ink = delete $parameter{no_ink};
$SIG{CHLD} = 'IGNORE' if delete $parameter{ignore_chld};

my $class = {
    object      => 'FCGI::ProcManager',
    constrained => 'FCGI::ProcManager::Constrained',
    maxrequests => 'FCGI::ProcManager::MaxRequests',
}->{$style} || 'Hooked';
require FCGI::ProcManager::MaxRequests if $style eq 'maxrequests';    # a distribution of its own
$FCGI::ProcManager::Default = 'Hooked' if $style eq 'class';
my $manager = $style =~ /^(functions|class)$/ ? undef : $class->new(\%parameter);

$| = 1;
my $managed = $manager ? $manager->pm_manage : pm_manage(%parameter);
print 'managed: ', $managed ? 1 : 0, "\n";
exit 3 if $init eq 'exit';

while (accept(my $client, *STDIN)) {
    $manager ? $manager->pm_pre_dispatch : pm_pre_dispatch();
    answer($client, receive($client));
    close $client;
    $manager ? $manager->pm_post_dispatch : pm_post_dispatch();
}
exit 0 if $managed;

sub answer {
    my ($client, $command, @words) = @_;
    if ($command eq 'pid')         { reply($client, $$) }
    elsif ($command eq 'wait')     { reply($client, 'waiting'); receive($client); reply($client, 'done') }
    elsif ($command eq 'stubborn') { $SIG{TERM} = 'IGNORE'; reply($client, 'stubborn'); receive($client) }
    elsif ($command eq 'quit')     { exit $words[0] }
    elsif ($command eq 'kill')     { kill KILL => $$ }
    elsif ($command eq 'random')   { reply($client, rand); receive($client) }
    elsif ($command eq 'chld')     { reply($client, $SIG{CHLD} || 'DEFAULT') }
    elsif ($command eq 'get')      { reply($client, call('pm_parameter', @words)) }
    elsif ($command eq 'set')      { call('pm_parameter', @words); reply($client, call('pm_parameter', $words[0])) }
    elsif ($command eq 'received') { reply($client, call('pm_received_signal', @words) || 0) }
    elsif ($command eq 'title')    { call('pm_change_process_name', "@words"); reply($client, 'ok') }
    else                           { call($command, @words ? "@words" : ()) }    # pm_exit and the like
}

sub call {
    my ($method, @arguments) = @_;
    no strict 'refs';
    return $manager ? $manager->$method(@arguments) : &$method(@arguments);
}

sub receive {
    my ($client) = @_;
    my $line = '';
    while ($line !~ /\n/) { sysread($client, $line, 1, length $line) or last }
    return split ' ', $line;
}

sub reply { my ($client, $text) = @_; syswrite $client, "$text\n" }
