#!/bin/sh
# receive.sh FOLDER: writes every change of the database into FOLDER/wal as it is committed.
# PGHOST, PGUSER and PGPASSWORD say which database.
set -eu
mkdir -p "$1/wal"
export PGAPPNAME=chargekeep_wal
pg_receivewal --slot chargekeep --create-slot --if-not-exists
exec pg_receivewal --slot chargekeep --synchronous --directory "$1/wal"
