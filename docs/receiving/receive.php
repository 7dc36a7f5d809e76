<?php
/**
 * Receive crm-sync's deliveries: check the signature, keep each one once.
 *
 *     WEBHOOK_SECRET=whsec_... DELIVERIES=/var/lib/crm/deliveries php -S 127.0.0.1:8000 receive.php
 *
 * Or behind a web server, as any other page. Needs PHP 8.1 and none of its extensions. WEBHOOK_SECRET may
 * hold several secrets with spaces between them, the new one and the old one, while a secret is being changed.
 */

declare(strict_types=1);

const TOLERANCE = 300;             // seconds by which the sender's clock and this one may differ
const LARGEST = 4 * 1024 * 1024;   // bytes; more are not taken in

final class Refused extends Exception
{
}

/** Return the delivery's id if one of the secrets signed exactly these bytes; else throw Refused. */
function verify(array $secrets, array $server, string $body, int $now): string
{
    $id = $server['HTTP_WEBHOOK_ID'] ?? '';
    $timestamp = $server['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    $signatures = $server['HTTP_WEBHOOK_SIGNATURE'] ?? '';
    if ($id === '' || $timestamp === '' || $signatures === '') {
        throw new Refused('webhook-id, webhook-timestamp or webhook-signature is missing', 401);
    }
    if (!preg_match('/^[0-9]{1,12}$/D', $timestamp)) {
        throw new Refused('webhook-timestamp is not a number of seconds', 400);
    }
    if (abs($now - (int) $timestamp) > TOLERANCE) {
        throw new Refused('webhook-timestamp is more than 5 minutes off; check both clocks', 401);
    }
    $good = false;
    foreach ($secrets as $secret) {
        $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $secret, true));
        foreach (explode(' ', $signatures) as $signature) {
            $good = hash_equals($expected, $signature) || $good;
        }
    }
    if (!$good) {
        throw new Refused('no signature fits', 401);
    }
    return $id;
}

/** Return the delivery's type; throw Refused if the body is not what was agreed. */
function read_event(string $body): string
{
    $payload = json_decode($body, true);
    if (json_last_error() !== JSON_ERROR_NONE) {
        throw new Refused('the body is not JSON', 400);
    }
    if (!is_array($payload) || !is_string($payload['type'] ?? null)) {
        throw new Refused('the body is not an object with a type', 400);
    }
    return $payload['type'];
}

/**
 * Keep a delivery; false if it is a repeat.
 *
 * PHP comes without a database, so each one is a file. It gets its name only when it is written whole, and
 * only if nothing has that name: id and work are one step. A CRM uses a unique index and a transaction.
 */
function store(string $folder, string $id, string $body): bool
{
    $name = $folder . '/' . hash('sha256', $id) . '.json';
    $draft = tempnam($folder, 'new');
    $file = $draft === false ? false : fopen($draft, 'wb');
    if ($file === false || fwrite($file, $body) !== strlen($body) || !fsync($file) || !fclose($file)) {
        throw new RuntimeException('the delivery was not written');
    }
    $added = @link($draft, $name);
    unlink($draft);
    if (!$added && !file_exists($name)) {
        throw new RuntimeException('the delivery was not stored');
    }
    return $added;
}

function secrets(): array
{
    $found = [];
    foreach (preg_split('/\s+/', getenv('WEBHOOK_SECRET') ?: '', -1, PREG_SPLIT_NO_EMPTY) as $secret) {
        $found[] = (string) base64_decode(preg_replace('/^whsec_/', '', $secret), true);
    }
    if ($found === [] || in_array('', $found, true)) {
        throw new RuntimeException('WEBHOOK_SECRET is missing, or not whsec_ and base64');
    }
    return $found;
}

function answer(int $status, string $text): void
{
    http_response_code($status);
    header('content-type: text/plain; charset=utf-8');
    echo $text, "\n";
}

if (PHP_SAPI === 'cli') {
    echo "usage: WEBHOOK_SECRET=whsec_... DELIVERIES=FOLDER php -S HOST:PORT receive.php\n";
    exit(0);
}

ini_set('display_errors', '0');   // a warning that is printed would stand in the answer, or send 200 ahead of it
try {
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        throw new Refused('only POST', 405);
    }
    $body = file_get_contents('php://input', length: LARGEST + 1);   // as it came: the signature is of these bytes
    if (strlen($body) > LARGEST) {
        throw new Refused('more than ' . LARGEST . ' bytes', 413);
    }
    $id = verify(secrets(), $_SERVER, $body, time());
    if (read_event($body) === 'ping') {
        answer(200, 'pong');
    } else {
        answer(200, store(getenv('DELIVERIES') ?: 'deliveries', $id, $body) ? 'stored' : 'had it');
    }
} catch (Refused $refused) {
    answer($refused->getCode(), $refused->getMessage());
} catch (RuntimeException $error) {
    answer(503, $error->getMessage());   // it is sent again later
}
