#!/bin/sh
# Runs inside the appliance's new root file system, once, after all packages are there. /wheels has the Python packages.
set -eu

python3 -m venv /opt/farshore
/opt/farshore/bin/pip install --quiet --no-index --find-links /wheels --require-hashes --no-deps \
	--requirement /wheels/requirements.txt
/opt/farshore/bin/pip install --quiet --no-index --no-deps /wheels/farshore-*.whl
# The kernel writes no bytecode below /opt: the service may not.
/opt/farshore/bin/python -m compileall -q -j 2 /opt/farshore/lib >/dev/null || true
for command in farshore farshore-process-server farshore-master-target; do
	ln -s /opt/farshore/bin/$command /usr/local/bin/$command
done
/opt/farshore/bin/farshore --version

echo farshore > /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 farshore\n' > /etc/hosts
: > /etc/machine-id
ln -sf /usr/share/zoneinfo/UTC /etc/localtime
mkdir -p /var/log/journal
systemd-sysusers

# Nobody can log in before the console has asked for a password, and nobody shares a host key with another appliance.
passwd --lock root
rm -f /etc/ssh/ssh_host_*
systemctl disable ssh.service
systemctl enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service \
	farshore-console@tty1.service farshore-console@ttyS0.service
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service; do
	systemctl disable "$unit" 2>/dev/null || true
done

rm -rf /wheels /var/cache/apt/* /var/lib/apt/lists/* /var/log/apt /var/log/*.log
# Made by systemd-resolved at each start.
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
