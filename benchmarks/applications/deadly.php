<?php
// The application of page.php, and one address that kills the process that answers it.
if ($_SERVER['PATH_INFO'] === '/deadly') {
    posix_kill(getmypid(), 11);
}
require __DIR__ . '/page.php';
