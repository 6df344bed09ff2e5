#!/usr/bin/env bash
# Looks at the example echo_server with curl and the openssl command line, as HTTP and TLS see it:
#
#     http.sh ws://HOST:PORT wss://NAME:PORT CA
#
# The second is the same server with --tls. CA is the PEM file of the CA that has signed its
# certificate, for that name (not an IP address). Prints what it checks. The exit status is 1 if a
# check fails.

set -uo pipefail

if [ $# != 3 ]; then
    echo "usage: $0 ws://HOST:PORT wss://NAME:PORT CA" >&2
    exit 1
fi
plain=http${1#ws}
tls=https${2#wss}
ca=$3
address=${2#wss://}
address=${address%%/*}

# The key and its answer that RFC 6455 has as the example, in section 1.3.
key='dGhlIHNhbXBsZSBub25jZQ=='
accept='s3pPLMBiTxaQ9kYGzzhZRbK+xOo='

upgrade=(--header 'Connection: Upgrade' --header 'Upgrade: websocket')
version=(--header 'Sec-WebSocket-Version: 13')
good=("${upgrade[@]}" "${version[@]}" --header "Sec-WebSocket-Key: $key")
long=$(printf '%030000d' 0)

failures=0
answer=

check() {
    local what=$1
    shift
    if "$@"; then
        echo "  ok: $what"
    else
        failures=$((failures + 1))
        printf '  FAILED: %s; the answer was:\n%s\n' "$what" "${answer:0:2000}"
    fi
}

# Makes one HTTP exchange. A WebSocket stays open after it, so curl listens for a limited time. It
# then ends with status 28, but the answer has what arrived.
ask() {
    answer=$(curl --silent --include --http1.1 --noproxy '*' --max-time "$limit" --cacert "$ca" \
        --write-out '\n(curl says: %{errormsg})\n' "$@" | tr -d '\r\0')
}

# The status line, and with each argument more a line of the head.
says() {
    local head=${answer%%$'\n\n'*} line
    case ${head%%$'\n'*} in "HTTP/1.1 $1 "*) ;; *) return 1 ;; esac
    shift
    for line; do
        grep --quiet --ignore-case --line-regexp --fixed-strings -- "$line" <<<"$head" || return 1
    done
}

curl --version | head -n 1

limit=3
for url in "$plain" "$tls"; do
    ask "${good[@]}" "$url/"
    check "${url%%:*}: a handshake by hand is answered 101, and the key rightly" \
        says 101 'Upgrade: websocket' 'Connection: Upgrade' "Sec-WebSocket-Accept: $accept"
done

limit=20
for url in "$plain" "$tls"; do
    of="${url%%:*}:"
    ask "$url/"
    check "$of no upgrade: 426" says 426 'Upgrade: websocket' 'Sec-WebSocket-Version: 13' \
        'Connection: close, Upgrade'
    check "$of ... and a text that says what this is" grep --quiet WebSocket <<<"${answer#*$'\n\n'}"
    ask "${upgrade[@]}" --header 'Sec-WebSocket-Version: 8' \
        --header "Sec-WebSocket-Key: $key" "$url/"
    check "$of version 8: 426" says 426 'Upgrade: websocket' 'Sec-WebSocket-Version: 13'
    ask --data 'x' "${good[@]}" "$url/"
    check "$of POST: 405" says 405 'Allow: GET'
    ask --head "$url/"
    check "$of HEAD: 405" says 405 'Allow: GET'
    ask "${upgrade[@]}" "${version[@]}" --header 'Sec-WebSocket-Key: short' "$url/"
    check "$of a key that is none: 400" says 400
    ask "${upgrade[@]}" "${version[@]}" "$url/"
    check "$of no key: 400" says 400
    ask "${good[@]}" --header "X-Long: $long" "$url/"
    check "$of a head of 30 kB: 431" says 431
    ask "${good[@]}" "$url/$long"
    check "$of a URL of 30 kB: 414" says 414
done

ask "http://$address/"
check "plain HTTP on the TLS port: 400" says 400

# s_client says what it thinks on standard error and what it received on standard output.
s_client() {
    answer=$(timeout 20 openssl s_client -connect "$address" -CAfile "$ca" -verify_return_error \
        -verify_hostname "${address%:*}" "$@" 2>&1 | tr -d '\r\0')
}

openssl version

s_client -brief </dev/null
check "openssl: the certificate is verified" grep --quiet '^Verification: OK' <<<"$answer"
answer=$(timeout 20 openssl s_client -connect "$address" -verify_return_error -brief \
    </dev/null 2>&1)
check "openssl: ... and is not, without the CA" \
    grep --quiet 'certificate verify failed' <<<"$answer"

# A handshake, and once that is answered a Close frame with code 1000 and a mask of zeros.
by_hand() {
    printf '%s\r\n' 'GET / HTTP/1.1' "Host: $address" 'Connection: Upgrade' 'Upgrade: websocket' \
        'Sec-WebSocket-Version: 13' "Sec-WebSocket-Key: $key" ''
    sleep 0.5
    printf '\x88\x82\x00\x00\x00\x00\x03\xe8'
}
# -msg shows the alerts; -ign_eof leaves the end to the server, and 20 s are the limit for it.
s_client -msg -ign_eof < <(by_hand)
check "openssl: a handshake typed by hand is answered 101" \
    grep --quiet --ignore-case "^Sec-WebSocket-Accept: $accept" <<<"$answer"
check "openssl: the end is a close_notify" grep --quiet '^<<< .*close_notify' <<<"$answer"

[ "$failures" = 0 ]
