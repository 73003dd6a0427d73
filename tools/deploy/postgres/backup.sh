#!/bin/sh
# backup.sh FOLDER: a new base for restore.sh in FOLDER/base; daily, say. Changes from before it go.
set -eu
rm -rf "$1/base.new"
pg_basebackup --pgdata "$1/base.new" --wal-method none --checkpoint fast
first=$(sed -n 's/^START WAL LOCATION.*file \([0-9A-F]*\).*/\1/p' "$1/base.new/backup_label")
rm -rf "$1/base"
mv "$1/base.new" "$1/base"
pg_archivecleanup "$1/wal" "$first"
