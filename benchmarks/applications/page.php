<?php
// The application under php-fpm.
$size = $_SERVER['QUERY_STRING'];
$received = empty($_SERVER['CONTENT_LENGTH']) ? 0 : strlen(file_get_contents('php://input'));
header('Content-Type: text/plain');
header("Content-Length: $size");
echo $size === '12' ? sprintf('%012d', $received) : str_repeat('x', (int) $size);
