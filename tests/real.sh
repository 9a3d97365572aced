#!/usr/bin/env bash
# Runs the integration suite on a real PostgreSQL (Debian's package) and a real MinIO (built from source, cached), there as
# a user with the rights of deploy/s3-policy.json.
# Both are started on private loopback ports with private data folders, and stopped whatever happens.
#   tests/real.sh [pytest arguments]        environment: PY, MINIO (binary), POSTGRES_BIN (folder), KEEP=1 (data folder)
set -euo pipefail
cd "$(dirname "$0")/.."
PY="${PY:-$PWD/.venv/bin/python}"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/trackshift"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'test-real: %s\n' "$*" >&2; exit 1; }

# ---- PostgreSQL's programs
find_postgres() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -Vr | head -1 || true; }
POSTGRES="${POSTGRES_BIN:-$(find_postgres)}"
if [ -z "$POSTGRES" ]; then
  command -v apt-get >/dev/null || die "no PostgreSQL: set POSTGRES_BIN to the folder that holds initdb"
  [ "$(id -u)" = 0 ] || die "no PostgreSQL: sudo apt-get install postgresql"
  say "Installing Debian's postgresql"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
  # Only the programs: no server of Debian's own is set up and started on port 5432.
  sed -i.trackshift 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
  apt-get install -y -qq --no-install-recommends postgresql >/dev/null
  mv /etc/postgresql-common/createcluster.conf.trackshift /etc/postgresql-common/createcluster.conf
  POSTGRES="$(find_postgres)"
fi
[ -x "$POSTGRES/initdb" ] || die "no initdb in $POSTGRES"

# ---- MinIO's program
MINIO="${MINIO:-$(command -v minio || true)}"
if [ -z "$MINIO" ]; then
  MINIO="$CACHE/bin/minio"
  if [ ! -x "$MINIO" ]; then
    command -v go >/dev/null || die "no minio and no go to build it with: set MINIO to a binary"
    say "Building MinIO (go install github.com/minio/minio@latest), some minutes; kept in $MINIO"
    GOBIN="$CACHE/bin" go install github.com/minio/minio@latest
  fi
fi

# ---- A place, ports, credentials. The passwords hold what URLs stumble over.
WORK="$(mktemp -d "${TMPDIR:-/tmp}/trackshift-real.XXXXXX")"
chmod 755 "$WORK"
RUNNING=()
cleanup() {
  local status=$? pid
  trap - EXIT INT TERM
  for pid in ${RUNNING[@]+"${RUNNING[@]}"}; do kill -INT "$pid" 2>/dev/null || true; done
  for pid in ${RUNNING[@]+"${RUNNING[@]}"}; do
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if [ "${KEEP:-}" = 1 ]; then echo "kept: $WORK"; else rm -rf "$WORK"; fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

read -r DB_PORT S3_PORT < <("$PY" -c '
import socket
socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in socks))')
random() { "$PY" -c 'import secrets; print(secrets.token_hex(12))'; }
export TEST_DB__HOST=127.0.0.1 TEST_DB__PORT="$DB_PORT" TEST_DB__NAME=trackshift_test TEST_DB__USER=trackshift_test
TEST_DB__PASSWORD="p@ss/:#?%25 $(random)"
export TEST_STORAGE__ENDPOINT="127.0.0.1:$S3_PORT" TEST_STORAGE__ACCESS_KEY=trackshift-test
TEST_STORAGE__SECRET_KEY="s3/+$(random)"
# The tests' user has the rights of deploy/s3-policy.json; root makes it, and buckets for the tests of the policy.
export MINIO_TEST__ENDPOINT="$TEST_STORAGE__ENDPOINT" MINIO_TEST__ROOT_USER=trackshift-root
MINIO_TEST__ROOT_PASSWORD="root/+$(random)"
export MINIO_TEST__ROOT_PASSWORD
export TEST_DB__PASSWORD TEST_STORAGE__SECRET_KEY

# ---- PostgreSQL. It refuses root, so as root it runs as Debian's user `postgres`.
AS=()
mkdir "$WORK/postgres"
printf '%s' "$TEST_DB__PASSWORD" > "$WORK/postgres/password"
if [ "$(id -u)" = 0 ]; then
  AS=(setpriv --reuid=postgres --regid=postgres --clear-groups env HOME="$WORK/postgres")
  chown -R postgres: "$WORK/postgres"
fi
say "$("$POSTGRES/postgres" --version) on 127.0.0.1:$DB_PORT"
(cd "$WORK/postgres" && ${AS[@]+"${AS[@]}"} "$POSTGRES/initdb" -D data -U "$TEST_DB__USER" --auth=scram-sha-256 \
  --pwfile=password --encoding=UTF8 --locale=C.UTF-8 > initdb.log 2>&1) || { cat "$WORK/postgres/initdb.log"; die "initdb failed"; }
cd "$WORK/postgres"
${AS[@]+"${AS[@]}"} "$POSTGRES/postgres" -D data -p "$DB_PORT" -c listen_addresses=127.0.0.1 \
  -c unix_socket_directories= -c max_connections=300 > "$WORK/postgres.log" 2>&1 < /dev/null &
RUNNING+=("$!")
cd "$OLDPWD"

# ---- MinIO
say "$("$MINIO" --version | head -1) on $TEST_STORAGE__ENDPOINT"
MINIO_ROOT_USER="$MINIO_TEST__ROOT_USER" MINIO_ROOT_PASSWORD="$MINIO_TEST__ROOT_PASSWORD" MINIO_UPDATE=off MINIO_BROWSER=off \
  "$MINIO" server --quiet --address "$TEST_STORAGE__ENDPOINT" "$WORK/minio" > "$WORK/minio.log" 2>&1 < /dev/null &
RUNNING+=("$!")

# ---- Both answer, then the database
"$PY" - <<'PYTHON' || { tail -n 20 "$WORK/postgres.log" "$WORK/minio.log"; die "a server did not come up"; }
import asyncio, os, sys, time, urllib.request
import asyncpg

async def database() -> None:
    env = os.environ
    connection = await asyncpg.connect(
        host=env["TEST_DB__HOST"], port=int(env["TEST_DB__PORT"]), user=env["TEST_DB__USER"],
        password=env["TEST_DB__PASSWORD"], database="postgres", timeout=3,
    )
    await connection.execute(f'CREATE DATABASE "{env["TEST_DB__NAME"]}"')
    await connection.close()

def store() -> None:
    urllib.request.urlopen(f"http://{os.environ['TEST_STORAGE__ENDPOINT']}/minio/health/ready", timeout=3).close()

for what in (lambda: asyncio.run(database()), store):
    deadline = time.monotonic() + 30
    while True:
        try:
            what()
            break
        except Exception as error:
            if time.monotonic() > deadline:
                sys.exit(f"not up after 30 s: {error!r}")
            time.sleep(0.2)
PYTHON

say "A user with the rights of deploy/s3-policy.json"
"$PY" -m tests.s3_policy

if [ "${SERVERS_ONLY:-}" = 1 ]; then  # for work by hand: prints what to export, waits for Ctrl-C
  env | grep -E '^(TEST_[DS]|MINIO_TEST__)' | sort
  wait
fi
say "The integration suite"
"$PY" -m pytest tests/integration "$@"
if [ "$#" = 0 ]; then
  say "The Dockerfile's steps, served from these servers"
  "$PY" -m deploy.docker_steps
fi
