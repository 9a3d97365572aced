#!/bin/sh
# The store's user that the service signs with: it has one bucket, and of the rights in it those of s3-policy.json.
# compose runs this at each start, beside MinIO and as its root user; running it again changes nothing.
# A new STORAGE__SECRET_KEY replaces the former; for another STORAGE__ACCESS_KEY remove the former user yourself.
# No secret is an argument: those of a process can be read by others. Needs nothing but sh and mc.
set -eu
umask 077
work=${TMPDIR:-/tmp}
export MC_CONFIG_DIR="$work/mc"
[ "$STORAGE__ACCESS_KEY" != "$S3_ROOT_USER" ] || { echo "STORAGE__ACCESS_KEY must not be the root user's name" >&2; exit 1; }

printf '%s\n%s\n' "$S3_ROOT_USER" "$S3_ROOT_PASSWORD" | mc alias set store "$S3_ENDPOINT" --api S3v4 >/dev/null
mc mb --ignore-existing "store/$STORAGE__BUCKET_NAME" >/dev/null
while IFS= read -r line; do
  case $line in *BUCKET*) line=${line%%BUCKET*}$STORAGE__BUCKET_NAME${line#*BUCKET} ;; esac
  printf '%s\n' "$line"
done < "$S3_POLICY" > "$work/policy.json"
mc admin policy create store trackshift "$work/policy.json" >/dev/null
printf '%s\n%s\n' "$STORAGE__ACCESS_KEY" "$STORAGE__SECRET_KEY" | mc admin user add store >/dev/null
said=$(mc admin policy attach store trackshift --user "$STORAGE__ACCESS_KEY" 2>&1) || case $said in
  *"already in effect"*) ;;  # an older mc asks for what is so already
  *) printf '%s\n' "$said" >&2; exit 1 ;;
esac
echo "The service's user has the bucket $STORAGE__BUCKET_NAME."
