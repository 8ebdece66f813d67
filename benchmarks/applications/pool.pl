# pool.pl SOCKET WORKERS: the same under FCGI.pm and FCGI::ProcManager.

use strict;
use warnings;
use FCGI;
use FCGI::ProcManager;

my ($path, $workers) = @ARGV;
my $socket = FCGI::OpenSocket($path, 1024);
open my $ready, '>&', \*STDOUT or die $!;
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \%ENV, $socket);
my $manager = FCGI::ProcManager->new({ n_processes => $workers });
$manager->pm_manage;
syswrite $ready, "$$\n";

while ($request->Accept >= 0) {
    $manager->pm_pre_dispatch;
    print "Content-Type: text/plain\r\n\r\nhello\n";
    $manager->pm_post_dispatch;
}
