#!/busybox/sh
# The appliance's first program. It makes devices of what QEMU has, and gives the program the wire to the host.
export PATH=/busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
for module in virtio_pci virtio_blk virtio_console; do /sbin/modprobe "$module"; done
# A port's name arrives by a message of its own, a moment after the port.
port() {
    while true; do
        for name in /sys/class/virtio-ports/*/name; do
            if [ "$(cat "$name" 2>/dev/null)" = "$1" ]; then
                name=${name%/name}
                echo "/dev/${name##*/}"
                return
            fi
        done
        usleep 10000
    done
}
wire=$(port wire)
life=$(port life)
# The host's process is gone when this port ends. Its disks are gone too, so nothing that waits for them (xfs does so
# for ever) may hold up the end: no sync.
(cat "$life" >/dev/null; poweroff -n -f) &
# Opened once for good: whatever the host has sent is lost whenever the port is closed.
exec 3<>"$wire"
echo ready >&3
/program <&3 >&3
sync
poweroff -f
