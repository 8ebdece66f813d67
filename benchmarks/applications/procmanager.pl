# procmanager.pl SOCKET WORKERS: the application under FCGI.pm and FCGI::ProcManager.

use strict;
use warnings;
use FCGI;
use FCGI::ProcManager;

my ($path, $workers) = @ARGV;
my %reply = map { $_ => 'x' x $_ } 10240, 1048576;

my $socket  = FCGI::OpenSocket($path, 1024);
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \%ENV, $socket);
my $manager = FCGI::ProcManager->new({ n_processes => $workers });
$manager->pm_manage;

while ($request->Accept >= 0) {
    $manager->pm_pre_dispatch;
    my $received = 0;
    if ($ENV{CONTENT_LENGTH}) {
        while (my $got = read STDIN, my $chunk, 65536) { $received += $got }
    }
    my $size = $ENV{QUERY_STRING};
    my $body = $size == 12 ? sprintf('%012d', $received) : $reply{$size};
    print "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: $size\r\n\r\n", $body;
    $manager->pm_post_dispatch;
}
