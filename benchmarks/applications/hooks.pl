# hooks.pl COUNT: a worker under FCGI::ProcManager that times its two hooks, once for each line that it is sent.

use strict;
use warnings;
use FCGI::ProcManager;
use Time::HiRes qw(clock_gettime CLOCK_PROCESS_CPUTIME_ID);

my ($count) = @ARGV;
my $manager = FCGI::ProcManager->new({ n_processes => 1 });
$manager->pm_manage;
$| = 1;

while (<STDIN>) {
    my $began = clock_gettime(CLOCK_PROCESS_CPUTIME_ID);
    for (1 .. $count) {
        $manager->pm_pre_dispatch;
        $manager->pm_post_dispatch;
    }
    printf "%.4f\n", (clock_gettime(CLOCK_PROCESS_CPUTIME_ID) - $began) * 1e6 / $count;
}
kill TERM => getppid;
