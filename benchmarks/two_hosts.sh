#!/bin/bash
# Train a run in two processes that are connected by a network: two network namespaces of Linux and
# a pair of virtual interfaces between them, which are removed at the end. Needs root and `ip`.
#
#     sudo -E bash benchmarks/two_hosts.sh photos/ -k 5 run.device=cpu --out two
#
# The arguments are those of `picie train`. At the end it prints the bytes that were exchanged.
set -e
python=${PYTHON:-python}
other=
cleanup() {
    [ -z "$other" ] || kill "$other" 2>/dev/null || true
    ip netns del picie-a 2>/dev/null || true
    ip netns del picie-b 2>/dev/null || true
}
trap cleanup EXIT
ip netns add picie-a
ip netns add picie-b
ip link add va netns picie-a type veth peer name vb netns picie-b
for side in a:1 b:2; do
    name=${side%:*}
    ip -n "picie-$name" addr add "10.77.0.${side#*:}/24" dev "v$name"
    ip -n "picie-$name" link set lo up
    ip -n "picie-$name" link set "v$name" up
done
run() { # a or b, the number of the host, arguments
    GLOO_SOCKET_IFNAME=v$1 ip netns exec "picie-$1" "$python" -m torch.distributed.run --nnodes 2 --node-rank "$2" \
        --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29400 -m picie train "${@:3}"
}
run b 1 "$@" &
other=$!
run a 0 "$@"
wait $other
ip -n picie-a -s link show va
