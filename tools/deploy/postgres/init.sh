#!/bin/sh
# Once, on an empty database folder ($PGDATA), while nobody is connected: from the next start on a
# commit waits until receive.sh has it on the second disk.
set -eu
echo 'host replication all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
psql --no-psqlrc -U postgres -q -c "ALTER SYSTEM SET synchronous_standby_names = 'chargekeep_wal'"
