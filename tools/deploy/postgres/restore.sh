#!/bin/sh
# restore.sh FOLDER DATA: the database as of its last commit, into the empty folder DATA.
# Start PostgreSQL on it, then receive.sh and a new backup.sh.
set -eu
cp -a "$1/base/." "$2/"
chmod 700 "$2"
from="$1/wal/%f"
echo "restore_command = 'cp \"$from\" \"%p\" || cp \"$from.partial\" \"%p\"'" >>"$2/postgresql.auto.conf"
touch "$2/recovery.signal"
