#!/usr/bin/env bash
# Makes what scheduler, workers and clients of one Dask cluster know each other by:
#     make-certificates.sh FOLDER [DAYS]
# FOLDER, which must not exist, gets ca.pem, cert.pem and key.pem, readable by you alone. The key of the authority is thrown
# away: nobody can make another certificate that this cluster would trust.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: make-certificates.sh FOLDER [DAYS]" >&2
    exit 2
fi
folder=$1
days=${2:-30}
command -v openssl > /dev/null || { echo "make-certificates: no openssl on PATH; install it" >&2; exit 2; }

umask 077
mkdir "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${new_key[@]}" -days "$days" -subj "/CN=stabdask authority" \
    -addext "keyUsage=critical,keyCertSign" -keyout "$work/ca-key.pem" -out "$folder/ca.pem" 2> "$work/log" ||
    { cat "$work/log" >&2; exit 1; }
cat > "$work/leaf.ext" << 'EXT'
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
EXT
{
    openssl req "${new_key[@]}" -subj "/CN=stabdask" -keyout "$folder/key.pem" -out "$work/request.pem"
    openssl x509 -req -in "$work/request.pem" -days "$days" -CA "$folder/ca.pem" -CAkey "$work/ca-key.pem" \
        -set_serial 1 -extfile "$work/leaf.ext" -out "$folder/cert.pem"
} 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
echo "make-certificates: $folder/{ca,cert,key}.pem, for $days days" >&2
