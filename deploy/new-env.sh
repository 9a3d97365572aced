#!/bin/sh
# Prints a `.env` for compose: secrets made anew, and the names that clients use.
#   (umask 077; sh deploy/new-env.sh [SERVICE_NAME STORE_NAME] > .env)        e.g. ingest.example.com frames.example.com
# Without names: for this machine alone. Needs openssl. Never write it over a file that is in use: SECRETS__KEYS encrypts camera URLs.
set -eu
secret() { openssl rand -hex 24; }
cat <<END
# Secrets. Keep a copy of SECRETS__KEYS elsewhere: without it camera URLs cannot be read.
DB__PASSWORD=$(secret)
S3_ROOT_PASSWORD=$(secret)
STORAGE__ACCESS_KEY=$(openssl rand -hex 10)
STORAGE__SECRET_KEY=$(secret)
REDIS__PASSWORD=$(secret)
GRAFANA_PASSWORD=$(secret)
SECRETS__KEYS=["$(openssl rand -base64 32 | tr '+/' '-_')"]
END
[ $# -eq 2 ] || exit 0
cat <<END

# Names of this service and its store; docker compose serves them by TLS.
COMPOSE_PROFILES=tls
PUBLIC_URL=https://$1
STORAGE__PUBLIC_ENDPOINT=https://$2
# internal: certificates of an authority of the proxy's own. An e-mail address: Let's Encrypt's.
PROXY_TLS=internal
END
