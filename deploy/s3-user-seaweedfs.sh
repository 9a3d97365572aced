#!/bin/sh
# The store's user that the service signs with: it has one bucket. And the rule by which SeaweedFS syncs what is PUT there before
# it answers. compose runs this at each start, beside SeaweedFS; running it again changes nothing.
# A new key is added to the former: remove that by `s3.configure -user=trackshift -access_key=FORMER -delete -apply`.
# No secret is an argument or is printed. Needs nothing but sh and weed.
set -eu
weed shell "-master=$WEED_MASTER" "-filer=$WEED_FILER" >/dev/null <<END
lock
fs.configure -locationPrefix=/buckets/$STORAGE__BUCKET_NAME/ -fsync -apply
s3.configure -user=trackshift -access_key=$STORAGE__ACCESS_KEY -secret_key=$STORAGE__SECRET_KEY -buckets=$STORAGE__BUCKET_NAME -actions=Read,Write,List,Tagging -apply
unlock
END
echo "The service's user has the bucket $STORAGE__BUCKET_NAME, which syncs each PUT."
