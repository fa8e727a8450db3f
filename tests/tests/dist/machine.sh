# Installs, upgrades, removes and purges the package on a bare Debian. The test reads its output.
export LC_ALL=C
client="nsenter --net=/run/netns/client"
backend="nsenter --net=/run/netns/backend"

step() { echo "@ $*"; }

# Runs a command until it succeeds.
await() {
    for _ in $(seq 240); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    echo "not in time: $*"
    journalctl --no-pager --output=cat --unit=director | tail -n 40
    exit 1
}

attached() { director status --output json | grep -q '"net0"'; }
# Pinned links by inode: a recreated one has another.
links() { ls -i /sys/fs/bpf/director/default/links; }
active() { test "$(systemctl is-active director)" = active; }
answered() { $client perl /host/client.pl; }

step install
dpkg --install /host/director_1.deb
getent group director
test ! -e /sys/fs/bpf/director
systemctl is-enabled director || true
step units
systemd-analyze verify director.service director@b.service director-realserver.service 2>&1 |
    grep -v -e "Command 'man" || true
systemd-analyze security --no-pager director.service | tail -n 1

step network
ip netns add client
ip netns add backend
ip link add net0 type veth peer name eth0 netns client
ip link add net1 type veth peer name eth0 netns backend
ip address add 10.0.1.1/24 dev net0
ip address add 10.0.2.1/24 dev net1
ip link set net0 up
ip link set net1 up mtu 1520
# Backends reply to clients directly: the director has the VIP, and would drop the answers as
# forged.
ip -netns client link add back type veth peer name eth1 netns backend
for side in client:1:back backend:2:eth1; do
    name=${side%%:*} rest=${side#*:}
    inside="nsenter --net=/run/netns/$name"
    $inside ip link set lo up
    $inside ip link set eth0 up mtu 1520
    $inside ip address add "10.0.${rest%:*}.2/24" dev eth0
    $inside ip link set "${rest#*:}" up
    $inside ip address add "10.0.3.${rest%:*}/24" dev "${rest#*:}"
done
$client ip route add 192.0.2.10 via 10.0.1.1
$backend ip route add 10.0.1.0/24 via 10.0.3.1
$client ip link set eth0 mtu 1500
ip link set net0 mtu 1500
# The client computes checksums itself: its NIC does not support the tunnel.
$client perl /host/offload.pl
$backend perl /host/server.pl >/dev/null 2>&1 &

step realserver
mkdir -p /etc/systemd/system/director-realserver.service.d
printf '[Service]\nNetworkNamespacePath=/run/netns/backend\n' \
    >/etc/systemd/system/director-realserver.service.d/backend.conf
echo 'REALSERVER_OPTIONS="--vip 192.0.2.10 --from 10.0.2.1"' >/etc/default/director-realserver
systemctl daemon-reload
systemctl start director-realserver || {
    journalctl --no-pager --output=cat --unit=director-realserver
    exit 1
}
systemctl is-active director-realserver
$backend ip address show dev lo
$backend ip -details link show eth0 | grep -o -m 1 prog/xdp

step start
# An emulated machine on a busy host may stall longer than a real one.
mkdir -p /etc/systemd/system/director.service.d
printf '[Service]\nTimeoutStartSec=10min\nWatchdogSec=2min\n' \
    >/etc/systemd/system/director.service.d/slow.conf
systemctl daemon-reload
cp /host/director.yaml /etc/director/director.yaml
systemctl start director || { journalctl --no-pager --output=cat --unit=director; exit 1; }
await attached
systemctl is-active director
await answered
answered
step doctor
director doctor

step clock
for day in 2033-01-01 2020-01-01; do
    date --set="$day" >/dev/null
    # Checks run every second, and would have failed three times.
    sleep 6
    answered
    director services | awk '$1 == "web" { print $4 }'
done
systemctl is-active director
journalctl --no-pager --output=cat --unit=director | grep -c -e '-> down' || true

step instance
ip link add net2 type veth peer name net3
ip link set net2 up
ip link set net3 up
ip address add 10.0.4.1/24 dev net2
cp /host/b.yaml /etc/director/b.yaml
mkdir -p /etc/systemd/system/director@.service.d
cp /etc/systemd/system/director.service.d/slow.conf /etc/systemd/system/director@.service.d/
systemctl daemon-reload
systemctl start director@b || {
    journalctl --no-pager --output=cat --unit=director@b
    exit 1
}
systemctl is-active director@b
director services --instance b
director services
answered

step reload
systemctl reload director
await active

step upgrade
before=$(links)
echo "$before"
pid=$(systemctl show --property=MainPID --value director)
dpkg --install /host/director_2.deb
await attached
systemctl is-active director
test "$pid" != "$(systemctl show --property=MainPID --value director)"
echo "then $(links)"
test "$before" = "$(links)"
test -n "$before"
cmp /host/director.yaml /etc/director/director.yaml
answered

step stop
systemctl stop director
attached
answered

step remove
systemctl start director
dpkg --remove director
ls -d /sys/fs/bpf/director 2>&1 || true
ip -details link show net0 | grep -c xdp || true
ip -details link show net2 | grep -c xdp || true
$backend ip -details link show eth0 | grep -c xdp || true
ip address show dev net0 | grep -c 192.0.2.10 || true
test -e /etc/director/director.yaml
rm /etc/director/b.yaml

step purge
dpkg --purge director
ls -d /etc/director /var/lib/director /run/director 2>&1 || true
