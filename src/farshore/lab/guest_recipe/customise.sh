#!/bin/sh
# Runs inside the new root file system, once, after all packages are there. Its environment: DATABASE_SCALE.
# The database password comes in the file /root/.demo-password, which this script removes.
set -eu

echo onprem > /etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 onprem\n' > /etc/hosts
: > /etc/machine-id
ln -sf /usr/share/zoneinfo/UTC /etc/localtime
mkdir -p /var/log/journal

# SSH: one host key, the kind that is cheap to make and to check.
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
chmod 0700 /root/.ssh
chmod 0600 /root/.ssh/authorized_keys
chown -R root:root /root/.ssh

systemctl enable systemd-networkd.service serial-getty@ttyS0.service ssh.service
for unit in systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service systemd-pstore.service; do
	systemctl disable "$unit" 2>/dev/null || true
done
for unit in systemd-networkd-wait-online.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-binfmt.service sys-kernel-debug.mount dev-hugepages.mount dev-mqueue.mount \
	systemd-network-generator.service; do
	systemctl mask "$unit"
done

# PostgreSQL: checksums, an administrator that logs in from outside, and the load's tables.
cluster=/var/lib/postgresql/15/main
settings=/etc/postgresql/15/main
bin=/usr/lib/postgresql/15/bin
install -o postgres -g postgres -m 0644 /root/postgresql.conf "$settings/conf.d/lab.conf"
printf 'host all demo 0.0.0.0/0 scram-sha-256\n' >> "$settings/pg_hba.conf"
setpriv --reuid=postgres --regid=postgres --init-groups "$bin/pg_checksums" --enable -D "$cluster" >/dev/null
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups --reset-env "$@"; }
mkdir -p /run/postgresql
chown postgres:postgres /run/postgresql
as_postgres "$bin/pg_ctl" -w -s -D "$cluster" -l /tmp/build-postgres.log start \
	-o "-c config_file=$settings/postgresql.conf -c listen_addresses= -c fsync=off -c ssl=off"
{
	printf "CREATE ROLE demo LOGIN SUPERUSER PASSWORD '%s';\n" "$(cat /root/.demo-password)"
	# printf, because this shell's echo takes \c for its own.
	printf '%s\n' 'CREATE DATABASE demo OWNER demo;' '\connect demo' 'CREATE EXTENSION amcheck;' \
		'CREATE TABLE counter (n bigint PRIMARY KEY, at timestamptz NOT NULL);' 'ALTER TABLE counter OWNER TO demo;'
} | as_postgres "$bin/psql" -q -v ON_ERROR_STOP=1 -d postgres
as_postgres "$bin/pgbench" -q -i -s "$DATABASE_SCALE" demo 2>/dev/null
as_postgres "$bin/psql" -q -d demo -c 'VACUUM ANALYZE' -c CHECKPOINT
as_postgres "$bin/pg_ctl" -w -s -D "$cluster" -m fast stop
sed -i 's/^ssl = on/ssl = off/' "$settings/postgresql.conf"
rm -f /tmp/build-postgres.log

# What only building needed.
rm -f /root/postgresql.conf /root/.demo-password /etc/resolv.conf
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/apt /var/log/*.log /usr/share/locale/*
