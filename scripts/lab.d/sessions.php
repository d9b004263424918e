<?php
// A PHP server that keeps its sessions in a directory of its own: what Sessions.java is, in PHP. NAME in the environment is the server's.
session_start();
$known = isset($_SESSION['visits']);
$_SESSION['visits'] = 1 + ($_SESSION['visits'] ?? 0);
$visits = $_SESSION['visits'];
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
if ($path === '/login') {
    session_regenerate_id(true);
} elseif ($path === '/logout') {
    session_destroy();
    setcookie(session_name(), '', 1, '/');
}
$page = getenv('NAME') . ' php ' . ($known ? 'known ' : 'new ') . $visits . "\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($page));
echo $page;
