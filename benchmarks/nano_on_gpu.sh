#!/usr/bin/env bash
# Train nano from the shipped weights on one GPU with 16 cores, in two calls of at most ten minutes each:
#
#     benchmarks/nano_on_gpu.sh main OUT      # VAE, pose encoder and judges beside the UNet; about 9 minutes
#     benchmarks/nano_on_gpu.sh refine OUT    # the UNet on drawings of its own; about 4 minutes
#
# What comes out lies in OUT/model, and in OUT/parts in pieces under 16 MiB. SCALE=0.02 and WORKERS=1 rehearse it on a
# CPU. The text tower is trained beforehand (`twinact nano train --parts text`), since two cores do that in minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1 out=$2 start=src/twinact/nano/weights
scale=${SCALE:-1} workers=${WORKERS:-7}

minutes() { awk "BEGIN {print $1 * $scale}"; }
batch() { awk "BEGIN {print int($1 * ($scale < 1 ? 1 / 32 : 1))}"; }

train() { # run folder, start, then part=minutes=batch
    local run=$1 from=$2 args=()
    shift 2
    for spec in "$@"; do
        IFS== read -r part time size <<<"$spec"
        args+=(--parts "$part" --set "$part.minutes=$(minutes "$time")" --set "$part.batch_size=$(batch "$size")"
               --set "$part.pictures=100000000")
    done
    python3 -m twinact nano train --out "$run" --start "$from" --workers "$workers" "${args[@]}" \
        --set distinct_pictures="${PICTURES:-700000}" --set drawings="$(batch 96)"
}

if [ "$what" = main ]; then
    train "$out/rest" "$start" vae=1=48 encoder=1.5=256 judges=3.2=256 &
    train "$out/unet" "$start" unet=8=384
    wait $!
    mkdir -p "$out/model" && cp -r "$out/unet/nano/." "$out/model"
    for part in vae action_encoder judges; do cp -r "$out/rest/nano/$part/." "$out/model/$part"; done
else
    # Latents stay the codes of the VAE that the UNet was trained with.
    mkdir -p "$out/before" && cp -r "$out/model/." "$out/before" && cp -r "$start/vae/." "$out/before/vae"
    PICTURES=200000 train "$out/refined" "$out/before" refine=2.9=192
    for part in unet text_encoder; do cp -r "$out/refined/nano/$part/." "$out/model/$part"; done
fi
mkdir -p "$out/parts" && tar c -C "$out" model | split -b 15900000 - "$out/parts/model_"
