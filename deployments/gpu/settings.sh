# shellcheck shell=bash
# What every process of a run is started with; to be sourced. The same as in deployments/README.md, and, for Dask, as in the
# clusters that stabdask starts itself.

# One thread in BLAS, and freed memory kept for the next batch.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
export MALLOC_TRIM_THRESHOLD_=536870912 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_ARENA_MAX=1
# Numbers of GPUs are those of nvidia-smi.
export CUDA_DEVICE_ORDER=PCI_BUS_ID

export DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=3
export DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=60s
export DASK_DISTRIBUTED__COMM__RETRY__COUNT=3
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False
export DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL=100ms
export DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=200ms

say() { echo "$(basename "$0" .sh): $*" >&2; }
fail() { say "$*"; exit 2; }

need() { # command, where to get it
    command -v "$1" > /dev/null || fail "no $1 on PATH; $2"
}

use_tls() { # folder with the certificates: who has none of this authority is refused
    local file role
    for file in ca.pem cert.pem key.pem; do
        [ -r "$1/$file" ] || fail "cannot read $1/$file; make it with deployments/make-certificates.sh $1"
    done
    export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
    export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=$1/ca.pem
    for role in SCHEDULER WORKER CLIENT; do
        export "DASK_DISTRIBUTED__COMM__TLS__${role}__CERT=$1/cert.pem"
        export "DASK_DISTRIBUTED__COMM__TLS__${role}__KEY=$1/key.pem"
    done
}

visible_gpus() { # prints how many GPUs there are for us; says which, and fails where one is full
    need nvidia-smi "it comes with the NVIDIA driver; is this a machine with GPUs?"
    local listing index name free mode
    local which=()
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        [ -n "$CUDA_VISIBLE_DEVICES" ] || fail "CUDA_VISIBLE_DEVICES is empty, which hides every GPU; unset it"
        which=(--id="$CUDA_VISIBLE_DEVICES")
    fi
    listing=$(nvidia-smi "${which[@]}" --query-gpu=index,name,memory.free,compute_mode --format=csv,noheader,nounits) ||
        fail "nvidia-smi fails: $listing"
    [ -n "$listing" ] || fail "nvidia-smi lists no GPU"
    while IFS=, read -r index name free mode; do
        say "GPU $index:$name,$free MiB free"
        [ "${free//[!0-9]/}" -ge "${MIN_FREE_MIB:-2048}" ] ||
            fail "GPU $index has$free MiB free, less than ${MIN_FREE_MIB:-2048}: another process has it. Leave it out with" \
                "CUDA_VISIBLE_DEVICES, or set MIN_FREE_MIB"
        case $mode in *Prohibited*) fail "GPU $index is in compute mode Prohibited; leave it out with CUDA_VISIBLE_DEVICES" ;; esac
    done <<< "$listing"
    wc -l <<< "$listing" | tr -d ' '
}
